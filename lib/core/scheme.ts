// Schemes: what the numbers of a quantized tensor are, whatever rounding chose them and whatever format stores them.
import { type CodebookName, codebookBits, isCodebookName } from "./codebooks.ts"
import { TsqError } from "./errors.ts"
import { describe, listChoices } from "./options.ts"

/** What a checkpoint says that its engine does with the activations of a module. */
export interface ActivationScheme {
  type: "int8" | "e4m3" | "e5m2" | "e2m1"
  symmetric: boolean
  /** Scales taken from the activations themselves; otherwise they are stored (QuantizedTensor.activation). */
  dynamic: boolean
  granularity: "tensor" | "token" | "group"
  /** Columns of a group; only with "group". */
  groupSize?: number
  /** Only int8, symmetric: columns where some row of a batch has this magnitude are multiplied as they are (LLM.int8()). */
  threshold?: number
}

/** Scales that are floats by themselves; what roundings choose for and most formats store. */
export type FloatScaleType = "f32" | "f16" | "bf16"

/** What the numbers of a weight are. */
export interface Scheme {
  bits: 2 | 3 | 4 | 5 | 6 | 7 | 8
  /** No zero points and no offsets. True for every code book. */
  symmetric: boolean
  /**
   * What shares a scale. "group": columns along k. "channel": a row. "tensor": all. "block": `blockRows` rows by `groupSize` columns.
   * "flat": runs of `runLength` elements of the row-major matrix, where rows do not hold whole runs (they are groups otherwise).
   * In a QuantizedTensor scales are [n, groups] all the same: those shared by several rows or groups are repeated.
   */
  granularity: "group" | "channel" | "tensor" | "block" | "flat"
  /** Columns of a group; k for channel and tensor; for flat a common divisor of k and runLength. The last group may be shorter. */
  groupSize: number
  /** Only with granularity "block". The last rows may be fewer. */
  blockRows?: number
  /** Only with granularity "flat". */
  runLength?: number
  /** Encoding that the scales will be stored in; their values are already rounded to it. "levels": QuantizedTensor.levels. */
  scaleType: FloatScaleType | "e8m0" | "levels"
  /** What the codes stand for; absent: whole numbers. "custom": values of the tensor's own. */
  codebook?: CodebookName | "custom"
  /** Absent: activations as they are. Products follow it where they are asked for `activations: "scheme"`. */
  activations?: ActivationScheme
}

/** Whole numbers with scales that are floats, along rows: what roundings make. */
export interface IntegerScheme extends Scheme {
  granularity: "group" | "channel" | "tensor"
  scaleType: FloatScaleType
  codebook?: never
}

export const isIntegerScheme = (scheme: Scheme): scheme is IntegerScheme =>
  scheme.codebook === undefined &&
  isFloatScale(scheme.scaleType) &&
  scheme.granularity !== "block" &&
  scheme.granularity !== "flat"

const granularities = ["group", "channel", "tensor", "block", "flat"] as const
const scaleTypes = ["f32", "f16", "bf16", "e8m0", "levels"] as const
const activationTypes = ["int8", "e4m3", "e5m2", "e2m1"] as const
const activationGranularities = ["tensor", "token", "group"] as const

/** Scales as files store them: each once. */
export function storedScales(scheme: Scheme, [n, k]: readonly [number, number]): number {
  const { granularity, groupSize, blockRows = 1, runLength = 1 } = scheme
  if (granularity === "tensor") return 1
  if (granularity === "flat") return Math.ceil((n * k) / runLength)
  return Math.ceil(n / blockRows) * Math.ceil(k / groupSize)
}

export const isFloatScale = (type: Scheme["scaleType"]): type is FloatScaleType => type !== "e8m0" && type !== "levels"

const scaleBits = { f32: 32, f16: 16, bf16: 16, e8m0: 8, levels: 8 } as const

/**
 * Bits per weight with scales and zero points (or offsets, stored like scales), as they are stored.
 * `levelSupers`: f32 numbers that scale the scales, of which there are few.
 */
export function bitsPerWeight(
  scheme: Scheme,
  shape: readonly [number, number],
  has: { zeros: boolean; offsets?: boolean; levelSupers?: number },
): number {
  const scale = scaleBits[scheme.scaleType]
  const each = scale + (has.zeros ? scheme.bits : 0) + (has.offsets ? scale : 0)
  return scheme.bits + (storedScales(scheme, shape) * each + 32 * (has.levelSupers ?? 0)) / (shape[0] * shape[1])
}

