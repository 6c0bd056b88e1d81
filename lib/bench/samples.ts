// What is multiplied, and how right a result is: random codes and activations, and the float64 product of a sample of outputs.
import { type Dtype, dtypeInfo, type TensorData } from "../core/dtype.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { IntegerScheme } from "../core/scheme.ts"
import { sharedBytes, sharedFloats } from "../core/shared-array.ts"
import { Tensor } from "../core/tensor.ts"
import { native } from "../native.ts"

export type FloatDtype = "f32" | "f16" | "bf16"

/** A generator of uniform 32-bit words: xorshift, quick enough for the codes of a large matrix. */
export function randomWords(seed: number): () => number {
  let state = (Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995) >>> 0 || 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state >>> 0
  }
}

/** Normal deviates, mean 0 and variance 1 (Box and Muller). */
export function randomNormals(seed: number): () => number {
  const next = randomWords(seed)
  const unit = () => (next() + 0.5) / 2 ** 32
  return () => Math.sqrt(-2 * Math.log(unit())) * Math.cos(2 * Math.PI * unit())
}

/** Codes over their whole range and scales of f16, so that outputs are about as large as normal activations. */
export function randomWeight(
  n: number,
  k: number,
  bits: IntegerScheme["bits"],
  groupSize: number,
  seed: number,
): QuantizedTensor {
  const next = randomWords(seed)
  const codes = sharedBytes(n * k)
  const mask = 2 ** bits - 1
  for (let i = 0; i < codes.length; ) {
    const word = next()
    for (let shift = 0; shift < 32 && i < codes.length; shift += 8) codes[i++] = (word >>> shift) & mask
  }
  const group = Math.min(groupSize, k)
  const scales = sharedFloats(n * Math.ceil(k / group))
  const unit = 2 / (2 ** bits * Math.sqrt(k))
  for (let i = 0; i < scales.length; i++) scales[i] = unit * (0.5 + next() / 2 ** 32)
  roundTo("f16", scales)
  const scheme: IntegerScheme = { bits, symmetric: true, granularity: "group", groupSize: group, scaleType: "f16" }
  return new QuantizedTensor({ scheme, shape: [n, k], codes, scales, zeros: null })
}

function roundTo(dtype: "f16" | "bf16", values: Float32Array): void {
  const { code } = dtypeInfo(dtype)
  const narrow = new Uint16Array(values.length)
  native.convert(values, 0, narrow, code, values.length)
  native.convert(narrow, code, values, 0, values.length)
}

/** Normal activations [m, k], as every backend's type holds them. */
export interface Activations {
  m: number
  k: number
  /** The values of `dtype`, exactly. */
  floats: Float32Array
  dtype: FloatDtype
  tensor: Tensor
}

export function randomActivations(m: number, k: number, dtype: FloatDtype, seed: number): Activations {
  const next = randomNormals(seed)
  const floats = sharedFloats(m * k)
  for (let i = 0; i < floats.length; i++) floats[i] = next()
  if (dtype !== "f32") roundTo(dtype, floats)
  const tensor = Tensor.empty([m, k], dtype)
  native.convert(floats, 0, tensor.data, dtypeInfo(dtype).code, floats.length)
  return { m, k, floats, dtype, tensor }
}

/** Float values of a result. */
export function toFloats(data: TensorData, dtype: Dtype): Float32Array {
  if (data instanceof Float32Array) return data
  const floats = new Float32Array(data.length)
  native.convert(data, dtypeInfo(dtype).code, floats, 0, data.length)
  return floats
}

/** Row `i` of a weight, in float64, as the backend that stores it means it. */
export type WeightRow = (i: number, out: Float64Array) => void

/** The rows of a quantized tensor without permutation or input scale. */
export function quantizedRow(q: QuantizedTensor): WeightRow {
  const [, k] = q.shape
  const { groupSize, bits } = q.scheme
  return (i, out) => {
    for (let j = 0; j < k; j++) {
      const group = i * q.groups + Math.floor(j / groupSize)
      out[j] = q.scales[group]! * (q.codes[i * k + j]! - (q.zeros?.[group] ?? 2 ** (bits - 1)))
    }
  }
}

/** At most `count` indices below `size`, evenly spread, the first and the last among them. */
export function spread(size: number, count: number): number[] {
  if (size <= count) return Array.from({ length: size }, (_, i) => i)
  return Array.from({ length: count }, (_, i) => Math.round((i * (size - 1)) / (count - 1)))
}

/**
 * ‖Y − Y64‖ / ‖Y64‖ over a sample of outputs: y [m, n] of a backend, against the float64 product of the same activations and
 * of the weights as the backend stores them.
 */
export function relativeError(
  y: Float32Array,
  x: Activations,
  n: number,
  row: WeightRow,
  outputs = 64,
  most = 16,
): number {
  const { k, floats } = x
  const weights = new Float64Array(k)
  let difference = 0
  let magnitude = 0
  for (const column of spread(n, outputs)) {
    row(column, weights)
    for (const token of spread(x.m, most)) {
      let sum = 0
      for (let j = 0; j < k; j++) sum += floats[token * k + j]! * weights[j]!
      difference += (y[token * n + column]! - sum) ** 2
      magnitude += sum ** 2
    }
  }
  return Math.sqrt(difference / magnitude)
}
