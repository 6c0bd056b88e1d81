// An integer scheme as the addon's rounding takes it.
import type { Grid } from "../../binding.d.ts"
import type { IntegerScheme } from "../core/quantized-tensor.ts"

const scaleTypes = { f32: 0, f16: 1, bf16: 2 } as const

/** minZero: 1 where the target format cannot store a zero point of 0. */
export const gridOf = (scheme: IntegerScheme, minZero: number): Grid => ({
  bits: scheme.bits,
  symmetric: scheme.symmetric,
  groupSize: scheme.groupSize,
  perTensor: scheme.granularity === "tensor",
  scaleType: scaleTypes[scheme.scaleType],
  minZero,
})
