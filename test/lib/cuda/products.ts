// Random weights and activations for products on CUDA devices, and what float64 makes of them.
import type { Test } from "tap"
import type { QuantizedTensorInit } from "../../../lib/core/quantized-tensor.ts"
import { QuantizedTensor, Tensor } from "../../../lib/index.ts"
import { random, randomQuantized, type Shape, weightOf } from "../kernels/support.ts"

export type Float = "f16" | "bf16"
export const next = random(7)

export interface More {
  bits?: Shape["bits"]
  zeros?: boolean
  order?: boolean
  inputScale?: boolean
  scales?: Float
}

/** Random codes with scales that f16 and bf16 hold. */
export function weight(n: number, k: number, groupSize: number, more: More = {}) {
  const shape = { n, k, groupSize, bits: more.bits ?? 4, symmetric: !more.zeros }
  const q = randomQuantized(next, shape, {
    groupIndex: more.order ?? false,
    inputScale: more.inputScale ?? false,
  })
  const scales = q.scales.map(() => (1 + Math.floor(next() * 127)) / 1024)
  const scheme = { ...q.scheme, scaleType: more.scales ?? "f16" }
  return new QuantizedTensor({ ...(q as QuantizedTensorInit), scheme, scales })
}

export const values = (shape: number[], dtype: Float) =>
  Tensor.from(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 2 * next() - 1),
    shape,
  ).cast(dtype)

export const floats = async (tensor: Tensor) => (await (await tensor.to("cpu")).cast("f32")).data as Float32Array

/** Checks y = x Wᵀ (+ bias) by the bounds on results of 16 bits. */
export async function check(t: Test, what: string, y: Tensor, x: Tensor, w: QuantizedTensor | Tensor, bias?: Tensor) {
  const [n, k] = w.shape as [number, number]
  const weights = w instanceof Tensor ? await floats(w) : weightOf(w)
  const [a, b, got] = [await floats(x), bias && (await floats(bias)), await floats(y)]
  let [difference, norm] = [0, 0]
  for (let row = 0; row < a.length / k; row++)
    for (let i = 0; i < n; i++) {
      let want = b?.[i] ?? 0
      for (let j = 0; j < k; j++) want += weights[i * k + j]! * a[row * k + j]!
      difference += (got[row * n + i]! - want) ** 2
      norm += want ** 2
    }
  const error = Math.sqrt(difference / norm)
  t.ok(error <= (x.dtype === "f16" ? 6e-4 : 4e-3), `${what}: ${error.toExponential(1)}`)
}
