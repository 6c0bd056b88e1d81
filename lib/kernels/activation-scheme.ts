// What kernels are told of the activations that a weight's scheme wants.
import type { ActivationParameters } from "../core/quantized-tensor.ts"
import type { ActivationScheme, Scheme } from "../core/scheme.ts"

/** Types that products round activations to; "exact": none. */
export const activationTypes = ["exact", "int8", "e4m3", "e5m2"] as const
export type ActivationType = (typeof activationTypes)[number]
const grains = ["tensor", "token", "group"] as const

/** Why products with activations as a scheme says are not computed, so that they are exact; null where they are. */
export function refusesScheme(scheme: ActivationScheme, activation: ActivationParameters | null): string | null {
  const { type, symmetric, dynamic, granularity } = scheme
  if (type === "e2m1") return "activations of 4 bits are not rounded here"
  if (type !== "int8" && !symmetric) return "8-bit floats have no zero points"
  if (dynamic) return null
  if (granularity !== "tensor") return "static scales are taken for the whole tensor"
  if (activation?.scale.length !== 1) return "it stores no scale of activations"
  const scale = activation.scale[0] as number
  const zero = activation.zero?.[0] ?? 0
  if (!Number.isFinite(scale) || scale <= 0) return `its scale of activations is ${scale}`
  return zero >= -128 && zero <= 127 && (zero === 0 || !symmetric) ? null : `its zero point of activations is ${zero}`
}

/** As native packCodes takes it: type, grain, symmetric, dynamic, group size, scale, zero point, threshold. null: exact. */
export function activationNumbers(
  { activations }: Scheme,
  activation: ActivationParameters | null,
): Float64Array<ArrayBuffer> | null {
  if (!activations || refusesScheme(activations, activation) !== null) return null
  const { type, symmetric, dynamic, granularity, groupSize = 0, threshold = 0 } = activations
  return Float64Array.of(
    activationTypes.indexOf(type as ActivationType),
    grains.indexOf(granularity),
    Number(symmetric),
    Number(dynamic),
    groupSize,
    activation?.scale[0] ?? 1,
    activation?.zero?.[0] ?? 0,
    threshold,
  )
}
