// SmoothQuant (arXiv 2211.10438, section 4): moves outliers of the activations into the weights, where 8 bits hold them.
//
// s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), over the whole calibration set and over all linears that share the input. A fixed alpha
// scales what norms feed, as the paper does; "auto" takes every scale group and the alpha of least error of the block's output, with
// weights and activations rounded as the scheme has them, or none.
import { throwIfAborted } from "../core/errors.ts"
import { sharedFloats } from "../core/shared-array.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { ScaleGroup } from "../models/program.ts"
import {
  candidateError,
  type FoundScale,
  foldAll,
  type PlacedGroup,
  placedGroups,
  runBlock,
  sourceChannel,
  sourceName,
} from "./scale-groups.ts"
import type { Transform, TransformInput } from "./transform.ts"

/** The project's own table has 0.8 to 0.9 for Llama and Mistral. */
export const defaultAlpha = 0.8

export const smooth: Transform = {
  name: "smooth",
  async apply(input) {
    const { alpha } = input.options
    const groups = placedGroups(input)
      .filter(({ group }) => alpha === "auto" || group.source.kind === "vector")
      .map(placed => ({ placed, peaks: new Accumulator("absMax", input.program.slots[placed.slot]!) }))
    try {
      await input.observe(groups.map(({ placed: { op, slot }, peaks }) => ({ op, slot, accumulator: peaks })))
      const reference = await runBlock(input)
      const found: FoundScale[] = []
      for (const { placed, peaks } of groups) found.push(await scaleGroup(input, placed, peaks, reference))
      await foldAll(input, found)
      return { transform: "smooth", groups: found.map(entry => entry.report).reverse() }
    } finally {
      for (const { peaks } of groups) peaks.dispose()
    }
  },
}

async function scaleGroup(
  input: TransformInput,
  placed: PlacedGroup,
  peaks: Accumulator,
  reference: Float32Array,
): Promise<FoundScale> {
  const { group } = placed
  const inputs = bySource(peaks.read(peaks.width), group)
  const weights = await columnPeaks(input, group)
  const errorBefore = await candidateError(input, placed, null, reference)
  const attempt = async (alpha: number) => {
    throwIfAborted(input.signal)
    const scale = smoothScale(inputs, weights, alpha)
    return { alpha, scale, error: await candidateError(input, placed, scale, reference) }
  }
  const { alpha } = input.options
  const { scale, error, ratio } = alpha === "auto" ? await search(attempt, errorBefore) : await fixed(attempt, alpha)
  return {
    group,
    scale,
    report: { source: sourceName(group), targets: [...group.targets], ratio, error, errorBefore },
  }
}

type Attempt = (alpha: number) => Promise<{ alpha: number; scale: Float32Array; error: number }>

async function fixed(attempt: Attempt, alpha: number) {
  const { scale, error } = await attempt(alpha)
  return { scale, error, ratio: alpha }
}

const steps = 20

/** The alpha of least error among steps of 1/20: every second one first, then the neighbours of the best. */
async function search(attempt: Attempt, errorBefore: number) {
  let best = { scale: null as Float32Array | null, error: errorBefore, ratio: null as number | null }
  const consider = async (step: number) => {
    const { alpha, scale, error } = await attempt(step / steps)
    if (error < best.error) best = { scale, error, ratio: alpha }
  }
  for (let step = 0; step <= steps; step += 2) await consider(step)
  if (best.ratio === null) return best
  const middle = Math.round(best.ratio * steps)
  for (const step of [middle - 1, middle + 1]) if (step >= 0 && step <= steps) await consider(step)
  return best
}

/** As the paper's code has it. */
const least = 1e-5

/**
 * max|X_j|^alpha / max|W_j|^(1 - alpha), in f64 and rounded once; weights and scales are at least 1e-5. A channel that was always 0 is left alone:
 * what it holds in use is not known.
 */
export function smoothScale(inputs: ArrayLike<number>, weights: ArrayLike<number>, alpha: number): Float32Array {
  const scale = sharedFloats(inputs.length)
  for (let j = 0; j < scale.length; j++) {
    const x = inputs[j]!
    scale[j] = x > 0 ? Math.max(x ** alpha / Math.max(weights[j]!, least) ** (1 - alpha), least) : 1
  }
  return scale
}

/** The largest |w| of every column over all targets, by source channel. */
async function columnPeaks(input: TransformInput, group: ScaleGroup): Promise<Float64Array> {
  const peaks = new Accumulator("absMax", input.weights.shape(group.targets[0]!)[1])
  try {
    for (const target of group.targets)
      await peaks.add(await input.weights.linear(target), input.weights.shape(target)[0])
    return bySource(peaks.read(peaks.width), group)
  } finally {
    peaks.dispose()
  }
}

/** The largest value by source channel: over the heads that share a KV head where the source is v_proj. */
function bySource(columns: Float64Array, group: ScaleGroup): Float64Array {
  const result = new Float64Array(columns.length / group.repeat)
  columns.forEach((value, column) => {
    const channel = sourceChannel(column, group)
    result[channel] = Math.max(result[channel]!, value)
  })
  return result
}
