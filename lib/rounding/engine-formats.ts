// Nearest codes of the floating-point types that engines multiply with: FP8 E4M3, MXFP4 and NVFP4, with the scales of their formats.
import { codebook } from "../core/codebooks.ts"
import { dtypeInfo } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import { type FloatScaleType, isFloatScale, type Scheme } from "../core/scheme.ts"
import { sharedArray, sharedBytes, sharedFloats } from "../core/tensor.ts"
import { expandScales, transposed } from "../formats/arrays.ts"
import { nvfp4Scales, powerScales, powers } from "../formats/stored-scales.ts"
import { abortable, type CodebookSteps, native } from "../native.ts"
import { codebookSteps, nextBelow } from "./codebook.ts"

/** Largest numbers of the types. */
const largest = { e4m3: 448, e2m1: 6 } as const
type FloatName = keyof typeof largest

export const isEngineFloat = (scheme: Scheme): scheme is Scheme & { codebook: FloatName } =>
  scheme.codebook !== undefined && scheme.codebook in largest

/**
 * The scale of a weight [n, k], a row, a block or a group is its largest magnitude by the largest number of the type; powers of two are
 * chosen as compressed-tensors does (utils/mxfp_utils.py), and NVFP4's are FP8 under 448 * 6 by the tensor's largest magnitude.
 */
export async function roundToFloats(
  weight: Float32Array,
  shape: readonly [number, number],
  scheme: Scheme & { codebook: FloatName },
  signal?: AbortSignal,
): Promise<QuantizedTensor> {
  const [n, k] = shape
  const { codebook: name, groupSize } = scheme
  const maxima = await magnitudes(weight, shape, scheme)
  const chosen = isFloatScale(scheme.scaleType)
    ? { scales: await expandScales(scheme, shape, await floatScales(maxima, name, scheme.scaleType)) }
    : scheme.scaleType === "e8m0"
      ? { scales: await powersOver(maxima, shape, scheme) }
      : await levelsOver(maxima, weight, shape, scheme)
  const codes = sharedBytes(n * k)
  const steps = codebookSteps(codebook(name), "even")
  await abortable(signal, flag => native.roundCodebook(weight, n, k, groupSize, chosen.scales, steps, codes, flag))
  return new QuantizedTensor({ scheme, shape, codes, zeros: null, ...chosen })
}

/** The largest magnitude under each stored scale. */
async function magnitudes(weight: Float32Array, [n, k]: readonly [number, number], scheme: Scheme) {
  const { granularity, groupSize, blockRows = 1 } = scheme
  if (granularity === "tensor") return groupMaxima(weight, 1, n * k, n * k)
  if (granularity === "flat")
    throw new TsqError("ERR_OPTION", `rounding to ${scheme.codebook}: scales of runs across rows are not chosen here`)
  const perRow = await groupMaxima(weight, n, k, groupSize)
  if (granularity !== "block") return perRow
  const groups = Math.ceil(k / groupSize)
  const blocks = Math.ceil(n / blockRows)
  const columns = await groupMaxima(await transposed(perRow, n, groups), groups, n, Math.min(blockRows, n))
  return transposed(columns, groups, blocks)
}

async function groupMaxima(values: Float32Array, rows: number, cols: number, group: number): Promise<Float32Array> {
  const out = sharedFloats(rows * Math.ceil(cols / group))
  await native.groupMagnitude(values, rows, cols, group, out)
  return out
}

/** Rounded to the type that they are stored in, of which none becomes 0 or infinite; 1 where all is 0. There are few. */
async function floatScales(maxima: Float32Array, name: FloatName, type: FloatScaleType): Promise<Float32Array> {
  const [least, most] = type === "f16" ? [2 ** -24, 65504] : [2 ** -126, 2 ** 127]
  const scales = sharedFloats(maxima.length)
  for (const [i, max] of maxima.entries())
    scales[i] = max === 0 ? 1 : Math.min(Math.max(max / largest[name], least), most)
  if (type === "f32") return scales
  const rounded = sharedArray(type, scales.length)
  const [f32, own] = [dtypeInfo("f32").code, dtypeInfo(type).code]
  await native.convertAsync(scales, f32, rounded, own, scales.length)
  await native.convertAsync(rounded, own, scales, f32, scales.length)
  return scales
}

/** The power of two below the largest magnitude, one more from 1.75 on, by the power of two of the type's largest number. */
async function powersOver(
  maxima: Float32Array,
  shape: readonly [number, number],
  scheme: Scheme & { codebook: FloatName },
) {
  const [n, k] = shape
  const groups = Math.ceil(k / scheme.groupSize)
  const top = 2 ** Math.floor(Math.log2(largest[scheme.codebook]))
  const limits = powers.slice(0, 254).map(power => nextBelow(Math.fround(1.75 * power * top)))
  const bytes = await codesOf(maxima, 1, {
    codes: Uint8Array.from({ length: 255 }, (_, byte) => byte),
    limits,
    reciprocal: false,
  })
  return powerScales(bytes, [n, groups], "scales")
}

async function levelsOver(
  maxima: Float32Array,
  weight: Float32Array,
  [n, k]: readonly [number, number],
  { groupSize }: Scheme,
) {
  const [max] = await groupMaxima(weight, 1, n * k, n * k)
  const global = max === 0 ? 1 : Math.min(Math.fround((largest.e4m3 * largest.e2m1) / (max as number)), 2 ** 127)
  const bytes = await codesOf(maxima, Math.fround(largest.e2m1 / global), codebookSteps(codebook("e4m3"), "even"))
  const names = { bytes: "scales", global: "global scale" }
  return nvfp4Scales(bytes, [n, Math.ceil(k / groupSize)], global, true, names)
}

/** Codes of values by a scale that all share. */
async function codesOf(values: Float32Array, scale: number, steps: CodebookSteps): Promise<Uint8Array> {
  const codes = sharedBytes(values.length)
  const scales = sharedFloats(1).fill(scale)
  await native.roundCodebook(values, 1, values.length, values.length, scales, steps, codes, null)
  return codes
}
