// Retrieval from long contexts, by length and depth: what short windows of perplexity do not see of a quantized KV cache.
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { type LoadOptions, loadModel } from "../engine/load-model.ts"
import { Model } from "../engine/model.ts"
import { progressOf } from "../engine/progress.ts"
import { type ScoredSequence, scoreSequences } from "../engine/sequence-scorer.ts"
import { type Activations, readActivations } from "../kernels/packed-weight.ts"
import { uniform } from "./induction-model.ts"

/**
 * passkey: a number in a text that repeats itself, asked for at the end (after Mohtashami and Jaggi, "Landmark Attention", 2023, 4.3).
 * pairs: tokens chosen at random; keys with their values among others, a key again at the end. For any model that copies, whatever its vocabulary means.
 */
export type NeedleKind = "passkey" | "pairs"

export interface NeedleOptions extends LongWork {
  /** Default "passkey". */
  kind?: NeedleKind
  /** Tokens of a prompt. Default: powers of two from 1024, or from an eighth of the context where it is shorter, to the context, as far as needles fit. */
  lengths?: readonly number[]
  /** Where the needle lies, from 0 (the beginning) to 1 (just before the question). Default 0, 0.25, 0.5, 0.75 and 1. */
  depths?: readonly number[]
  /** Needles asked for in each cell. Default 4. */
  trials?: number
  seed?: number
  activations?: Activations
  /** Name of an adapter that `load` or the model has. */
  adapter?: string | null
  /** For a model given by its directory. */
  load?: LoadOptions
}

export interface NeedleCell {
  length: number
  depth: number
  trials: number
  /** Needles that greedy decoding would have told entirely. */
  retrieved: number
}

export interface NeedleResult {
  /** Directory of the model. */
  model: string
  kind: NeedleKind
  lengths: number[]
  depths: number[]
  /** By length, then by depth. */
  cells: NeedleCell[]
  /** Share of all needles that were retrieved. */
  retrieval: number
}

const optionNames = [
  "kind",
  "lengths",
  "depths",
  "trials",
  "seed",
  "activations",
  "adapter",
  "load",
  "signal",
  "onProgress",
]
const kinds: readonly NeedleKind[] = ["passkey", "pairs"]
/** Of a pair: one key, then so many tokens of value. */
const valueTokens = 3

/** Models given by directory are loaded and disposed here. ERR_OPTION for lengths that the model or the needles do not fit. */
export async function evaluateNeedle(model: string | Model, values?: NeedleOptions): Promise<NeedleResult> {
  const options = new Options("evaluateNeedle", values, optionNames)
  const kind = options.oneOf("kind", kinds, "passkey")
  const depths = numbers(options, "depths", [0, 0.25, 0.5, 0.75, 1], value => value >= 0 && value <= 1, "from 0 to 1")
  const trials = options.integer("trials", { min: 1, max: 1000 }, 4)
  const seed = options.integer("seed", { min: 0 }, 1)
  const [signal, onProgress] = [options.signal(), options.onProgress()]
  if (typeof model !== "string" && !(model instanceof Model))
    throw new TsqError(
      "ERR_OPTION",
      `evaluateNeedle: the model is ${describe(model)}, expected a directory or a loaded model`,
    )
  const opened =
    typeof model === "string" ? await loadModel(model, { ...values?.load, ...(signal && { signal }) }) : model
  try {
    const fits = (value: number) => Number.isInteger(value) && value >= 1 && value <= opened.maxContext
    const expected = `whole numbers from 1 to the context of ${opened.maxContext}`
    const wished = numbers(options, "lengths", defaultLengths(opened.maxContext), fits, expected)
    const prompts = promptsOf({ model: opened, kind, depths, trials, seed }, wished, !options.has("lengths"))
    const lengths = prompts.map(({ length }) => length)
    const activations = readActivations(options, opened.activations)
    const report = progressOf("needle", lengths.length * depths.length * trials, onProgress)
    const cells: NeedleCell[] = []
    let done = 0
    for (const { length, sequences } of prompts) {
      throwIfAborted(signal)
      const before = done
      const scores = await scoreSequences(opened, sequences, {
        ...{ activations, adapter: opened.adapterOf(options), signal },
        onDone: count => report(before + count),
      })
      done += sequences.length
      depths.forEach((depth, i) => {
        const own = scores.slice(i * trials, (i + 1) * trials)
        const retrieved = own.filter(values => values.every((value, j) => j % 2 === 0 || value === 1)).length
        cells.push({ length, depth, trials, retrieved })
      })
    }
    const retrieval = cells.reduce((sum, { retrieved }) => sum + retrieved, 0) / (cells.length * trials)
    return { model: opened.path, kind, lengths, depths, cells, retrieval }
  } finally {
    if (opened !== model) opened.dispose()
  }
}

function numbers(
  options: Options,
  name: string,
  fallback: readonly number[],
  valid: (value: number) => boolean,
  expected: string,
): number[] {
  const value = options.raw(name) ?? fallback
  if (!Array.isArray(value) || value.length === 0 || !value.every(item => typeof item === "number" && valid(item)))
    options.fail(name, `a list of ${expected}`)
  return [...(value as number[])]
}

/** Powers of two, and the context itself. */
function defaultLengths(context: number): number[] {
  const lengths: number[] = []
  for (let length = Math.min(1024, Math.max(1, context >> 3)); length < context; length *= 2) lengths.push(length)
  return [...lengths, context]
}

