// What the preset "best" tries on every block: transforms and roundings that are each the strongest somewhere.
import type { RoundingOptions } from "../../rounding/rounding.ts"
import type { TransformName } from "../../transforms/registry.ts"
import type { SensitivityKind } from "../mixed/request.ts"
import type { Recipe, RoundingName } from "../recipe.ts"

export interface Strategy {
  rounding: RoundingName
  transforms: readonly TransformName[]
  /** Beside the recipe's. */
  options: Pick<RoundingOptions, "order" | "damp">
  /** Whether it rounds towards the outputs of the unquantized model. */
  errorCorrection: boolean
}

export interface Contest {
  strategies: readonly Strategy[]
  /** "kl": the model's output, with the original blocks behind; "layer": the block's own, which says less (docs/mixed-precision.md). */
  objective: SensitivityKind
}

/**
 * Weighted scale search, which cannot fit the noise of a small calibration set; GPTQ with AWQ's scales; and what rounds towards the
 * unquantized model's outputs, with and without those scales: GPTQ with descent (Qronos), and learned rounding.
 */
export const strategies: readonly Strategy[] = [
  { rounding: "mse", transforms: [], options: {}, errorCorrection: false },
  { rounding: "gptq", transforms: ["awq"], options: { order: "static" }, errorCorrection: false },
  { rounding: "qronos", transforms: [], options: { order: "static" }, errorCorrection: true },
  { rounding: "qronos", transforms: [], options: { order: "group-aware" }, errorCorrection: true },
  { rounding: "auto-round", transforms: [], options: { order: "static" }, errorCorrection: true },
  { rounding: "auto-round", transforms: ["awq"], options: { order: "static" }, errorCorrection: true },
  { rounding: "auto-round", transforms: [], options: { order: "group-aware", damp: 0.05 }, errorCorrection: true },
  { rounding: "auto-round", transforms: ["awq"], options: { order: "static", damp: 0.05 }, errorCorrection: true },
]

/** The recipe that a strategy stands for in another. */
export const strategyRecipe = (
  recipe: Recipe,
  { rounding, transforms, options, errorCorrection }: Strategy,
): Recipe => ({
  ...recipe,
  rounding,
  transforms,
  errorCorrection,
  roundingOptions: { ...recipe.roundingOptions, ...options },
})

/** "awq + gptq, group-aware". */
export const strategyName = ({ rounding, transforms, options }: Strategy): string =>
  [...transforms, rounding].join(" + ") +
  (options.order ? `, ${options.order}` : "") +
  (options.damp ? `, damp ${options.damp}` : "")
