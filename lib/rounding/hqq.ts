// HQQ (Badri & Shaji 2023): scales and zero points of least Σ|error|^0.7 by half-quadratic splitting, without calibration. The loop is
// native/rounding/hqq.cc. HQQ's own zero points are any numbers; here they are whole, as every format stores them, and the scales
// are improved with them, which symmetric schemes profit from too.
import { abortable, native } from "../native.ts"
import { gridOf, quantizedTensor, roundedArrays, roundingError } from "./arrays.ts"
import type { Rounding } from "./rounding.ts"

/** HQQ's defaults. */
const defaults = { steps: 20, norm: 0.7, beta: 10, kappa: 1.01 }

export const hqq: Rounding = {
  name: "hqq",
  calibration: "none",
  async round(input) {
    const { weight, n, k, scheme, clip, minZero, signal } = input
    const arrays = roundedArrays(n, k, scheme)
    const grid = gridOf(scheme, minZero)
    await abortable(signal, flag => native.roundHqq(weight, n, k, grid, defaults, clip ?? null, arrays, flag))
    const tensor = quantizedTensor(input, arrays)
    return { tensor, report: { rounding: "hqq", error: await roundingError(input, tensor) } }
  },
}
