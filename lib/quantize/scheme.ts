// Schemes by name: "w4a16" with a group size and symmetry, and what they become on a weight of a given k.
import { TsqError } from "../core/errors.ts"
import { closest, describe, listChoices, type Options } from "../core/options.ts"
import type { IntegerScheme, Scheme } from "../core/scheme.ts"
import { blockScheme } from "../formats/bitsandbytes-reader.ts"
import type { FormatName } from "../formats/format.ts"
import { int8Scheme } from "../rounding/blockwise.ts"
import { engineBits, engineGroups, engineScheme, isEngineScheme } from "./engine-schemes.ts"

export const schemeNames = [
  "w8a16",
  "w6a16",
  "w5a16",
  "w4a16",
  "w3a16",
  "w2a16",
  "nf4",
  "fp4",
  "llm.int8",
  "w8a8",
  "fp8",
  "mxfp4",
  "nvfp4",
] as const
export type SchemeName = (typeof schemeNames)[number]

/** Code books of bitsandbytes, with scales of blocks along the flattened weight. */
const isBlockScheme = (name: SchemeName): name is "nf4" | "fp4" => name === "nf4" || name === "fp4"

/** Schemes of bitsandbytes, which are rounded to the nearest value and symmetric. */
export const isBitsandbytes = (name: SchemeName): boolean => isBlockScheme(name) || name === "llm.int8"

export const bitsOf = (name: SchemeName): IntegerScheme["bits"] =>
  isEngineScheme(name)
    ? engineBits(name)
    : isBlockScheme(name)
      ? 4
      : name === "llm.int8"
        ? 8
        : (Number(name[1]) as IntegerScheme["bits"])

/** Schemes that are rounded to the nearest value, and symmetric. */
export const isNearestOnly = (name: SchemeName): boolean =>
  isBitsandbytes(name) || (isEngineScheme(name) && name !== "w8a8")

/** What the engine of a scheme takes; null where that depends on the model. */
export function defaultGroups(name: SchemeName, format: FormatName | undefined): GroupSize | null {
  if (isEngineScheme(name)) return engineGroups(name, format)
  return isBitsandbytes(name) ? (isBlockScheme(name) ? 64 : "channel") : null
}

/** A scheme of bitsandbytes on a weight of k columns. ERR_OPTION for groups that it does not have. */
export function bitsandbytesScheme(
  name: SchemeName,
  groupSize: GroupSize,
  k: number,
  twice: boolean,
  caller: string,
): Scheme {
  if (isBlockScheme(name) && typeof groupSize === "number")
    return blockScheme(name, groupSize, k, twice ? "levels" : "f32")
  if (name === "llm.int8" && groupSize === "channel") return int8Scheme(k)
  throw new TsqError(
    "ERR_OPTION",
    `${caller}: groupSize is ${describe(groupSize)}; scheme "${name}" has ${isBlockScheme(name) ? "blocks of a number of elements" : 'one scale a row, "channel"'}`,
  )
}

export type GroupSize = number | "channel" | "tensor"

export const isGroupSize = (value: unknown): value is GroupSize =>
  value === "channel" || value === "tensor" || isCount(value)

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
    const meant = typeof name === "string" ? closest(name, schemeNames) : null
    options.fail("scheme", `${listChoices(schemeNames)}${meant ? ` (did you mean ${JSON.stringify(meant)}?)` : ""}`)
  }
  const groupSize = options.raw("groupSize")
  if (groupSize !== undefined && !isGroupSize(groupSize))
    options.fail("groupSize", 'an integer of at least 1, "channel" or "tensor"')
  const symmetric = options.boolean("symmetric", true)
  if ((isNearestOnly(name) || name === "w8a8") && !symmetric) options.fail("symmetric", `true for scheme "${name}"`)
  return {
    name,
    bits: bitsOf(name),
    symmetric,
    groupSize: groupSize ?? defaultGroups(name, undefined) ?? defaultGroupSize,
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
): Scheme {
  const { name, bits, symmetric, groupSize } = template
  if (isBitsandbytes(name)) return bitsandbytesScheme(name, groupSize, k, false, caller)
  if (isEngineScheme(name)) return engineScheme(name, groupSize, k, scaleType, caller)
  if (typeof groupSize !== "number") return { bits, symmetric, granularity: groupSize, groupSize: k, scaleType }
  if (groupSize <= k) return { bits, symmetric, granularity: "group", groupSize, scaleType }
  if (template.groupSizeGiven)
    throw new TsqError(
      "ERR_OPTION",
      `${caller}: groupSize ${groupSize} is larger than k = ${k}; use "channel" or at most ${k}`,
    )
  return { bits, symmetric, granularity: "channel", groupSize: k, scaleType }
}
