// bitsandbytes' own roundings: blocks of the flattened weight to NF4 or FP4, and rows to 8 bits, both by their largest magnitude.
import { codebook } from "../core/codebooks.ts"
import { TsqError } from "../core/errors.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { Scheme } from "../core/scheme.ts"
import { sharedBytes, sharedFloats } from "../core/tensor.ts"
import { expandScales } from "../formats/arrays.ts"
import { isInt8 } from "../formats/bitsandbytes.ts"
import { int8Activations } from "../formats/bitsandbytes-reader.ts"
import { blockwiseSteps, doubleQuantized, int8Levels, levelScales } from "../formats/scale-levels.ts"
import { abortable, type CodebookSteps, native } from "../native.ts"

/**
 * A weight [n, k] in a scheme of a code book with f32 scales along rows ("group", "channel") or along the flattened matrix ("flat"):
 * the scale is the block's largest magnitude (backends/default/ops.py, quantize_4bit). ERR_OPTION for another scheme.
 */
export async function roundBlockwise(
  weight: Float32Array,
  shape: readonly [number, number],
  scheme: Scheme,
  signal?: AbortSignal,
): Promise<QuantizedTensor> {
  const { codebook: name, granularity, groupSize, runLength, scaleType } = scheme
  const along = granularity === "group" || granularity === "channel" || granularity === "flat"
  if (!name || name === "custom" || !along || scaleType !== "f32" || shape[1] % groupSize !== 0)
    throw new TsqError(
      "ERR_OPTION",
      `rounding in blocks: the scheme is ${name ?? "whole numbers"} by ${granularity} with ${scaleType} scales, expected a known code book in whole blocks with f32 scales`,
    )
  const count = shape[0] * shape[1]
  const block = Math.min(granularity === "flat" ? (runLength as number) : groupSize, count)
  const absmax = sharedFloats(Math.ceil(count / block))
  await native.groupMagnitude(weight, 1, count, block, absmax)
  const codes = sharedBytes(count)
  const steps = blockwiseSteps(codebook(name))
  const whole = Math.floor(count / block)
  const parts = [
    { begin: 0, rows: whole, columns: block },
    { begin: whole * block, rows: 1, columns: count - whole * block },
  ].filter(({ columns }) => columns > 0)
  for (const { begin, rows, columns } of parts) {
    const end = begin + rows * columns
    const scales = absmax.subarray(begin / block)
    await abortable(signal, flag =>
      native.roundCodebook(
        weight.subarray(begin, end),
        rows,
        columns,
        columns,
        scales,
        steps,
        codes.subarray(begin, end),
        flag,
      ),
    )
  }
  return new QuantizedTensor({ scheme, shape, codes, scales: await expandScales(scheme, shape, absmax), zeros: null })
}

/** Blocks or rows, whichever the scheme has; double quantization where its scales are in levels. ERR_OPTION for another scheme. */
export async function roundAsBitsandbytes(
  weight: Float32Array,
  shape: readonly [number, number],
  scheme: Scheme,
  signal?: AbortSignal,
): Promise<QuantizedTensor> {
  if (isInt8(scheme)) return roundInt8(weight, shape, signal)
  if (scheme.scaleType !== "levels") return roundBlockwise(weight, shape, scheme, signal)
  return doubleQuantized(await roundBlockwise(weight, shape, { ...scheme, scaleType: "f32" }, signal))
}

/** −127 to 127 as codes of 8 bits; halves go to the even number. */
function int8Steps(): CodebookSteps {
  const codes = sharedBytes(255)
  const limits = sharedFloats(254)
  for (let i = 0; i < 255; i++) codes[i] = i + 1
  for (let i = 0; i < 254; i++) {
    const middle = i - 126.5
    // The lower number is i - 127; where it is odd, the middle itself goes up.
    limits[i] = i % 2 === 0 ? below(middle) : middle
  }
  return { codes, limits, reciprocal: false }
}

/** The f32 before x, which is no zero. */
function below(x: number): number {
  const bits = new Int32Array(Float32Array.of(x).buffer)
  bits[0] = (bits[0] as number) + (x < 0 ? 1 : -1)
  return new Float32Array(bits.buffer)[0] as number
}

/** LLM.int8() (functional.py, int8_vectorwise_quant): rows times 127 / their largest magnitude, to the nearest integer. */
export async function roundInt8(
  weight: Float32Array,
  shape: readonly [number, number],
  signal?: AbortSignal,
): Promise<QuantizedTensor> {
  const [n, k] = shape
  const scb = sharedFloats(n)
  await native.groupMagnitude(weight, n, k, k, scb)
  const factors = sharedFloats(n)
  // As torch computes 127 / SCB: by the reciprocal, rounded to f32. CUDA's kernels divide approximately, which may differ where it is a half.
  for (let row = 0; row < n; row++) factors[row] = scb[row] === 0 ? 0 : 127 * Math.fround(1 / (scb[row] as number))
  const scaled = sharedFloats(n * k)
  await native.scaleMatrix(weight, n, k, factors, null, scaled)
  const codes = sharedBytes(n * k)
  const ones = sharedFloats(n).fill(1)
  await abortable(signal, flag => native.roundCodebook(scaled, n, k, k, ones, int8Steps(), codes, flag))
  const levels = int8Levels(scb)
  return new QuantizedTensor({
    scheme: int8Scheme(k),
    shape,
    codes,
    scales: await levelScales(levels),
    zeros: null,
    levels,
  })
}

/** What LLM.int8() makes of a weight of k columns; its activations are rounded row by row where they are no outliers. */
export const int8Scheme = (k: number): Scheme => ({
  bits: 8,
  symmetric: true,
  granularity: "channel",
  groupSize: k,
  scaleType: "levels",
  activations: int8Activations(),
})
