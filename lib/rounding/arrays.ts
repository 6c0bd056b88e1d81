// What every rounding does around the native call: the grid, arrays for the codes, and how far the result is from the weight.
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import { isIntegerScheme, type Scheme } from "../core/scheme.ts"
import { sharedBytes, sharedFloats } from "../core/shared-array.ts"
import { dequantizeAsync } from "../kernels/dequantize.ts"
import { type Grid, native, type RoundedArrays } from "../native.ts"
import { loopsOn } from "./loops.ts"
import type { RoundingInput } from "./rounding.ts"

const scaleTypes = { f32: 0, f16: 1, bf16: 2 } as const

/** The native description of a scheme. ERR_UNSUPPORTED for one that is no grid of whole numbers. */
export function gridOf(scheme: Scheme, minZero = 0): Grid {
  if (!isIntegerScheme(scheme))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${scheme.codebook ?? `${scheme.bits} bits with ${scheme.scaleType} scales`} can only be rounded to by "nearest", without transforms`,
    )
  return {
    bits: scheme.bits,
    symmetric: scheme.symmetric,
    groupSize: scheme.groupSize,
    perTensor: scheme.granularity === "tensor",
    scaleType: scaleTypes[scheme.scaleType],
    minZero: scheme.symmetric ? 0 : minZero,
  }
}

/** Codes [n, k], scales [n, groups] and, for asymmetric schemes, zeros [n, groups], on shared memory. */
export function roundedArrays(n: number, k: number, scheme: Scheme): RoundedArrays {
  const groups = Math.ceil(k / scheme.groupSize)
  return {
    codes: sharedBytes(n * k),
    scales: sharedFloats(n * groups),
    zeros: scheme.symmetric ? null : sharedBytes(n * groups),
  }
}

export function quantizedTensor(
  input: RoundingInput,
  arrays: RoundedArrays,
  groupIndex: Int32Array | null = null,
): QuantizedTensor {
  return new QuantizedTensor({ scheme: input.scheme, shape: [input.n, input.k], ...arrays, groupIndex })
}

/** RoundingReport.error: mean squared output error summed over outputs where there are statistics, mean squared weight error otherwise. */
export async function roundingError(input: RoundingInput, tensor: QuantizedTensor): Promise<number> {
  const { name, weight, n, k, statistics, signal, device } = input
  const approx = await dequantizeAsync(tensor)
  throwIfAborted(signal)
  if (statistics) return loopsOn(device, name).layerError(weight, approx, n, k, statistics.hessian.value)
  return (await native.squaredDifference(weight, approx, n * k)) / (n * k)
}
