// Schemes whose products engines compute in the type itself: int8 and FP8 with activations quantized as they come, MXFP4 and NVFP4 weights.
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import type { ActivationScheme, FloatScaleType, Scheme } from "../core/scheme.ts"
import type { FormatName } from "../formats/format.ts"
import { mxGroup, nvfp4Scheme } from "../formats/stored-scales.ts"

const names = ["w8a8", "fp8", "mxfp4", "nvfp4"] as const
type EngineScheme = (typeof names)[number]

export const isEngineScheme = (name: string): name is EngineScheme => (names as readonly string[]).includes(name)

export const engineBits = (name: EngineScheme): 4 | 8 => (name === "w8a8" || name === "fp8" ? 8 : 4)

/** Rows and columns of a block of FP8. */
const blockRows = 128

/** What engines have; of FP8 blocks in fp8's own files, otherwise a scale a row. */
export function engineGroups(name: EngineScheme, format: FormatName | undefined): number | "channel" {
  if (name === "mxfp4") return mxGroup
  if (name === "nvfp4") return 16
  return name === "fp8" && format === "fp8" ? blockRows : "channel"
}

const perToken = (type: "int8" | "e4m3"): ActivationScheme => ({
  type,
  symmetric: true,
  dynamic: true,
  granularity: "token",
})

/** The scheme on a weight of k columns. FP8 with a number of columns has blocks of 128 rows by so many. ERR_OPTION for groups that it cannot have. */
export function engineScheme(
  name: EngineScheme,
  groups: number | "channel" | "tensor",
  k: number,
  scaleType: FloatScaleType,
  caller: string,
): Scheme {
  const refuse = (expected: string) =>
    new TsqError("ERR_OPTION", `${caller}: groupSize is ${describe(groups)}, expected ${expected} for scheme "${name}"`)
  if (name === "nvfp4") {
    if (groups !== 16) throw refuse("16")
    return nvfp4Scheme(k)
  }
  if (name === "mxfp4") {
    if (groups !== mxGroup) throw refuse(String(mxGroup))
    return { ...nvfp4Scheme(k), groupSize: Math.min(mxGroup, k), scaleType: "e8m0" }
  }
  const numbers: { codebook?: "e4m3" } = name === "fp8" ? { codebook: "e4m3" } : {}
  const base = { bits: 8, symmetric: true, scaleType, ...numbers } as const
  const type = name === "fp8" ? "e4m3" : "int8"
  if (typeof groups !== "number") return { ...base, granularity: groups, groupSize: k, activations: perToken(type) }
  if (name === "fp8")
    return {
      ...base,
      granularity: "block",
      blockRows,
      groupSize: Math.min(groups, k),
      activations: { type, symmetric: true, dynamic: true, granularity: "group", groupSize: groups },
    }
  if (groups > k) throw refuse(`at most k = ${k}, or "channel"`)
  return { ...base, granularity: "group", groupSize: groups, activations: perToken(type) }
}
