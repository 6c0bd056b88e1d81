// The keys of a GGUF file that are particular to byte-level and to SentencePiece tokenizers.
import { flag, string, strings } from "../containers/gguf-fields.ts"
import type { GgufValue } from "../containers/gguf-types.ts"
import { describe } from "../core/options.ts"
import { type Merge, mergesOfScores } from "./gguf-merges.ts"
import { preTokenizerName } from "./gguf-pre.ts"
import { tokenTypes } from "./gguf-special.ts"
import { byteToken, space } from "./gguf-tokenizer.ts"
import { file, refuse, stepsOf, type TokenizerJson, type Vocabulary } from "./gguf-tokenizer-json.ts"

export type Fields = [string, GgufValue][]

export function byteLevelFields(
  { model, normalizer, pre_tokenizer }: TokenizerJson,
  merges: Merge[],
  notes: string[],
): Fields {
  for (const { type } of stepsOf(normalizer)) {
    if (type !== "NFC") throw refuse(`the normalizer has a step ${describe(type)}`)
    notes.push("GGUF has no Unicode normalisation: text that is not in form NFC is encoded as it stands.")
  }
  return [
    ["tokenizer.ggml.pre", string(preTokenizerName(pre_tokenizer, model.ignore_merges ?? false))],
    ["tokenizer.ggml.merges", strings(merges.map(([left, right]) => `${left} ${right}`))],
  ]
}

export function sentencePieceFields(
  parsed: TokenizerJson,
  vocabulary: Vocabulary,
  merges: Merge[],
  notes: string[],
): Fields {
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

interface PreTokenizer {
  type?: unknown
  replacement?: unknown
  prepend_scheme?: unknown
  add_prefix_space?: unknown
  split?: unknown
  pattern?: { String?: unknown }
}

/** Whether a space is put in front of a text; ERR_UNSUPPORTED unless spaces become "▁" and nothing else is done. */
function spacePrefix({ normalizer, pre_tokenizer }: TokenizerJson, notes: string[]): boolean {
  const steps = stepsOf(normalizer)
  const pre = pre_tokenizer as PreTokenizer | null | undefined
  // Gemma's splits at spaces, of which the normalizer leaves none.
  const idle = pre?.type === "Split" && pre.pattern?.String === " " && steps.some(({ type }) => type === "Replace")
  if (pre && !idle) {
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
  for (const [left, right] of mergesOfScores(tokens, scores, ids, file))
    if (!known.has(`${left} ${right}`) && !added.has(ids.get(left + right)!))
      throw refuse(
        `${describe(left)} and ${describe(right)} do not merge, and in a SentencePiece vocabulary any two tokens that make a token do`,
      )
}
