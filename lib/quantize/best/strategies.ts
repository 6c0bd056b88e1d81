// What the preset "best" tries on every block: transforms and roundings that are each the strongest somewhere.
import { roundingNames } from "../../rounding/registry.ts"
import type { RoundingOptions } from "../../rounding/rounding.ts"
import type { TransformName } from "../../transforms/registry.ts"
import type { SensitivityKind } from "../mixed/request.ts"
import type { RoundingName } from "../recipe.ts"

export interface Strategy {
  rounding: RoundingName
  transforms: readonly TransformName[]
  /** Beside the recipe's. */
  options: Pick<RoundingOptions, "order">
}

export interface Contest {
  strategies: readonly Strategy[]
  /** "kl": the model's output, with the original blocks behind; "layer": the block's own, which says less (docs/mixed-precision.md). */
  objective: SensitivityKind
}

const known: readonly Strategy[] = [
  { rounding: "mse", transforms: [], options: {} },
  { rounding: "gptq", transforms: [], options: { order: "static" } },
  { rounding: "gptq", transforms: [], options: { order: "group-aware" } },
  { rounding: "gptq", transforms: ["awq"], options: { order: "static" } },
  { rounding: "gptq", transforms: ["awq"], options: { order: "group-aware" } },
]

/** Weighted scale search, which cannot fit the noise of a small calibration set, and GPTQ in both orders, with and without AWQ's scales. */
export const strategies = known.filter(({ rounding }) => roundingNames.includes(rounding))

/** "awq + gptq, group-aware". */
export const strategyName = ({ rounding, transforms, options }: Strategy): string =>
  [...transforms, rounding].join(" + ") + (options.order ? `, ${options.order}` : "")
