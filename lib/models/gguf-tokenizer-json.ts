// A tokenizer.json, checked as far as a GGUF file is written from it.
import { z } from "zod"
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import type { Merge } from "./gguf-merges.ts"
import { takesSpaces, tokenTypes } from "./gguf-special.ts"
import { isByteToken, paddingToken } from "./gguf-tokenizer.ts"

const optional = z.unknown().optional()
export const tokenizerSchema = z.object({
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
export type TokenizerJson = z.infer<typeof tokenizerSchema>

export const file = "tokenizer.json"
export const refuse = (what: string) =>
  new TsqError("ERR_UNSUPPORTED", `${file}: ${what}; it cannot be written as GGUF`)
const wrong = (what: string) => new TsqError("ERR_FORMAT", `${file}: ${what}`)

/** ERR_UNSUPPORTED for anything but plain BPE. */
export function checkModel({ model }: TokenizerJson): void {
  if (model.type !== "BPE") throw refuse(`the model is of type ${describe(model.type)}, expected "BPE"`)
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix"] as const)
    if (model[key]) throw refuse(`the model has a ${key}, ${describe(model[key])}`)
}

export interface Vocabulary {
  /** By id. */
  tokens: string[]
  types: Int32Array<ArrayBuffer>
  ids: Map<string, number>
  added: ReadonlySet<number>
}

/** Tokens of all ids below `size`, padded where there are none. ERR_FORMAT where an id or a token comes twice. */
export function vocabularyOf({ model, added_tokens }: TokenizerJson, size: number, byteLevel: boolean): Vocabulary {
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

/**
 * Added tokens are found in the text as it stands; ERR_UNSUPPORTED for those that have to be words. Whether they take the spaces beside
 * them follows from the model's name.
 */
export function checkAddedTokens(
  { added_tokens, normalizer }: TokenizerJson,
  byteLevel: boolean,
  name: string,
  notes: string[],
): void {
  const normalized: string[] = []
  const spaces: string[] = []
  for (const token of added_tokens ?? []) {
    if (token.single_word)
      throw refuse(`added token ${describe(token.content)} has single_word, for which GGUF has no key`)
    if (token.lstrip || (token.rstrip ?? false) !== takesSpaces(name, token.content)) spaces.push(token.content)
    if ((token.normalized ?? !token.special) && normalizer && !byteLevel) normalized.push(token.content)
  }
  if (spaces.length > 0)
    notes.push(
      `GGUF has no key for which spaces added tokens take with them: llama.cpp takes those behind where general.name holds "phi-3", and otherwise none; for ${spaces.slice(0, 5).map(describe).join(", ")}${spaces.length > 5 ? ` and ${spaces.length - 5} more` : ""} that is not what the tokenizer does.`,
    )
  if (normalized.length > 0)
    notes.push(
      `Added tokens that are looked for after normalisation (${normalized.slice(0, 5).map(describe).join(", ")}) are looked for before it.`,
    )
}

/** The merges, every one once, with their tokens checked. */
export function mergesOf({ model }: TokenizerJson, { ids }: Vocabulary): Merge[] {
  const merges = new Map<string, Merge>()
  for (const [rank, entry] of model.merges.entries()) {
    const [left, right, more] = typeof entry === "string" ? entry.split(" ") : Array.isArray(entry) ? entry : []
    if (typeof left !== "string" || typeof right !== "string" || more !== undefined)
      throw wrong(`merge ${rank} is ${describe(entry)}, expected two tokens`)
    if (!ids.has(left + right))
      throw wrong(`merge ${rank} is of ${describe(left)} and ${describe(right)}; ${describe(left + right)} is no token`)
    const key = `${left} ${right}`
    if (left === "" || right === "" || key.indexOf(" ", 1) !== left.length || right.includes(" "))
      throw refuse(`merge ${rank} is of ${describe(left)} and ${describe(right)}, which a space cannot keep apart`)
    if (!merges.has(key)) merges.set(key, [left, right])
  }
  return [...merges.values()]
}

interface Normalizer {
  type?: unknown
  normalizers?: unknown
  prepend?: unknown
  pattern?: { String?: unknown }
  content?: unknown
}

/** A normalizer's steps. */
export function stepsOf(normalizer: unknown): Normalizer[] {
  if (typeof normalizer !== "object" || normalizer === null) return []
  const { type, normalizers } = normalizer as Normalizer
  return type === "Sequence" && Array.isArray(normalizers) ? normalizers.flatMap(stepsOf) : [normalizer as Normalizer]
}

const templateSchema = z.array(
  z.union([
    z.object({ SpecialToken: z.object({ id: z.string() }) }),
    z.object({ Sequence: z.object({ id: z.literal("A") }) }),
  ]),
)

/** The tokens that a post-processor puts in front of a text and behind it. GGUF has room for one of each. */
export function addedAround(json: unknown): { before: string | null; after: string | null } {
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
