// AWQ (arXiv 2306.00978) on a single weight: per-channel scales searched on the layer's own output error.
//
// W is rounded as W·diag(s) and multiplied by diag(1/s) again; without a preceding layer to fold 1/s into, it stays on the
// result as inputScale. Candidates are s = x^r (x: root mean square of the input) and, "duo scaling", s = x^r / w^(1-r) (w: mean
// relative magnitude of the column), r in 20 steps, normalised to a geometric middle of 1. The error is
// tr(D H Dᵀ), D = W − rounded W: exact on the calibration rows, with no product of activations.
import { explained } from "../core/cuda.ts"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import type { ProgressStep } from "../core/progress.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import { sharedFloats } from "../core/shared-array.ts"
import { dequantizeAsync } from "../kernels/dequantize.ts"
import { Accumulator } from "../models/accumulator.ts"
import { HessianSum } from "../models/hessian-sum.ts"
import { abortable, type Handle, native } from "../native.ts"
import { gridOf, roundedArrays } from "../rounding/arrays.ts"
import type { InputStatistics, Rounding, RoundingInput, RoundingReport } from "../rounding/rounding.ts"
import { inverse } from "../transforms/scale-groups.ts"

const ratios = 20
const clipSteps = 20
const clipShrink = 0.5
// Outputs that the search looks at: evenly spaced rows of the weight. What it finds is confirmed on all of them.
const searchOutputs = 512
// Calibration rows scaled at a time.
const chunkRows = 1024

export interface AwqResult {
  tensor: QuantizedTensor
  report: RoundingReport
}

/** A rounding of the whole weight and its layer error. */
interface Attempt extends AwqResult {
  error: number
}

/**
 * Rounds with and without the best scales found, each with and without clipped ranges, and keeps the one of least layer error:
 * never worse than leaving AWQ out.
 * calibration: f32 [rows, k] on shared memory, what input.statistics was made from.
 */
export async function roundWithAwq(
  input: RoundingInput,
  rounding: Rounding,
  calibration: Float32Array,
  report: (step: ProgressStep) => void,
): Promise<AwqResult> {
  if (!input.statistics) throw new TsqError("ERR_OPTION", `${input.name}: transform "awq" needs calibration`)
  const scale = await searchScale(input, input.statistics, report)
  const plain = await attempt(input, input.statistics, rounding, null)
  if (!scale) return plain
  const scaled = await withScaledInput(input, calibration, scale, (scaledInput, statistics) =>
    attempt(scaledInput, statistics, rounding, scale),
  )
  return scaled.error < plain.error ? scaled : plain
}

/** The s [k] of least error on a sample of the outputs, or null where none beats s = 1. */
async function searchScale(
  input: RoundingInput,
  statistics: InputStatistics,
  report: (step: ProgressStep) => void,
): Promise<Float32Array | null> {
  const { k } = input
  const { weight, n } = sampleOutputs(input)
  const magnitude = sharedFloats(k)
  await native.columnMagnitude(weight, n, k, input.scheme.groupSize, magnitude)
  // The first, x^0, is no scaling at all.
  const candidates: Float32Array[] = []
  for (let step = 0; step < ratios; step++)
    for (const duo of [false, true])
      candidates.push(candidateScale(statistics.meanSquare, magnitude, step / ratios, duo))
  const progress = (done: number) => report({ stage: "search", done, total: candidates.length, detail: "AWQ scales" })
  const onDevice = input.scheme.granularity === "tensor" ? null : (input.device ?? null)
  const errors =
    onDevice === null
      ? await errorsInTurn(input, statistics, weight, n, candidates, progress)
      : await errorsOnDevice(onDevice, input, statistics, weight, n, candidates, progress)
  let best = 0
  errors.forEach((error, i) => {
    if (error < errors[best]!) best = i
  })
  return best === 0 ? null : candidates[best]!
}

/** Layer error of nearest codes under each candidate, the first of which is left out of account as a scale. */
async function errorsInTurn(
  input: RoundingInput,
  statistics: InputStatistics,
  weight: Float32Array,
  n: number,
  candidates: readonly Float32Array[],
  progress: (done: number) => void,
): Promise<Float64Array> {
  const errors = new Float64Array(candidates.length)
  for (const [i, scale] of candidates.entries()) {
    progress(i)
    throwIfAborted(input.signal)
    errors[i] = await nearestError(input, statistics, weight, n, i === 0 ? null : scale)
  }
  return errors
}

/** The same in one call, so that weight and Hessian travel once. */
async function errorsOnDevice(
  device: Handle,
  { name, k, scheme, minZero, signal }: RoundingInput,
  statistics: InputStatistics,
  weight: Float32Array,
  n: number,
  candidates: readonly Float32Array[],
  progress: (done: number) => void,
): Promise<Float64Array> {
  progress(0)
  const scales = sharedFloats(candidates.length * k)
  for (const [i, scale] of candidates.entries()) scales.set(i === 0 ? scales.subarray(0, k).fill(1) : scale, i * k)
  const errors = new Float64Array(new SharedArrayBuffer(candidates.length * 8))
  const hessian = statistics.hessian.value
  try {
    await abortable(signal, flag =>
      native.cudaScaledErrors(
        device,
        weight,
        n,
        k,
        hessian,
        gridOf(scheme, minZero),
        scales,
        candidates.length,
        errors,
        flag,
      ),
    )
  } catch (cause) {
    throw explained(name, cause)
  }
  progress(candidates.length)
  return errors
}

