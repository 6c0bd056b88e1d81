// tokenizer.json and its companions as the tokenizer keys of a GGUF file.
// Source: ggml-org/llama.cpp, convert_hf_to_gguf.py, gguf-py/gguf/vocab.py and src/llama-vocab.cpp.
import { z } from "zod"
import { flag, string, strings } from "../containers/gguf-fields.ts"
import type { GgufValue } from "../containers/gguf-types.ts"
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import { parseWith } from "./config.ts"
import { type Merge, mergesOfScores } from "./gguf-merges.ts"
import { isByteLevel, preTokenizerName } from "./gguf-pre.ts"
import { specialTokenFields, tokensKey, tokenTypes, tokenTypesKey } from "./gguf-special.ts"
import { byteToken, isByteToken, paddingToken, space, tokenizerModels } from "./gguf-tokenizer.ts"
import { tokenText } from "./tokenizer.ts"

export interface GgufTokenizerOptions {
  /** Rows of the embedding; ids without a token are padded. */
  vocabularySize: number
  /** Chat templates by name. */
  templates?: ReadonlyMap<string, string>
  /** BOS of the model's configuration, for a tokenizer that names none. */
  bosTokenIds?: readonly number[]
  /** What ends a generation by the model's configuration, beside the tokenizer's own EOS. */
  eosTokenIds?: readonly number[]
}

export interface GgufTokenizer {
  metadata: Map<string, GgufValue>
  /** What a GGUF file cannot say and every converter leaves out, one sentence each: the user should know. */
  notes: string[]
}

const optional = z.unknown().optional()
const tokenizerSchema = z.object({
  added_tokens: z
    .array(
      z.object({
        id: z.number().int().min(0),
        content: z.string().min(1),
        single_word: z.boolean().nullish(),
        lstrip: z.boolean().nullish(),
        rstrip: z.boolean().nullish(),
        normalized: z.boolean().nullish(),
        special: z.boolean().nullish(),
      }),
    )
    .nullish(),
  normalizer: optional,
  pre_tokenizer: optional,
  post_processor: optional,
  model: z.object({
    type: z.string(),
    unk_token: z.string().nullish(),
    continuing_subword_prefix: z.string().nullish(),
    end_of_word_suffix: z.string().nullish(),
    byte_fallback: z.boolean().nullish(),
    ignore_merges: z.boolean().nullish(),
    vocab: z.record(z.string(), z.unknown()),
    merges: z.array(z.unknown()),
  }),
})
type TokenizerJson = z.infer<typeof tokenizerSchema>

const file = "tokenizer.json"
const refuse = (what: string) => new TsqError("ERR_UNSUPPORTED", `${file}: ${what}; it cannot be written as GGUF`)
const wrong = (what: string) => new TsqError("ERR_FORMAT", `${file}: ${what}`)

/**
 * The tokenizer.* entries of a GGUF file, from which llama.cpp and tokenizerOfGguf encode as the tokenizer does. ERR_UNSUPPORTED, with
 * the reason, for what GGUF cannot express; ERR_FORMAT for a file that does not fit itself or the vocabulary's size.
 */
export function ggufOfTokenizer(
  json: Record<string, unknown>,
  config: Record<string, unknown>,
  options: GgufTokenizerOptions,
): GgufTokenizer {
  const parsed = parseWith(tokenizerSchema, json, file)
  checkModel(parsed)
  const notes: string[] = []
  const byteLevel = isByteLevel(parsed.pre_tokenizer)
  const vocabulary = vocabularyOf(parsed, options.vocabularySize, byteLevel)
  checkAddedTokens(parsed, byteLevel, notes)
  const merges = mergesOf(parsed, vocabulary)
  const model = byteLevel
    ? byteLevelFields(parsed, merges, notes)
    : sentencePieceFields(parsed, vocabulary, merges, notes)
  const ends = endsOf(parsed, config, vocabulary, options)
  const special = specialTokenFields(ends)
  if (special.dropped.length > 0)
    notes.push(`GGUF has keys for three ids that end a generation; ${special.dropped.join(", ")} are left out.`)
  const metadata = new Map<string, GgufValue>([
    ["tokenizer.ggml.model", string(byteLevel ? tokenizerModels.byteLevel : tokenizerModels.sentencePiece)],
    ...model,
    [tokensKey, strings(vocabulary.tokens)],
    [tokenTypesKey, { type: "array", of: "i32", value: vocabulary.types }],
    ...special.fields,
    ["tokenizer.ggml.add_bos_token", flag(ends.addsBos)],
    ["tokenizer.ggml.add_eos_token", flag(ends.addsEos)],
    ...templateFields(options.templates ?? new Map()),
  ])
  return { metadata, notes }
}

