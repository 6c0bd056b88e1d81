// Rounding what was quantized once to another scheme: nearest codes, no calibration.

import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { IntegerScheme, Scheme } from "../core/scheme.ts"
import { nearest } from "../rounding/nearest.ts"
import { isBitsandbytes, resolveScheme, type SchemeTemplate } from "./scheme.ts"

export interface Requantization {
  template: SchemeTemplate
  scaleType: IntegerScheme["scaleType"]
  /** 1 where the target cannot store a zero point of 0. */
  minZero: number
}

/** The scheme on a weight of k columns: a group size that was not asked for gives way to one that divides k; bitsandbytes' blocks need not. */
export function newScheme({ template, scaleType }: Requantization, k: number): Scheme {
  const { name, groupSize, groupSizeGiven } = template
  const fits =
    groupSizeGiven || typeof groupSize !== "number" || isBitsandbytes(name)
      ? groupSize
      : ([groupSize, 64, 32].find(size => k % size === 0) ?? groupSize)
  return resolveScheme({ ...template, groupSize: fits }, k, scaleType, "convertModel")
}

export async function roundAgain(
  name: string,
  values: Float32Array,
  [n, k]: readonly [number, number],
  requantization: Requantization,
  signal: AbortSignal | undefined,
): Promise<QuantizedTensor> {
  const scheme = newScheme(requantization, k)
  const { minZero } = requantization
  const { tensor } = await nearest.round({
    name,
    weight: values,
    n,
    k,
    scheme,
    minZero,
    options: {},
    ...(signal && { signal }),
  })
  return tensor
}
