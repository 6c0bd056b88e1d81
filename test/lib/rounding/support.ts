// What the tests of roundings share: weights with outlier columns, correlated inputs, and the objectives in float64.
import type { Test } from "tap"
import type { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import type { IntegerScheme } from "../../../lib/core/scheme.ts"
import { sharedFloats } from "../../../lib/core/shared-array.ts"
import { Accumulator } from "../../../lib/models/accumulator.ts"
import type { RoundingInput } from "../../../lib/rounding/rounding.ts"
import { weightOf } from "../kernels/support.ts"
import { random } from "../native/helpers.ts"

/** Roughly normal, by the sum of four uniforms. */
export const normal = (next: () => number): number => (next() + next() + next() + next() - 2) * 1.73

export function randomWeight(n: number, k: number, seed: number): Float32Array {
  const next = random(seed)
  return fill(n * k, () => 0.05 * normal(next))
}

/** Rows that share a few directions, with columns of very different size: what layers of language models see. */
export function randomInputs(rows: number, k: number, seed: number): Float32Array {
  const next = random(seed)
  const directions = fill(4 * k, () => normal(next))
  const size = fill(k, () => (next() < 0.05 ? 10 : 0.2 + next()))
  const result = sharedFloats(rows * k)
  for (let row = 0; row < rows; row++) {
    const mix = [normal(next), normal(next), normal(next), normal(next)]
    for (let j = 0; j < k; j++) {
      let value = 0.5 * normal(next)
      for (let d = 0; d < 4; d++) value += mix[d]! * directions[d * k + j]!
      result[row * k + j] = size[j]! * value
    }
  }
  return result
}

function fill(count: number, value: () => number): Float32Array {
  const result = sharedFloats(count)
  for (let i = 0; i < count; i++) result[i] = value()
  return result
}

export const scheme = (change: Partial<IntegerScheme> = {}): IntegerScheme => ({
  bits: 4,
  symmetric: true,
  granularity: "group",
  groupSize: 32,
  scaleType: "f32",
  ...change,
})

export const roundingInput = (
  weight: Float32Array,
  n: number,
  k: number,
  change: Partial<RoundingInput> = {},
): RoundingInput => ({
  name: "test",
  weight,
  n,
  k,
  scheme: scheme(),
  minZero: 0,
  options: {},
  ...change,
})

export async function statisticsOf(
  t: Test,
  x: Float32Array,
  k: number,
): Promise<NonNullable<RoundingInput["statistics"]>> {
  const hessian = new Accumulator("hessian", k)
  t.teardown(() => hessian.dispose())
  await hessian.add(x, x.length / k)
  return { hessian: hessian.handle, meanSquare: hessian.meanSquare(), rows: x.length / k }
}

/** Mean over rows of |x (W - Q)ᵀ|², in float64. */
export function outputError(x: Float32Array, weight: Float32Array, q: QuantizedTensor): number {
  const [n, k] = q.shape
  const approx = weightOf(q)
  const rows = x.length / k
  let sum = 0
  for (let row = 0; row < rows; row++)
    for (let i = 0; i < n; i++) {
      let y = 0
      for (let j = 0; j < k; j++) y += x[row * k + j]! * (weight[i * k + j]! - approx[i * k + j]!)
      sum += y * y
    }
  return sum / rows
}

/** Sum of importance[j] |w - q|^norm, in float64. */
export function weightedError(
  weight: Float32Array,
  q: QuantizedTensor,
  importance: Float32Array | null,
  norm: number,
): number {
  const approx = weightOf(q)
  const k = q.shape[1]
  let sum = 0
  for (let i = 0; i < approx.length; i++) sum += (importance?.[i % k] ?? 1) * Math.abs(weight[i]! - approx[i]!) ** norm
  return sum
}
