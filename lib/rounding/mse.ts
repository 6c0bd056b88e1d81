// Mse: the scale of each group that gives nearest codes the least error, found by shrinking the group's range step by step.
// With calibration the error is weighted by E[x²] of the column and squared: the part of the output error that a diagonal
// second moment explains. Without, |error|^2.4, which spares outliers a little (GPTQ's reference code, mse option).
import { abortable, type ScaleSearch } from "../native.ts"
import { gridOf, quantizedTensor, roundedArrays, roundingError } from "./arrays.ts"
import { loopsOn } from "./loops.ts"
import type { Rounding, RoundingInput } from "./rounding.ts"

/** 100 candidates from the full range down to a fifth of it. */
export function scaleSearch(importance: Float32Array | null, weighted = importance !== null): ScaleSearch {
  return { steps: 100, maxShrink: 0.8, norm: weighted ? 2 : 2.4, importance }
}

export const mse: Rounding = {
  name: "mse",
  calibration: "optional",
  async round(input: RoundingInput) {
    const { name, weight, n, k, scheme, clip, minZero, statistics, signal, device } = input
    const loops = loopsOn(device, name)
    const arrays = roundedArrays(n, k, scheme)
    const grid = gridOf(scheme, minZero)
    const search = scaleSearch(statistics?.meanSquare ?? null)
    await abortable(signal, flag => loops.roundNearest(weight, n, k, grid, search, clip ?? null, arrays, flag))
    const tensor = quantizedTensor(input, arrays)
    return { tensor, report: { rounding: "mse", error: await roundingError(input, tensor) } }
  },
}
