// Nearest: scales from the range of each group, codes rounded to nearest even.
import { abortable, native } from "../native.ts"
import { gridOf, quantizedTensor, roundedArrays, roundingError } from "./arrays.ts"
import type { Rounding } from "./rounding.ts"

export const nearest: Rounding = {
  name: "nearest",
  calibration: "none",
  async round(input) {
    const { weight, n, k, scheme, clip, minZero, signal } = input
    const arrays = roundedArrays(n, k, scheme)
    const grid = gridOf(scheme, minZero)
    await abortable(signal, flag => native.roundNearest(weight, n, k, grid, null, clip ?? null, arrays, flag))
    const tensor = quantizedTensor(input, arrays)
    return { tensor, report: { rounding: "nearest", error: await roundingError(input, tensor) } }
  },
}
