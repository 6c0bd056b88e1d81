import { awq } from "./awq.ts"
import { smooth } from "./smooth.ts"
import type { Transform } from "./transform.ts"

export const transformNames = ["awq", "smooth", "hadamard"] as const
/** What is reshaped before rounding: block by block, or, by "hadamard", the whole model before its first block. */
export type TransformName = (typeof transformNames)[number]

const transforms: Record<Transform["name"], Transform> = { awq, smooth }

export const transformByName = (name: Transform["name"]): Transform => transforms[name]

/** Those that work block by block, on calibration. */
export const blockTransforms = (names: readonly TransformName[]): Transform["name"][] =>
  names.filter(name => name !== "hadamard")