interface Grid {
  model: Model
  kind: NeedleKind
  depths: readonly number[]
  trials: number
  seed: number
}

/** By length. Lengths that needles do not fit are ERR_OPTION, or left out as long as one fits: `some`. */
function promptsOf(grid: Grid, lengths: readonly number[], some: boolean) {
  const prompts = lengths.map(length => {
    const request = { ...grid, length, next: uniform(grid.seed * 7919 + length) }
    return { length, made: grid.kind === "pairs" ? pairSequences(request) : passkeySequences(request) }
  })
  const fitting = prompts.flatMap(({ length, made }) => (typeof made === "string" ? [] : [{ length, sequences: made }]))
  const why = prompts.findLast(({ made }) => typeof made === "string")?.made
  if (typeof why === "string" && (!some || fitting.length === 0))
    throw new TsqError("ERR_OPTION", `evaluateNeedle: ${why}`)
  return fitting
}

interface Request extends Grid {
  length: number
  next: () => number
}

/** Why they do not fit, or the trials of each depth, all planted in one prompt: they are asked for one after the other behind the same tokens. */
function pairSequences({ model, length, depths, trials, next }: Request): ScoredSequence[] | string {
  const bos = model.tokenizer.bosTokenId
  const needles = depths.length * trials
  const reserved = needles * (1 + valueTokens)
  const ids = shuffled(model.config.vocabularySize, next).filter(id => id !== bos && !model.eosTokenIds.includes(id))
  // What comes first has nothing before it, and a previous-token head looks at itself there: no key lies there.
  const start = 1
  // The last token of a value is never run.
  const body = length - start - valueTokens
  if (body < reserved || ids.length < 2 * reserved)
    return `${needles} pairs of a key and ${valueTokens} tokens do not fit ${length} tokens and a vocabulary of ${ids.length}; give fewer depths or trials, or longer lengths`
  const planted = ids.splice(0, reserved)
  const tokens = new Int32Array(start + body)
  tokens[0] = bos ?? ids[0]!
  for (let i = start; i < tokens.length; i++) tokens[i] = ids[Math.floor(next() * ids.length)]!
  const pairs = Array.from({ length: needles }, (_, i) =>
    planted.slice(i * (1 + valueTokens), (i + 1) * (1 + valueTokens)),
  )
  placesOf(depths, trials, body, 1 + valueTokens).forEach((place, i) => void tokens.set(pairs[i]!, start + place))
  return pairs.map(pair => {
    const whole = new Int32Array(tokens.length + pair.length)
    whole.set(tokens)
    whole.set(pair, tokens.length)
    return { tokens: whole, from: tokens.length + 1 }
  })
}

/** Where things of one size go: trials of a depth side by side about its place, none over another. */
function placesOf(depths: readonly number[], trials: number, length: number, size: number): number[] {
  const wished = depths.flatMap(depth =>
    Array.from({ length: trials }, (_, trial) => Math.round(depth * (length - size * trials)) + trial * size),
  )
  const order = wished.map((_, i) => i).sort((a, b) => wished[a]! - wished[b]!)
  const places = [...wished]
  let free = 0
  for (const i of order) {
    places[i] = Math.max(places[i]!, free)
    free = places[i]! + size
  }
  let end = length
  for (const i of order.reverse()) {
    places[i] = Math.min(places[i]!, end - size)
    end = places[i]!
  }
  return places
}

function shuffled(count: number, next: () => number): number[] {
  const ids = Array.from({ length: count }, (_, id) => id)
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1))
    ;[ids[i], ids[j]] = [ids[j]!, ids[i]!]
  }
  return ids
}

const opening =
  "Somewhere in the text below a pass key is hidden. Read all of it and keep the pass key in mind; at the end you will be asked for it."
const filler =
  "The river runs to the sea. The wind moves the trees. Birds rest on the roof. The day goes on, and then the next."

/** A prompt for every needle: two pass keys in one text would be a different question. */
function passkeySequences({ model, length, depths, trials, next }: Request): ScoredSequence[] | string {
  const encode = (text: string, addSpecial = false) => model.tokenizer.encode(text, { addSpecial })
  const head = encode(opening, true)
  const rest = encode(` ${filler}`)
  const question = " What is the pass key? The pass key is"
  const asked = encode(question)
  const sequences: ScoredSequence[] = []
  for (const depth of depths)
    for (let trial = 0; trial < trials; trial++) {
      const key = String(Math.floor(10000 + next() * 90000))
      const needle = encode(` The pass key is ${key}. Keep it in mind: ${key} is the pass key.`)
      const answer = encode(`${question} ${key}`).slice(asked.length)
      const room = length - head.length - needle.length - asked.length - answer.length
      if (room < rest.length || answer.length === 0)
        return `a pass key with its question takes ${length - room + rest.length} tokens of ${model.path}, more than ${length}; give longer lengths`
      // The needle lies between two repetitions of the filler.
      const before = Math.round((depth * room) / rest.length) * rest.length
      const hay = new Int32Array(room)
      for (let i = 0; i < room; i++) hay[i] = rest[i % rest.length]!
      const first = Math.min(before, room)
      const tokens = new Int32Array(length)
      let at = 0
      for (const part of [head, hay.subarray(0, first), needle, hay.subarray(0, room - first), asked, answer]) {
        tokens.set(part, at)
        at += part.length
      }
      sequences.push({ tokens, from: length - answer.length })
    }
  return sequences
}