function checkModel({ model }: TokenizerJson): void {
  if (model.type !== "BPE") throw refuse(`the model is of type ${describe(model.type)}, expected "BPE"`)
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix"] as const)
    if (model[key]) throw refuse(`the model has a ${key}, ${describe(model[key])}`)
}

interface Vocabulary {
  tokens: string[]
  types: Int32Array<ArrayBuffer>
  ids: Map<string, number>
  added: ReadonlySet<number>
}

function vocabularyOf({ model, added_tokens }: TokenizerJson, size: number, byteLevel: boolean): Vocabulary {
  const tokens: (string | undefined)[] = new Array(size).fill(undefined)
  const types = new Int32Array(size).fill(tokenTypes.unused)
  const set = (id: unknown, text: string, type: number) => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= size)
      throw wrong(
        `token ${describe(text)} has the id ${describe(id)}, expected one below the model's vocab_size, ${size}`,
      )
    const other = tokens[id]
    if (other !== undefined && other !== text)
      throw wrong(`tokens ${describe(other)} and ${describe(text)} both have the id ${id}`)
    tokens[id] = text
    types[id] = type
  }
  for (const [text, id] of Object.entries(model.vocab)) {
    const { unknown, byte, normal } = tokenTypes
    set(id, text, byteLevel ? normal : text === model.unk_token ? unknown : isByteToken(text) ? byte : normal)
  }
  const added = new Set<number>()
  for (const { id, content, special } of added_tokens ?? []) {
    const isUnknown = !byteLevel && content === model.unk_token
    set(id, content, isUnknown ? tokenTypes.unknown : special ? tokenTypes.control : tokenTypes.user)
    added.add(id)
  }
  const ids = new Map<string, number>()
  const named = tokens.map((text, id) => text ?? paddingToken(id))
  for (const [id, text] of named.entries()) {
    const other = ids.get(text)
    if (other !== undefined)
      throw wrong(`ids ${other} and ${id} are both ${describe(text)}, and GGUF wants every token once`)
    ids.set(text, id)
  }
  return { tokens: named, types, ids, added }
}

function checkAddedTokens({ added_tokens, normalizer }: TokenizerJson, byteLevel: boolean, notes: string[]): void {
  const normalized: string[] = []
  for (const token of added_tokens ?? []) {
    for (const key of ["single_word", "lstrip", "rstrip"] as const)
      if (token[key]) throw refuse(`added token ${describe(token.content)} has ${key}, for which GGUF has no key`)
    if ((token.normalized ?? !token.special) && normalizer && !byteLevel) normalized.push(token.content)
  }
  if (normalized.length > 0)
    notes.push(
      `Added tokens that are looked for after normalisation (${normalized.slice(0, 5).map(describe).join(", ")}) are looked for before it.`,
    )
}

/** The merges, every one once, with their tokens checked. */
function mergesOf({ model }: TokenizerJson, { ids }: Vocabulary): Merge[] {
  const merges = new Map<string, Merge>()
  for (const [rank, entry] of model.merges.entries()) {
    const [left, right, more] = typeof entry === "string" ? entry.split(" ") : Array.isArray(entry) ? entry : []
    if (typeof left !== "string" || typeof right !== "string" || more !== undefined)
      throw wrong(`merge ${rank} is ${describe(entry)}, expected two tokens`)
    for (const token of [left, right, left + right])
      if (!ids.has(token))
        throw wrong(`merge ${rank} is of ${describe(left)} and ${describe(right)}; ${describe(token)} is no token`)
    const key = `${left} ${right}`
    if (left === "" || right === "" || key.indexOf(" ", 1) !== left.length || right.includes(" "))
      throw refuse(`merge ${rank} is of ${describe(left)} and ${describe(right)}, which a space cannot keep apart`)
    if (!merges.has(key)) merges.set(key, [left, right])
  }
  return [...merges.values()]
}

