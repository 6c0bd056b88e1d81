// Schemes by name: "w4a16" with a group size and symmetry, and what they become on a weight of a given k.
import { TsqError } from "../core/errors.ts"
import { closest, describe, listChoices, type Options } from "../core/options.ts"
import type { IntegerScheme } from "../core/scheme.ts"

export const schemeNames = ["w8a16", "w6a16", "w5a16", "w4a16", "w3a16", "w2a16"] as const
export type SchemeName = (typeof schemeNames)[number]

/** Named by the design, refused until they are built. */
const laterSchemes: readonly string[] = ["w8a8", "fp8", "nf4", "fp4", "mxfp4", "nvfp4"]

export type GroupSize = number | "channel" | "tensor"

/** A scheme before the weight is known. */
export interface SchemeTemplate {
  name: SchemeName
  bits: IntegerScheme["bits"]
  symmetric: boolean
  groupSize: GroupSize
  /** Whether the caller chose the group size: the default gives way to a smaller k, a choice does not. */
  groupSizeGiven: boolean
}

const defaultGroupSize = 128

/** Reads the options scheme (required), groupSize (default 128) and symmetric (default true). */
export function parseScheme(options: Options): SchemeTemplate {
  const name = options.raw("scheme")
  if (!isSchemeName(name)) {
    if (laterSchemes.includes(name as string))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${options.caller}: scheme ${describe(name)} is not available in this version; available: ${schemeNames.join(", ")}`,
      )
    const meant = typeof name === "string" ? closest(name, schemeNames) : null
    options.fail("scheme", `${listChoices(schemeNames)}${meant ? ` (did you mean ${JSON.stringify(meant)}?)` : ""}`)
  }
  const groupSize = options.raw("groupSize")
  if (groupSize !== undefined && groupSize !== "channel" && groupSize !== "tensor" && !isCount(groupSize))
    options.fail("groupSize", 'an integer of at least 1, "channel" or "tensor"')
  return {
    name,
    bits: Number(name[1]) as IntegerScheme["bits"],
    symmetric: options.boolean("symmetric", true),
    groupSize: groupSize ?? defaultGroupSize,
    groupSizeGiven: groupSize !== undefined,
  }
}

const isSchemeName = (name: unknown): name is SchemeName => (schemeNames as readonly unknown[]).includes(name)
const isCount = (value: unknown): value is number =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 1

/**
 * The scheme on a weight of k columns. A group size that was asked for and is larger than k is refused (ERR_OPTION); the
 * default becomes one group a row.
 */
export function resolveScheme(
  template: SchemeTemplate,
  k: number,
  scaleType: IntegerScheme["scaleType"],
  caller: string,
): IntegerScheme {
  const { bits, symmetric, groupSize } = template
  if (typeof groupSize !== "number") return { bits, symmetric, granularity: groupSize, groupSize: k, scaleType }
  if (groupSize <= k) return { bits, symmetric, granularity: "group", groupSize, scaleType }
  if (template.groupSizeGiven)
    throw new TsqError(
      "ERR_OPTION",
      `${caller}: groupSize ${groupSize} is larger than k = ${k}; use "channel" or at most ${k}`,
    )
  return { bits, symmetric, granularity: "channel", groupSize: k, scaleType }
}
