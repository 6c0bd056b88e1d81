// Nearest: scales from the range of each group, codes rounded to nearest even; what is no whole number as its engines round it.
import { isIntegerScheme } from "../core/scheme.ts"
import { abortable } from "../native.ts"
import { gridOf, quantizedTensor, roundedArrays, roundingError } from "./arrays.ts"
import { roundAsBitsandbytes } from "./blockwise.ts"
import { isEngineFloat, roundToFloats } from "./engine-formats.ts"
import { loopsOn } from "./loops.ts"
import type { Rounding } from "./rounding.ts"

export const nearest: Rounding = {
  name: "nearest",
  calibration: "none",
  async round(input) {
    const { name, weight, n, k, scheme, clip, minZero, signal, device } = input
    if (!isIntegerScheme(scheme)) {
      const tensor = isEngineFloat(scheme)
        ? await roundToFloats(weight, [n, k], scheme, signal)
        : await roundAsBitsandbytes(weight, [n, k], scheme, signal)
      return { tensor, report: { rounding: "nearest", error: await roundingError(input, tensor) } }
    }
    const loops = loopsOn(device, name)
    const arrays = roundedArrays(n, k, scheme)
    const grid = gridOf(scheme, minZero)
    await abortable(signal, flag => loops.roundNearest(weight, n, k, grid, null, clip ?? null, arrays, flag))
    const tensor = quantizedTensor(input, arrays)
    return { tensor, report: { rounding: "nearest", error: await roundingError(input, tensor) } }
  },
}
