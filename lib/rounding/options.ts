// The options of roundings, read once for quantize() and quantizeModel().
import { listChoices, type Options } from "../core/options.ts"
import type { Rounding, RoundingOptions } from "./rounding.ts"

export const roundingOptionNames = ["damp", "order", "scaleSearch", "block", "steps", "refine"] as const

const byGptq = ["gptq", "auto-round", "qronos"] as const
const onOutputs = [...byGptq, "lsq"] as const
/** Roundings that look at an option. */
const readers: Record<(typeof roundingOptionNames)[number], readonly Rounding["name"][]> = {
  damp: onOutputs,
  order: byGptq,
  scaleSearch: byGptq,
  block: byGptq,
  steps: ["auto-round", "lsq"],
  refine: onOutputs,
}

/** What was given of them; ERR_OPTION for what is out of range, or means nothing to `rounding` (null: several may be used). */
export function readRoundingOptions(options: Options, rounding: Rounding["name"] | null = null): RoundingOptions {
  const given: Record<(typeof roundingOptionNames)[number], unknown> = {
    damp: options.number("damp", { min: 0, aboveMin: true, max: 1 }, undefined),
    order: options.oneOf("order", ["static", "group-aware", "none", "dynamic"], undefined),
    scaleSearch: options.boolean("scaleSearch", undefined),
    block: options.integer("block", { min: 1 }, undefined),
    steps: options.integer("steps", { min: 0, max: 100_000 }, undefined),
    refine: options.integer("refine", { min: 0, max: 100_000 }, undefined),
  }
  for (const name of roundingOptionNames)
    if (rounding !== null && options.has(name) && !readers[name].includes(rounding))
      options.fail(name, `no value beside rounding "${rounding}"; ${listChoices(readers[name])} look at it`)
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as RoundingOptions
}