type Fields = [string, GgufValue][]

function byteLevelFields(
  { model, normalizer, pre_tokenizer }: TokenizerJson,
  merges: Merge[],
  notes: string[],
): Fields {
  for (const type of normalizerTypes(normalizer)) {
    if (type !== "NFC") throw refuse(`the normalizer has a step ${describe(type)}`)
    notes.push("GGUF has no Unicode normalisation: text that is not in form NFC is encoded as it stands.")
  }
  return [
    ["tokenizer.ggml.pre", string(preTokenizerName(pre_tokenizer, model.ignore_merges ?? false))],
    ["tokenizer.ggml.merges", strings(merges.map(([left, right]) => `${left} ${right}`))],
  ]
}

interface Normalizer {
  type?: unknown
  normalizers?: unknown
  prepend?: unknown
  pattern?: { String?: unknown }
  content?: unknown
}

function stepsOf(normalizer: unknown): Normalizer[] {
  if (typeof normalizer !== "object" || normalizer === null) return []
  const { type, normalizers } = normalizer as Normalizer
  return type === "Sequence" && Array.isArray(normalizers) ? normalizers.flatMap(stepsOf) : [normalizer as Normalizer]
}

const normalizerTypes = (normalizer: unknown) => stepsOf(normalizer).map(step => step.type)

function sentencePieceFields(parsed: TokenizerJson, vocabulary: Vocabulary, merges: Merge[], notes: string[]): Fields {
  if (!parsed.model.byte_fallback)
    throw refuse(
      "the pre_tokenizer is not byte-level and the model has no byte_fallback: characters without a token have no ids",
    )
  for (let byte = 0; byte < 256; byte++)
    if (!vocabulary.ids.has(byteToken(byte)))
      throw refuse(`the vocabulary lacks ${byteToken(byte)}, one of the 256 bytes that llama.cpp needs`)
  if (parsed.model.ignore_merges) throw refuse("ignore_merges is true, which a SentencePiece vocabulary has no key for")
  const prefix = spacePrefix(parsed, notes)
  const scores = scoresOf(merges, vocabulary)
  checkScores(scores, merges, vocabulary)
  return [
    ["tokenizer.ggml.pre", string("default")],
    ["tokenizer.ggml.scores", { type: "array", of: "f32", value: scores }],
    ["tokenizer.ggml.add_space_prefix", flag(prefix)],
  ]
}

/** Whether a space is put in front of a text; ERR_UNSUPPORTED unless spaces become "▁" and nothing else is done. */
function spacePrefix({ normalizer, pre_tokenizer }: TokenizerJson, notes: string[]): boolean {
  const steps = stepsOf(normalizer)
  const pre = pre_tokenizer as
    | { type?: unknown; replacement?: unknown; prepend_scheme?: unknown; add_prefix_space?: unknown; split?: unknown }
    | null
    | undefined
  if (pre) {
    if (pre.type !== "Metaspace" || pre.replacement !== space || pre.split !== false || steps.length > 0)
      throw refuse(`the pre_tokenizer ${describe(pre.type)} does more than to write spaces as "${space}"`)
    const scheme = pre.prepend_scheme ?? ((pre.add_prefix_space ?? true) ? "always" : "never")
    if (scheme !== "never")
      notes.push(
        "In GGUF a space is put in front of every text, also where it begins with one or follows a special token.",
      )
    return scheme !== "never"
  }
  const replace = steps.at(-1)
  const replaces = replace?.type === "Replace" && replace.pattern?.String === " " && replace.content === space
  const [prepend] = steps
  const prepends = steps.length === 2 && prepend?.type === "Prepend" && prepend.prepend === space
  if (!replaces || !(prepends || steps.length === 1))
    throw refuse(
      `the normalizer's steps are ${steps.map(step => describe(step.type)).join(", ") || "none"}, expected to write spaces as "${space}", perhaps with one in front`,
    )
  return prepends
}

