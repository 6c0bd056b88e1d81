// tokenizer.json and its companions as the tokenizer keys of a GGUF file.
// Source: ggml-org/llama.cpp, convert_hf_to_gguf.py, gguf-py/gguf/vocab.py and src/llama-vocab.cpp.
import { flag, string, strings } from "../containers/gguf-fields.ts"
import type { GgufValue } from "../containers/gguf-types.ts"
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import { parseWith } from "./config.ts"
import { isByteLevel } from "./gguf-pre.ts"
import { safeName, specialTokenFields, tokensKey, tokenTypesKey } from "./gguf-special.ts"
import { tokenizerModels } from "./gguf-tokenizer.ts"
import {
  addedAround,
  checkAddedTokens,
  checkModel,
  file,
  mergesOf,
  type TokenizerJson,
  tokenizerSchema,
  type Vocabulary,
  vocabularyOf,
} from "./gguf-tokenizer-json.ts"
import { byteLevelFields, type Fields, sentencePieceFields } from "./gguf-tokenizer-models.ts"
import { tokenText } from "./tokenizer.ts"

export interface GgufTokenizerOptions {
  /** Rows of the embedding; ids without a token are padded. */
  vocabularySize: number
  /** general.name; where llama.cpp would draw wrong conclusions from it, the result holds another. */
  name?: string
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
  const name = safeName(options.name ?? "", vocabulary.ids)
  checkAddedTokens(parsed, byteLevel, name, notes)
  const merges = mergesOf(parsed, vocabulary)
  const model = byteLevel
    ? byteLevelFields(parsed, merges, notes)
    : sentencePieceFields(parsed, vocabulary, merges, notes)
  const ends = endsOf(parsed, config, vocabulary, options)
  const special = specialTokenFields(ends)
  if (special.dropped.length > 0)
    notes.push(`GGUF has keys for three ids that end a generation; ${special.dropped.join(", ")} are left out.`)
  const metadata = new Map<string, GgufValue>([
    ...(name === (options.name ?? "") ? [] : [["general.name", string(name)] as const]),
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
    if (text !== null && id === null)
      throw new TsqError("ERR_FORMAT", `${file}: the post_processor adds ${describe(text)}, which is no token`)
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

function templateFields(templates: ReadonlyMap<string, string>): Fields {
  const fields: Fields = []
  const others = [...templates.keys()].filter(name => name !== "default")
  const standard = templates.get("default")
  if (standard !== undefined) fields.push(["tokenizer.chat_template", string(standard)])
  if (others.length > 0) fields.push(["tokenizer.chat_templates", strings(others)])
  for (const name of others) fields.push([`tokenizer.chat_template.${name}`, string(templates.get(name)!)])
  return fields
}