function sampleOutputs({ weight, n, k }: RoundingInput): { weight: Float32Array; n: number } {
  if (n <= searchOutputs) return { weight, n }
  const sample = sharedFloats(searchOutputs * k)
  for (let i = 0; i < searchOutputs; i++) {
    const row = Math.floor((i * n) / searchOutputs)
    sample.set(weight.subarray(row * k, (row + 1) * k), i * k)
  }
  return { weight: sample, n: searchOutputs }
}

function candidateScale(meanSquare: Float32Array, magnitude: Float32Array, ratio: number, duo: boolean): Float32Array {
  const scale = sharedFloats(meanSquare.length)
  let low = Number.POSITIVE_INFINITY
  let high = 0
  for (let i = 0; i < scale.length; i++) {
    const weighted = duo ? magnitude[i]! ** (1 - ratio) + 1e-4 : 1
    const value = Math.max(Math.sqrt(meanSquare[i]!) ** ratio / weighted, 1e-4)
    scale[i] = value
    low = Math.min(low, value)
    high = Math.max(high, value)
  }
  const middle = Math.sqrt(low * high)
  for (let i = 0; i < scale.length; i++) scale[i] = scale[i]! / middle
  return scale
}

/** Layer error of nearest codes on W·diag(scale). */
async function nearestError(
  input: RoundingInput,
  statistics: InputStatistics,
  weight: Float32Array,
  n: number,
  scale: Float32Array | null,
): Promise<number> {
  const { k, scheme, signal } = input
  let scaled = weight
  if (scale) {
    scaled = sharedFloats(n * k)
    await native.scaleMatrix(weight, n, k, null, scale, scaled)
  }
  const arrays = roundedArrays(n, k, scheme)
  const grid = gridOf(scheme, input.minZero)
  await abortable(signal, flag => native.roundNearest(scaled, n, k, grid, null, null, arrays, flag))
  const inputScale = scale && inverse(scale)
  const approx = await dequantizeAsync(new QuantizedTensor({ scheme, shape: [n, k], ...arrays, inputScale }))
  return native.layerError(weight, approx, n, k, statistics.hessian.value)
}

/** Runs `work` on W·diag(s) with the statistics of x·diag(1/s). */
export async function withScaledInput<T>(
  input: RoundingInput,
  calibration: Float32Array,
  scale: Float32Array,
  work: (input: RoundingInput, statistics: InputStatistics) => Promise<T>,
): Promise<T> {
  const { n, k } = input
  const weight = sharedFloats(n * k)
  await native.scaleMatrix(input.weight, n, k, null, scale, weight)
  const inputScale = inverse(scale)
  const hessian = new Accumulator("hessian", k)
  let sum: HessianSum | null = null
  try {
    sum = await HessianSum.start(hessian, input.device ?? null)
    const rows = calibration.length / k
    for (let begin = 0; begin < rows; begin += chunkRows) {
      throwIfAborted(input.signal)
      const count = Math.min(chunkRows, rows - begin)
      const scaled = sharedFloats(count * k)
      await native.scaleMatrix(calibration.subarray(begin * k, (begin + count) * k), count, k, null, inputScale, scaled)
      await sum.add(scaled, count)
    }
    await sum.finish()
    const statistics = { hessian: hessian.handle, meanSquare: hessian.meanSquare(), rows }
    return await work({ ...input, weight, statistics }, statistics)
  } finally {
    sum?.dispose()
    hessian.dispose()
  }
}

/** Rounds with and without the clipped ranges that searchClip finds, which are of neighbouring columns, and keeps the better. */
async function attempt(
  input: RoundingInput,
  statistics: InputStatistics,
  rounding: Rounding,
  scale: Float32Array | null,
): Promise<Attempt> {
  const { weight, n, k, scheme, signal } = input
  let best = await rounding.round(input)
  if (input.options.order !== "dynamic") {
    const clip = sharedFloats(n * Math.ceil(k / scheme.groupSize))
    const grid = gridOf(scheme, input.minZero)
    const hessian = statistics.hessian.value
    await abortable(signal, flag => native.searchClip(weight, n, k, hessian, grid, clipSteps, clipShrink, clip, flag))
    const clipped = await rounding.round({ ...input, clip })
    if (clipped.report.error < best.report.error) best = clipped
  }
  const { tensor, report } = best
  const { codes, scales, zeros, groupIndex } = tensor
  const inputScale = scale && inverse(scale)
  return {
    tensor: new QuantizedTensor({ scheme, shape: tensor.shape, codes, scales, zeros, groupIndex, inputScale }),
    report,
    error: report.error,
  }
}
