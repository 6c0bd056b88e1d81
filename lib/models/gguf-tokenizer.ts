// The vocabulary of a GGUF file as tokenizer.json and its companions, such that texts are encoded as llama.cpp encodes them.
// Source: ggml-org/llama.cpp, src/llama-vocab.cpp.
import { GgufFields } from "../containers/gguf-fields.ts"
import type { GgufMetadata } from "../containers/gguf-types.ts"
import { TsqError } from "../core/errors.ts"
import { describe, listChoices } from "../core/options.ts"
import { type Merge, mergesOfScores } from "./gguf-merges.ts"
import { type PreTokenizer, preTokenizerJson, preTokenizerNamed } from "./gguf-pre.ts"
import { type SpecialToken, specialTokenId, takesSpaces, tokensKey, tokenTypes, tokenTypesKey } from "./gguf-special.ts"

/** What `new Tokenizer(path, json, config, templates)` takes. */
export interface TokenizerParts {
  /** tokenizer.json. */
  json: Record<string, unknown>
  /** tokenizer_config.json, without the chat templates. */
  config: Record<string, unknown>
  /** Chat templates by name. */
  templates: Map<string, string>
}

/** Values of tokenizer.ggml.model: byte-level BPE, and SentencePiece's BPE with byte tokens. */
export const tokenizerModels = { byteLevel: "gpt2", sentencePiece: "llama" } as const

export const space = "▁"

interface Vocabulary {
  tokens: readonly string[]
  types: ArrayLike<number>
  ids: ReadonlyMap<string, number>
}

/**
 * ERR_FORMAT and ERR_CORRUPT, naming file, key, found and expected, for what does not fit; ERR_UNSUPPORTED for other models of a
 * tokenizer and for an unknown tokenizer.ggml.pre. What llama.cpp does not do (Unicode normalisation, say) is not done here either.
 */