/** ERR_SHAPE or ERR_OPTION for a scheme that no weight of this shape can have. */
export function checkScheme(scheme: Scheme, shape: readonly number[]): void {
  if (!Array.isArray(shape) || shape.length !== 2 || !shape.every(size => Number.isSafeInteger(size) && size >= 1))
    throw new TsqError(
      "ERR_SHAPE",
      `quantized tensor: shape is ${Array.isArray(shape) ? `[${shape.map(describe).join(", ")}]` : describe(shape)}, expected [n, k], both positive integers`,
    )
  const k = shape[1] as number
  if (typeof scheme !== "object" || scheme === null) refuse("scheme", scheme, "an object")
  const { bits, symmetric, granularity, groupSize, blockRows, runLength, scaleType } = scheme
  if (!Number.isInteger(bits) || bits < 2 || bits > 8) refuse("bits", bits, "2 to 8")
  if (typeof symmetric !== "boolean") refuse("symmetric", symmetric, "true or false")
  oneOf("granularity", granularity, granularities)
  oneOf("scaleType", scaleType, scaleTypes)
  if (!Number.isSafeInteger(groupSize) || groupSize < 1 || groupSize > k)
    refuse("groupSize", groupSize, `1 to k = ${k}`)
  if ((granularity === "channel" || granularity === "tensor") && groupSize !== k)
    refuse("groupSize", groupSize, `k = ${k}, as granularity ${JSON.stringify(granularity)} has one group a row`)
  countOnlyWith("blockRows", blockRows, granularity === "block", '"block"')
  countOnlyWith("runLength", runLength, granularity === "flat", '"flat"')
  if (granularity === "flat" && (k % groupSize !== 0 || (runLength as number) % groupSize !== 0))
    refuse("groupSize", groupSize, `a divisor of k = ${k} and of runLength = ${runLength}`)
  checkCodebook(scheme)
  if (scheme.activations !== undefined) checkActivations(scheme.activations)
}

function checkCodebook({ codebook, bits, symmetric }: Scheme): void {
  if (codebook === undefined) return
  if (codebook !== "custom" && !isCodebookName(codebook))
    refuse("codebook", codebook, 'the name of a code book or "custom"')
  if (codebook !== "custom" && codebookBits(codebook) !== bits)
    refuse("bits", bits, `${codebookBits(codebook)}, as the code book ${codebook} has`)
  if (!symmetric) refuse("symmetric", symmetric, "true: a code book has no zero point")
}

function checkActivations(scheme: ActivationScheme): void {
  if (typeof scheme !== "object" || scheme === null) refuse("activations", scheme, "an object")
  const { type, symmetric, dynamic, granularity, groupSize, threshold } = scheme
  oneOf("activations.type", type, activationTypes)
  oneOf("activations.granularity", granularity, activationGranularities)
  if (typeof symmetric !== "boolean") refuse("activations.symmetric", symmetric, "true or false")
  if (typeof dynamic !== "boolean") refuse("activations.dynamic", dynamic, "true or false")
  countOnlyWith("activations.groupSize", groupSize, granularity === "group", '"group"')
  if (threshold === undefined) return
  if (type !== "int8" || !symmetric) refuse("activations.threshold", threshold, "no value: only symmetric int8 has it")
  if (granularity === "group")
    refuse(
      "activations.threshold",
      threshold,
      'no value beside granularity "group", whose scales do not leave columns out',
    )
  if (!(typeof threshold === "number" && threshold > 0 && Number.isFinite(threshold)))
    refuse("activations.threshold", threshold, "a positive number")
}

function countOnlyWith(name: string, value: unknown, wanted: boolean, granularity: string): void {
  if (!wanted && value !== undefined) refuse(name, value, `no value: only granularity ${granularity} has it`)
  if (wanted && !(Number.isSafeInteger(value) && (value as number) >= 1)) refuse(name, value, "a positive integer")
}

function oneOf(name: string, value: unknown, choices: readonly string[]): void {
  if (!(choices as readonly unknown[]).includes(value)) refuse(name, value, listChoices(choices))
}

function refuse(name: string, found: unknown, expected: string): never {
  throw new TsqError("ERR_OPTION", `quantized tensor: ${name} is ${describe(found)}, expected ${expected}`)
}
