// The options of roundings, read once for quantize() and quantizeModel().
import type { Options } from "../core/options.ts"
import type { RoundingOptions } from "./rounding.ts"

export const roundingOptionNames = ["damp", "order", "scaleSearch", "block", "steps", "refine"] as const

/** What was given of them; ERR_OPTION for what is out of range. */
export function readRoundingOptions(options: Options): RoundingOptions {
  const given: Record<(typeof roundingOptionNames)[number], unknown> = {
    damp: options.number("damp", { min: 0, aboveMin: true, max: 1 }, undefined),
    order: options.oneOf("order", ["static", "group-aware", "none", "dynamic"], undefined),
    scaleSearch: options.boolean("scaleSearch", undefined),
    block: options.integer("block", { min: 1 }, undefined),
    steps: options.integer("steps", { min: 0, max: 100_000 }, undefined),
    refine: options.integer("refine", { min: 0, max: 100_000 }, undefined),
  }
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as RoundingOptions
}
