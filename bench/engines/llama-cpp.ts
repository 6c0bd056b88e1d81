// Every mixture of GGUF types in llama.cpp: the file that is made here loads there, and both say the same of a text.
//
// llama.cpp rounds activations to 8 bits before it multiplies them with blocks, and keeps keys and values in 16 bits; this library
// does neither. So another file, with the blocks' values in f32, and a cache in f32, tells what is llama.cpp's own rounding from what
// would be a difference about the format.
import { readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { planWindows } from "../../lib/engine/windows.ts"
import type { GgufPreset } from "../../lib/formats/gguf-mixes.ts"
import { loadModel, type Model, quantizeModel } from "../../lib/index.ts"
import { writeDecoded } from "./decoded-gguf.ts"
import type { LlamaEngine, Positions } from "./llama-session.ts"

export interface Subject {
  name: string
  path: string
  /** Parts of the evaluation and the calibration text. */
  text: string
  calibration: string
  /**
   * Of models of random weights: what is allowed in f32, differences of NLLs and shares of same tokens. Many of their tokens are nearly level, so
   * that what llama.cpp rounds by itself says little.
   */
  bounds?: { nll: number; same: number }
}

export interface LlamaRow {
  model: string
  preset: GgufPreset
  /** Types of the matrices, and how many took another than the mixture's because their rows do not fill its blocks. */
  types: string
  instead: number
  positions: number
  /** Share of positions with the same most probable token: ours and llama.cpp's. */
  same: number
  /** Ours, and llama.cpp's on the file of f32 values, keys and values in f32 as well; and how far the NLLs of tokens are apart at most, in nats. */
  sameDecoded: number
  nllDecoded: number
  /** llama.cpp's on both files: its own rounding of activations. */
  sameWithin: number
  /** Ours with activations rounded to 8 bits, and llama.cpp's. */
  sameInt8: number
  /** Where ours and llama.cpp's differ: how much less probable, in nats, its token is to us than ours. Median, and largest. */
  gapMedian: number
  gapLargest: number
  /** By llama.cpp's protocol. */
  perplexity: number
  llamaPerplexity: number
  /** What is out of bounds, for people; empty where all is as it should be. */
  failures: string[]
  /** What is out of bounds for llama.cpp itself. */
  notes: string[]
}

export interface GreedyRow {
  model: string
  prompts: number
  tokens: number
  /** Prompts whose continuations part where both tokens are as probable, but for `nearTie`. */
  ties: number
  failures: string[]
}

const window = 512
const windows = 6

/** Bounds: the least shares of same tokens, and the largest relative difference of perplexities. */
const leastSame = (preset: GgufPreset): number =>
  ({ f32: 0.998, f16: 0.998, bf16: 0.995, q8_0: 0.99 })[preset as string] ?? 0.98
const largestPerplexity = 0.005
/** Mixtures that are not made without an importance matrix. */
const weighed: ReadonlySet<GgufPreset> = new Set(["q2_k_s"])
/** Nats between two tokens that 16-bit arithmetic may swap. */
const nearTie = 0.01

export async function checkMixture(
  engine: LlamaEngine,
  subject: Subject,
  preset: GgufPreset,
  work: string,
): Promise<LlamaRow> {
  const path = join(work, `${subject.name}-${preset}.gguf`)
  const decoded = join(work, "decoded.gguf")
  const weighing = weighed.has(preset) && { calibration: subject.calibration, samples: 16, sequenceLength: 256 }
  const report = await quantizeModel(subject.path, path, { preset, force: true, ...weighing })
  await writeDecoded(path, decoded)
  const exact = await loadModel(path)
  const rounded = await loadModel(path, { activations: "int8" })
  try {
    const plan = windowsOf(exact, subject)
    const own = await ownPositions(exact, plan)
    const int8 = (await ownPositions(rounded, plan)).top
    const llama = await llamaPositions(engine, path, plan, "F16")
    const llamaDecoded = await llamaPositions(engine, decoded, plan, "F32")
    const { perplexity } = await exact.perplexity(plan.ids, { protocol: "llama.cpp", window })
    const gaps = own.top
      .flatMap((token, i) => (token === llama.top[i] ? [] : [own.gap(i, llama.top[i]!)]))
      .sort((a, b) => a - b)
    const matrices = report.tensors.filter(({ shape }) => shape.length === 2)
    const row: Measured = {
      ...{ model: subject.name, preset, types: countTypes(matrices) },
      instead: matrices.filter(({ instead }) => instead !== null).length,
      positions: own.top.length,
      same: share(own.top, llama.top),
      sameDecoded: share(own.top, llamaDecoded.top),
      nllDecoded: own.nll.reduce((most, nll, i) => Math.max(most, Math.abs(nll - llamaDecoded.nll[i]!) || 0), 0),
      sameWithin: share(llamaDecoded.top, llama.top),
      sameInt8: share(int8, llama.top),
      gapMedian: gaps[Math.floor(gaps.length / 2)] ?? 0,
      gapLargest: gaps.at(-1) ?? 0,
      perplexity,
      llamaPerplexity: perplexityOf(llama.nll, plan.first),
    }
    return { ...row, ...judge(row, subject.bounds) }
  } finally {
    exact.dispose()
    rounded.dispose()
    rmSync(decoded, { force: true })
  }
}

type Measured = Omit<LlamaRow, "failures" | "notes">

function judge(row: Measured, random: Subject["bounds"]): Pick<LlamaRow, "failures" | "notes"> {
  const bounds = random ?? { nll: 0.002, same: 0.999 }
  const { same, sameDecoded, sameWithin, perplexity, llamaPerplexity } = row
  const failures: string[] = []
  const notes: string[] = []
  const least = leastSame(row.preset)
  // No file can make llama.cpp agree with others more than it does with itself.
  if (same < least && !random)
    (sameWithin < least ? notes : failures).push(
      `the same token at ${percent(same)}, expected ${percent(least)}; llama.cpp's two files agree at ${percent(sameWithin)}`,
    )
  if (sameDecoded < bounds.same)
    failures.push(`with values in f32 the same token at ${percent(sameDecoded)}, expected ${percent(bounds.same)}`)
  if (row.nllDecoded > bounds.nll)
    failures.push(`with values in f32 the NLL of a token differs by ${row.nllDecoded.toFixed(4)} nats`)
  const difference = Math.abs(llamaPerplexity / perplexity - 1)
  if (difference > (random ? 4 : 1) * largestPerplexity) failures.push(`perplexities differ by ${percent(difference)}`)
  return { failures, notes }
}

export const percent = (part: number): string => `${(100 * part).toFixed(2)} %`

interface Plan {
  /** Of the part of the text that the windows cover. */
  ids: Int32Array
  windows: Int32Array[]
  /** First position whose token is scored. */
  first: number
}

function windowsOf(model: Model, { text }: Subject): Plan {
  const ids = Int32Array.from(model.tokenizer.encode(text, { addSpecial: true }))
  const plan = planWindows(ids, { protocol: "llama.cpp", window, stride: window, bos: model.tokenizer.bosTokenId })
  if (plan.count < windows) throw new Error(`the text has ${plan.count} windows of ${window}, expected ${windows}`)
  return {
    ids: ids.subarray(0, windows * window),
    windows: Array.from({ length: windows }, (_, i) => plan.tokens(i)),
    first: plan.first,
  }
}

/** Positions of all windows, one after the other. */
interface AllPositions {
  top: number[]
  nll: number[]
}

async function ownPositions(
  model: Model,
  { windows }: Plan,
): Promise<AllPositions & { gap(position: number, token: number): number }> {
  const top: number[] = []
  const nll: number[] = []
  const parts: Float32Array[] = []
  const vocabulary = model.config.vocabularySize
  for (const tokens of windows) {
    const logits = (await model.forward(tokens)).data as Float32Array
    parts.push(logits)
    for (let i = 0; i < tokens.length; i++) {
      const row = logits.subarray(i * vocabulary, (i + 1) * vocabulary)
      const largest = row.reduce((best, value) => Math.max(best, value), Number.NEGATIVE_INFINITY)
      const total = row.reduce((sum, value) => sum + Math.exp(value - largest), 0)
      top.push(row.indexOf(largest))
      nll.push(i + 1 < tokens.length ? largest + Math.log(total) - row[tokens[i + 1]!]! : Number.NaN)
    }
  }
  return {
    top,
    nll,
    gap(position, token) {
      const row = parts[Math.floor(position / window)]!.subarray((position % window) * vocabulary)
      return row[top[position]!]! - row[token]!
    },
  }
}

async function llamaPositions(
  engine: LlamaEngine,
  path: string,
  { windows }: Plan,
  cache: "F16" | "F32",
): Promise<AllPositions> {
  // In a context that a window fills, its last position is not that of the text from the second window on.
  return engine.with(path, { context: window + 64, cache }, async session => {
    const parts: Positions[] = []
    for (const tokens of windows) parts.push(await session.window(tokens))
    return { top: parts.flatMap(({ top }) => [...top]), nll: parts.flatMap(({ nll }) => [...nll]) }
  })
}

const share = (a: readonly number[], b: readonly number[]): number =>
  a.filter((token, i) => token === b[i]).length / a.length

/** Of the tokens at positions first … window − 1 of every window; nll[i] is that of the token after position i. */
function perplexityOf(nll: readonly number[], first: number): number {
  const scored = nll.filter((_, i) => i % window >= first - 1 && i % window < window - 1)
  return Math.exp(scored.reduce((sum, value) => sum + value, 0) / scored.length)
}

function countTypes(matrices: readonly { type: string }[]): string {
  const counts = new Map<string, number>()
  for (const { type } of matrices) counts.set(type, (counts.get(type) ?? 0) + 1)
  return [...counts].map(([type, count]) => `${count} ${type}`).join(", ")
}

const greedyTokens = 64

/** The F16 file continues prompts with our tokens. */
export async function checkGreedy(engine: LlamaEngine, subject: Subject, work: string): Promise<GreedyRow> {
  const path = join(work, `${subject.name}-greedy.gguf`)
  await quantizeModel(subject.path, path, { preset: "f16", force: true })
  const model = await loadModel(path)
  try {
    const ids = [...model.tokenizer.encode(subject.text, { addSpecial: false })]
    const bos = model.tokenizer.bosTokenId
    const { prompts } = JSON.parse(readFileSync(join(subject.path, "reference.json"), "utf8")) as {
      prompts: { ids: number[] }[]
    }
    const given = prompts.map(prompt => prompt.ids)
    for (let i = 1; i <= 5; i++) given.push([...(bos === null ? [] : [bos]), ...ids.slice(1000 * i, 1000 * i + 8 * i)])
    const row: GreedyRow = { model: subject.name, prompts: given.length, tokens: 0, ties: 0, failures: [] }
    await engine.with(path, { context: window }, async session => {
      for (const prompt of given) {
        const { tokens } = await model.complete(prompt, { maxTokens: greedyTokens, temperature: 0 })
        const other = await session.greedy(prompt, greedyTokens)
        const parts = tokens.findIndex((token, i) => token !== other[i])
        row.tokens += parts < 0 ? tokens.length : parts
        if (parts < 0) continue
        const logits = (await model.forward([...prompt, ...tokens.slice(0, parts)])).data as Float32Array
        const last = logits.subarray(-model.config.vocabularySize)
        const gap = last[tokens[parts]!]! - last[other[parts]!]!
        if (gap < nearTie) row.ties++
        else
          row.failures.push(
            `prompt of ${prompt.length} tokens: token ${parts} is ours by ${gap.toFixed(3)} nats, llama.cpp has another`,
          )
      }
    })
    return row
  } finally {
    model.dispose()
  }
}