export function tokenizerOfGguf(metadata: GgufMetadata, path: string): TokenizerParts {
  const fields = new GgufFields(metadata, path)
  const model = fields.string("tokenizer.ggml.model")
  const models: readonly string[] = Object.values(tokenizerModels)
  if (!models.includes(model))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${path}: metadata tokenizer.ggml.model is ${describe(model)}; supported are ${listChoices(models)}`,
    )
  const vocabulary = readVocabulary(fields)
  const parts =
    model === tokenizerModels.byteLevel ? byteLevelParts(fields, vocabulary) : sentencePieceParts(fields, vocabulary)
  const text = (token: SpecialToken) => {
    const id = specialTokenId(fields, token)
    return id === null ? null : vocabulary.tokens[id]!
  }
  const adds = (token: "bos" | "eos", otherwise: boolean) => {
    const added = fields.flag(`tokenizer.ggml.add_${token}_token`, otherwise)
    if (added && text(token) === null)
      fields.fail(`tokenizer.ggml.${token}_token_id`, `a token id: texts of this model get such a token`)
    return added
  }
  const [addBos, addEos] = [adds("bos", parts.addBos), adds("eos", false)]
  const around = (token: "bos" | "eos", added: boolean) =>
    added ? [{ text: text(token)!, id: specialTokenId(fields, token)! }] : []
  return {
    json: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: addedTokens(vocabulary, fields.string("general.name", "")),
      ...parts.json,
      post_processor: postProcessor(around("bos", addBos), around("eos", addEos)),
    },
    config: {
      tokenizer_class: "PreTrainedTokenizerFast",
      bos_token: text("bos"),
      eos_token: text("eos"),
      unk_token: text("unk"),
      pad_token: text("pad"),
      add_bos_token: addBos,
      add_eos_token: addEos,
      clean_up_tokenization_spaces: false,
    },
    templates: readTemplates(fields),
  }
}

function readVocabulary(fields: GgufFields): Vocabulary {
  // llama.cpp names empty tokens so.
  const tokens = fields.strings(tokensKey).map((text, id) => (text === "" ? `[EMPTY_${id}]` : text))
  if (tokens.length === 0) fields.fail(tokensKey, "at least one token")
  const types = fields.integers(tokenTypesKey)
  checkLength(fields, tokenTypesKey, types, tokens.length)
  const ids = new Map<string, number>()
  for (const [id, text] of tokens.entries()) {
    const other = ids.get(text)
    if (other !== undefined)
      throw corrupt(fields, `${tokensKey} has ${describe(text)} twice, as ids ${other} and ${id}`)
    ids.set(text, id)
    const type = types[id]!
    if (!(type >= tokenTypes.undefined && type <= tokenTypes.byte))
      throw corrupt(fields, `${tokenTypesKey}[${id}] is ${type}, expected 0 to ${tokenTypes.byte}`)
  }
  return { tokens, types, ids }
}

const corrupt = (fields: GgufFields, what: string) => new TsqError("ERR_CORRUPT", `${fields.path}: metadata ${what}`)

function checkLength(fields: GgufFields, key: string, values: ArrayLike<unknown>, expected: number): void {
  if (values.length !== expected)
    throw corrupt(fields, `${key} has ${values.length} elements, expected ${expected}, as many as ${tokensKey} has`)
}

/** Ids that the vocabulary is padded with have no token: they encode nothing, and decode to nothing. */
function vocabOf({ tokens, types }: Vocabulary): Record<string, number> {
  const entries: [string, number][] = []
  for (const [id, text] of tokens.entries())
    if (types[id] !== tokenTypes.unused || text !== paddingToken(id)) entries.push([text, id])
  return Object.fromEntries(entries)
}

/** The name of an id without a token, in files that llama.cpp's converter and this library write. */
export const paddingToken = (id: number) => `[PAD${id}]`

/** Tokens that are found in a text before anything else is done with it. */
function addedTokens({ tokens, types }: Vocabulary, name: string): Record<string, unknown>[] {
  const added: Record<string, unknown>[] = []
  for (const [id, content] of tokens.entries()) {
    const special = types[id] === tokenTypes.control || types[id] === tokenTypes.unknown
    if (!special && types[id] !== tokenTypes.user) continue
    const rstrip = takesSpaces(name, content)
    added.push({ id, content, single_word: false, lstrip: false, rstrip, normalized: false, special })
  }
  return added
}

interface ModelParts {
  json: { normalizer: unknown; pre_tokenizer: unknown; decoder: unknown; model: Record<string, unknown> }
  /** Whether a text gets a BOS where the file does not say. */
  addBos: boolean
}

const bpe = { type: "BPE", dropout: null, continuing_subword_prefix: null, end_of_word_suffix: null }

function byteLevelParts(fields: GgufFields, vocabulary: Vocabulary): ModelParts {
  const pre: PreTokenizer = preTokenizerNamed(fields.string("tokenizer.ggml.pre", "default"), fields.path)
  const model = {
    ...bpe,
    ...{ unk_token: null, fuse_unk: false, byte_fallback: false, ignore_merges: pre.ignoreMerges ?? false },
    vocab: vocabOf(vocabulary),
    merges: readMerges(fields, vocabulary),
  }
  const decoder = { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true }
  return {
    json: { normalizer: null, pre_tokenizer: preTokenizerJson(pre), decoder, model },
    addBos: pre.addBos ?? false,
  }
}

/** "left right", by rank; of a merge that comes twice the first counts. A merge of what is no token never happens. */
function readMerges(fields: GgufFields, { ids }: Vocabulary): Merge[] {
  const key = "tokenizer.ggml.merges"
  const seen = new Set<string>()
  const merges: Merge[] = []
  for (const [rank, text] of fields.strings(key).entries()) {
    const at = text.indexOf(" ", 1)
    if (at < 0 || at === text.length - 1)
      throw corrupt(fields, `${key}[${rank}] is ${describe(text)}, expected two tokens with a space between them`)
    if (seen.has(text)) continue
    seen.add(text)
    const [left, right] = [text.slice(0, at), text.slice(at + 1)]
    if (!ids.has(left + right))
      throw corrupt(fields, `${key}[${rank}] is ${describe(text)}, and ${describe(left + right)} is no token`)
    merges.push([left, right])
  }
  return merges
}

function sentencePieceParts(fields: GgufFields, vocabulary: Vocabulary): ModelParts {
  const { tokens } = vocabulary
  const unknown = specialTokenId(fields, "unk")
  checkByteTokens(fields, vocabulary, unknown !== null)
  const scoresKey = "tokenizer.ggml.scores"
  const scores = fields.numbers(scoresKey)
  checkLength(fields, scoresKey, scores, tokens.length)
  for (let id = 0; id < tokens.length; id++)
    if (Number.isNaN(scores[id])) throw corrupt(fields, `${scoresKey}[${id}] is not a number`)
  const prefix = fields.flag("tokenizer.ggml.add_space_prefix", true)
  const replace = { type: "Replace", pattern: { String: " " }, content: space }
  const decoders = [
    { type: "Replace", pattern: { String: space }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
  ]
  const strip = { type: "Strip", content: " ", start: 1, stop: 0 }
  return {
    json: {
      normalizer: {
        type: "Sequence",
        normalizers: [...(prefix ? [{ type: "Prepend", prepend: space }] : []), replace],
      },
      pre_tokenizer: null,
      decoder: { type: "Sequence", decoders: [...decoders, ...(prefix ? [strip] : [])] },
      model: {
        ...bpe,
        ...{ unk_token: unknown === null ? null : tokens[unknown]!, fuse_unk: true },
        ...{ byte_fallback: true, ignore_merges: false },
        vocab: vocabOf(vocabulary),
        merges: mergesOfScores(tokens, scores, vocabulary.ids, fields.path),
      },
    },
    addBos: true,
  }
}

export const byteToken = (byte: number) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`
export const isByteToken = (text: string) => /^<0x[0-9A-F]{2}>$/.test(text)

/** Characters that are no token are written as bytes; without these there has to be a token for the unknown. */
function checkByteTokens(fields: GgufFields, { tokens, types, ids }: Vocabulary, hasUnknown: boolean): void {
  for (const [id, text] of tokens.entries())
    if (types[id] === tokenTypes.byte && !isByteToken(text))
      throw corrupt(fields, `${tokensKey}[${id}] is ${describe(text)}, expected a byte like "<0x0A>", as its type says`)
  const missing = Array.from({ length: 256 }, (_, byte) => byteToken(byte)).filter(text => !ids.has(text))
  if (missing.length > 0 && (missing.length < 256 || !hasUnknown))
    throw corrupt(fields, `${tokensKey} lacks ${describe(missing[0])}; expected a token for each of the 256 bytes`)
}

type Around = readonly { text: string; id: number }[]

/** What puts BOS and EOS around a text. */
function postProcessor(before: Around, after: Around): Record<string, unknown> | null {
  if (before.length + after.length === 0) return null
  const special = (type_id: number) => (token: Around[number]) => ({ SpecialToken: { id: token.text, type_id } })
  const single = (id: string, type_id: number) => [
    ...before.map(special(type_id)),
    { Sequence: { id, type_id } },
    ...after.map(special(type_id)),
  ]
  return {
    type: "TemplateProcessing",
    single: single("A", 0),
    pair: [...single("A", 0), ...single("B", 1)],
    special_tokens: Object.fromEntries(
      [...before, ...after].map(({ text, id }) => [text, { id: text, ids: [id], tokens: [text] }]),
    ),
  }
}

/** The default template, and those that tokenizer.chat_templates names. */
function readTemplates(fields: GgufFields): Map<string, string> {
  const templates = new Map<string, string>()
  const standard = fields.string("tokenizer.chat_template", null)
  if (standard !== null) templates.set("default", standard)
  for (const name of fields.strings("tokenizer.chat_templates", []))
    if (name !== "default") templates.set(name, fields.string(`tokenizer.chat_template.${name}`))
  return templates
}