/** Minus the rank of the first merge that makes a token. Others are never made, and have the lowest. */
function scoresOf(merges: readonly Merge[], { tokens, types, ids }: Vocabulary): Float32Array<ArrayBuffer> {
  const ranks = new Map<number, number>()
  for (const [left, right] of merges) {
    const id = ids.get(left + right)!
    if (!ranks.has(id)) ranks.set(id, ranks.size)
  }
  return Float32Array.from(tokens, (_, id) => {
    const rank = ranks.get(id)
    return rank !== undefined ? -rank : types[id] === tokenTypes.normal ? -ranks.size : 0
  })
}

/** ERR_UNSUPPORTED where the merges that follow from scores are not those of tokenizer.json, group by group. */
function checkScores(scores: Float32Array, merges: readonly Merge[], { tokens, ids, added }: Vocabulary): void {
  const results = new Set<string>()
  let last = ""
  for (const [left, right] of merges) {
    const made = left + right
    if (made !== last && results.has(made))
      throw refuse(`merges that make ${describe(made)} have others between them, and GGUF ranks results, not merges`)
    results.add(made)
    last = made
  }
  const known = new Set(merges.map(([left, right]) => `${left} ${right}`))
  for (const [left, right] of mergesOfScores(tokens, scores, file))
    if (!known.has(`${left} ${right}`) && !added.has(ids.get(left + right)!))
      throw refuse(
        `${describe(left)} and ${describe(right)} do not merge, and in a SentencePiece vocabulary any two tokens that make a token do`,
      )
}

function endsOf(
  { post_processor, model }: TokenizerJson,
  config: Record<string, unknown>,
  { ids }: Vocabulary,
  { bosTokenIds = [], eosTokenIds = [] }: GgufTokenizerOptions,
) {
  const idOf = (token: unknown) => {
    const text = tokenText(token)
    return text === null ? null : (ids.get(text) ?? null)
  }
  const { before, after } = addedAround(post_processor)
  const required = (text: string | null) => {
    const id = text === null ? null : idOf(text)
    if (text !== null && id === null) throw wrong(`the post_processor adds ${describe(text)}, which is no token`)
    return id
  }
  const [begin, end] = [required(before), required(after)]
  const eos = [end ?? idOf(config.eos_token), ...eosTokenIds].filter(id => id !== null)
  return {
    bos: begin ?? idOf(config.bos_token) ?? bosTokenIds[0] ?? null,
    eos: [...new Set(eos)],
    unk: idOf(config.unk_token) ?? idOf(model.unk_token),
    pad: idOf(config.pad_token),
    addsBos: begin !== null,
    addsEos: end !== null,
  }
}

const templateSchema = z.array(
  z.union([
    z.object({ SpecialToken: z.object({ id: z.string() }) }),
    z.object({ Sequence: z.object({ id: z.literal("A") }) }),
  ]),
)

/** The tokens that a post-processor puts in front of a text and behind it. GGUF has room for one of each. */
function addedAround(json: unknown): { before: string | null; after: string | null } {
  const { type, single, processors } = (json ?? { type: "ByteLevel" }) as Record<string, unknown>
  if (type === "ByteLevel") return { before: null, after: null }
  if (type === "Sequence" && Array.isArray(processors)) {
    const templates = processors.filter(each => (each as { type?: unknown } | null)?.type !== "ByteLevel")
    if (templates.length < 2) return addedAround(templates[0])
  }
  const template = type === "TemplateProcessing" ? templateSchema.safeParse(single).data : undefined
  const at = template?.findIndex(each => "Sequence" in each) ?? -1
  const texts = template?.map(each => ("SpecialToken" in each ? each.SpecialToken.id : null)) ?? []
  if (at < 0 || at > 1 || texts.length - at > 2 || texts.filter(text => text === null).length !== 1)
    throw refuse(`the post_processor ${describe(type)} adds more than one token in front of a text and one behind it`)
  return { before: at === 1 ? texts[0]! : null, after: texts[at + 1] ?? null }
}

function templateFields(templates: ReadonlyMap<string, string>): Fields {
  const fields: Fields = []
  const others = [...templates.keys()].filter(name => name !== "default")
  const standard = templates.get("default")
  if (standard !== undefined) fields.push(["tokenizer.chat_template", string(standard)])
  if (others.length > 0) fields.push(["tokenizer.chat_templates", strings(others)])
  for (const name of others) fields.push([`tokenizer.chat_template.${name}`, string(templates.get(name)!)])
  return fields
}
