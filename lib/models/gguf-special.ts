// The special tokens of a GGUF file: which begin and end a text.
// Source: ggml-org/llama.cpp, src/llama-vocab.cpp, and gguf-py/gguf/constants.py.
import { type GgufFields, u32 } from "../containers/gguf-fields.ts"
import type { GgufValue } from "../containers/gguf-types.ts"

export const tokensKey = "tokenizer.ggml.tokens"
export const tokenTypesKey = "tokenizer.ggml.token_type"

/** Values of tokenizer.ggml.token_type. */
export const tokenTypes = { undefined: 0, normal: 1, unknown: 2, control: 3, user: 4, unused: 5, byte: 6 } as const

const idKeys = {
  bos: "tokenizer.ggml.bos_token_id",
  eos: "tokenizer.ggml.eos_token_id",
  eot: "tokenizer.ggml.eot_token_id",
  eom: "tokenizer.ggml.eom_token_id",
  unk: "tokenizer.ggml.unknown_token_id",
  pad: "tokenizer.ggml.padding_token_id",
} as const
export type SpecialToken = keyof typeof idKeys

/** Without their keys, a SentencePiece vocabulary has these; a byte-level one has none here (llama.cpp takes 11, which is a comma). */
const defaultIds: Partial<Record<SpecialToken, number>> = { bos: 1, eos: 2, unk: 0 }

/** Control tokens that end a turn or a text in models of today, whether or not a key names them. llama.cpp stops at them, too. */
const endTexts: readonly string[] = [
  ...["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>"],
  ...["</s>", "<EOT>", "<｜end▁of▁sentence｜>"],
]

/** The id of a special token, null where the file names none. ERR_FORMAT when it is no id of the vocabulary. */
export function specialTokenId(fields: GgufFields, token: SpecialToken): number | null {
  const count = fields.strings(tokensKey, []).length
  const fallback = fields.string("tokenizer.ggml.model", "") === "llama" ? (defaultIds[token] ?? null) : null
  const id = fields.integer(idKeys[token], { min: 0, max: Math.max(count - 1, 0) }, null)
  return id ?? (fallback !== null && fallback < count ? fallback : null)
}

/** Every id that ends a generation: eos first, then those of turns and messages. */
export function endTokenIds(fields: GgufFields): number[] {
  const ids = (["eos", "eot", "eom"] as const).flatMap(token => specialTokenId(fields, token) ?? [])
  const tokens = fields.strings(tokensKey, [])
  const types = fields.integers(tokenTypesKey, [])
  const texts = new Set(endTexts)
  for (const [id, text] of tokens.entries()) if (types[id] === tokenTypes.control && texts.has(text)) ids.push(id)
  return [...new Set(ids)]
}

const phi3 = /phi-?3/gi
/** Tokens of Phi-3 that take no spaces with them, and one that does. llama.cpp does not load a model of that name that lacks one of them. */
const keepSpaces: readonly string[] = ["<unk>", "<s>", "<|endoftext|>"]
const phi3Tokens: readonly string[] = [...keepSpaces, "</s>"]

/** Whether llama.cpp takes the spaces behind a special token of a model of that general.name: a rule of its own for Phi-3. */
export const takesSpaces = (name: string, token: string): boolean =>
  name.search(phi3) >= 0 && !keepSpaces.includes(token)

/** A general.name by which llama.cpp does not take a vocabulary for Phi-3's that is not. */
export const safeName = (name: string, ids: ReadonlyMap<string, number>): string =>
  phi3Tokens.every(token => ids.has(token)) ? name : name.replace(phi3, found => `${found.slice(0, 3)} 3`)

export interface SpecialTokenIds {
  bos: number | null
  /** The first is the tokenizer's; a model may stop at others, too. */
  eos: readonly number[]
  unk: number | null
  pad: number | null
}

/** The keys of special tokens. Three ids that end a generation have keys; `dropped` are those beyond. */
export function specialTokenFields({ bos, eos, unk, pad }: SpecialTokenIds): {
  fields: [string, GgufValue][]
  dropped: readonly number[]
} {
  const ids: Record<SpecialToken, number | null | undefined> = { bos, eos: eos[0], eot: eos[1], eom: eos[2], unk, pad }
  const names = Object.keys(idKeys) as SpecialToken[]
  return {
    fields: names.flatMap((name): [string, GgufValue][] => {
      const id = ids[name]
      return id === null || id === undefined ? [] : [[idKeys[name], u32(id)]]
    }),
    dropped: eos.slice(3),
  }
}
