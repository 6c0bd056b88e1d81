// What is asked of a mixture: a target, the schemes to choose among, and how damage is measured.
import { parseByteSize } from "../../core/byte-size.ts"
import { TsqError } from "../../core/errors.ts"
import { describe, listChoices, type Options } from "../../core/options.ts"
import { type GroupSize, isGroupSize, isNearestOnly, type SchemeName, schemeNames } from "../scheme.ts"

/** Budget of a mixture: bits per weight of the blocks' linears, bytes of all tensors, or nats per token of KL divergence. */
export type Target = { bits: number } | { bytes: number } | { kl: number }

/** A scheme with the recipe's group size, or with its own: "w4a16", { scheme: "w4a16", groupSize: 64 }. "none": unquantized. */
export type Candidate = SchemeName | "none" | { scheme: SchemeName; groupSize: GroupSize }

export interface MixCandidate {
  scheme: SchemeName | "none"
  /** Absent: the recipe's. */
  groupSize?: GroupSize
}

export const sensitivityKinds = ["kl", "layer"] as const
export type SensitivityKind = (typeof sensitivityKinds)[number]

export interface MixRequest {
  target: Target
  /** null: defaultCandidates(). Of those that a caller named each has to fit some linear. */
  candidates: readonly MixCandidate[] | null
  sensitivity: SensitivityKind
}

const targetOptions = ["targetBits", "targetSize", "targetKl"] as const
export const mixOptions = [...targetOptions, "candidates", "sensitivity"] as const

const widths = ["w2a16", "w3a16", "w4a16", "w5a16", "w6a16", "w8a16"] as const
/** From here on scales are worth saving on. */
const muchScale = 0.5

/**
 * Every width with the recipe's group size, and none. Where scales take half a bit of a weight or more, groups twice and four times as long
 * too: a bit more in the codes is then worth more than so many scales.
 */
export function defaultCandidates(groupSize: GroupSize, scaleBits: number): readonly MixCandidate[] {
  const longer =
    typeof groupSize === "number" && scaleBits / groupSize >= muchScale ? [2 * groupSize, 4 * groupSize] : []
  return [
    ...widths.map(scheme => ({ scheme })),
    ...longer.flatMap(groups => widths.map(scheme => ({ scheme, groupSize: groups }))),
    { scheme: "none" },
  ]
}

/** The options of a mixture; null where none is asked for. ERR_OPTION for several targets, or a target beside one scheme. */
export function readMix(options: Options): MixRequest | null {
  const given = targetOptions.filter(name => options.has(name))
  if (given.length === 0) {
    for (const name of ["candidates", "sensitivity"] as const)
      if (options.has(name)) options.fail(name, `no value without one of ${listChoices(targetOptions)}`)
    return null
  }
  if (given.length > 1)
    throw new TsqError("ERR_OPTION", `${options.caller}: ${given.join(" and ")} are both given, expected one target`)
  if (options.has("scheme"))
    options.fail(
      "scheme",
      `no value beside ${given[0]}, which chooses schemes; name those to choose among as candidates`,
    )
  return {
    target: readTarget(options, given[0]!),
    candidates: readCandidates(options),
    sensitivity: options.oneOf("sensitivity", sensitivityKinds, "kl"),
  }
}

function readTarget(options: Options, name: (typeof targetOptions)[number]): Target {
  const above = { min: 0, aboveMin: true }
  if (name === "targetBits") return { bits: options.number(name, above, 0) }
  if (name === "targetKl") return { kl: options.number(name, above, 0) }
  const size = options.raw(name)
  if (typeof size !== "string") return { bytes: options.number(name, above, 0) }
  const bytes = parseByteSize(size)
  if (bytes === null || bytes === 0) return options.fail(name, 'a number of bytes, or a size such as "4GB" or "512MiB"')
  return { bytes }
}

/** The option "candidates"; null where it is not given. */
export function readCandidates(options: Options): readonly MixCandidate[] | null {
  const list = options.raw("candidates")
  if (list === undefined) return null
  if (!Array.isArray(list) || list.length === 0) options.fail("candidates", "an array of schemes")
  const candidates = (list as unknown[]).map(entry => readCandidate(options, entry))
  const own = candidates.find(({ scheme }) => scheme !== "none" && isNearestOnly(scheme))
  const names = new Set(candidates.map(candidateName))
  if (names.size < candidates.length) options.fail("candidates", "every scheme once")
  if (
    own &&
    candidates.some(({ scheme }) => scheme !== "none" && !isNearestOnly(scheme)) &&
    options.raw("rounding") !== "nearest"
  )
    options.fail(
      "candidates",
      `schemes of one kind, or rounding "nearest": ${JSON.stringify(own.scheme)} is only rounded to the nearest value`,
    )
  return candidates
}

function readCandidate(options: Options, entry: unknown): MixCandidate {
  const { scheme, groupSize } = (
    typeof entry === "object" && entry !== null ? entry : { scheme: entry }
  ) as Partial<MixCandidate>
  if (![...schemeNames, "none"].includes(scheme as string))
    throw new TsqError(
      "ERR_OPTION",
      `${options.caller}: candidates has ${describe(entry)}, expected ${listChoices([...schemeNames, "none"])}, or { scheme, groupSize }`,
    )
  if (groupSize === undefined) return { scheme: scheme! }
  if (scheme === "none" || !isGroupSize(groupSize))
    options.fail("candidates", 'entries whose groupSize is an integer of at least 1, "channel" or "tensor"')
  return { scheme: scheme!, groupSize }
}

/** "w4a16", "w4a16 g64", "w4a16 channel", "none". */
export const candidateName = ({ scheme, groupSize }: MixCandidate): string =>
  groupSize === undefined ? scheme : `${scheme} ${typeof groupSize === "number" ? `g${groupSize}` : groupSize}`
