// The canonical quantized tensor: what every rounding makes, every format reads and writes, and every kernel is packed from.
import type { TensorData } from "./dtype.ts"
import { TsqError } from "./errors.ts"
import { describe, listChoices, withArticle } from "./options.ts"

/** Integer scheme of a weight: what the numbers are. */
export interface IntegerScheme {
  bits: 2 | 3 | 4 | 5 | 6 | 7 | 8
  symmetric: boolean
  /** "group": along k. "channel": one group of k. "tensor": one scale for all (stored repeated per row). */
  granularity: "group" | "channel" | "tensor"
  /** Columns of a group; k for channel and tensor. The last group may be shorter. */
  groupSize: number
  /** Encoding that the scales will be stored in; their values are already rounded to it. */
  scaleType: "f32" | "f16" | "bf16"
}

export interface QuantizedTensorInit {
  scheme: IntegerScheme
  /** [n, k] = [outFeatures, inFeatures]. */
  shape: readonly [number, number]
  /** [n, k], one unsigned code a byte, < 2^bits. */
  codes: Uint8Array
  /** [n, groups]. */
  scales: Float32Array
  /** [n, groups]; null for symmetric codes, whose zero point is 2^(bits-1). */
  zeros: Uint8Array | null
  /** [k]: group of each column where groups are not consecutive columns (GPTQ's desc_act); null otherwise. */
  groupIndex?: Int32Array | null
  /** [k]: the weight stands for codes·inputScale, i.e. multiply activations by it first; null: ones. */
  inputScale?: Float32Array | null
}

/**
 * A weight [n, k] as integer codes: w[n, k] = scales[n, g] * (codes[n, k] - zero[n, g]) * inputScale[k], with
 * g = groupIndex[k] or floor(k / groupSize). Fields are read-only by convention; lengths and ranges are checked once here.
 */
export class QuantizedTensor {
  readonly scheme: IntegerScheme
  readonly shape: readonly [number, number]
  readonly codes: Uint8Array
  readonly scales: Float32Array
  readonly zeros: Uint8Array | null
  readonly groupIndex: Int32Array | null
  readonly inputScale: Float32Array | null

  constructor(init: QuantizedTensorInit) {
    if (typeof init !== "object" || init === null)
      throw new TsqError(
        "ERR_OPTION",
        `quantized tensor: it is made from ${describe(init)}, expected an object with scheme, shape, codes and scales`,
      )
    const { scheme, shape, codes, scales, zeros } = init
    checkScheme(scheme, shape)
    const [n, k] = shape
    const groups = Math.ceil(k / scheme.groupSize)
    const check = <T extends TensorData>(name: string, array: T, kind: abstract new () => T, expected: number) => {
      if (!(array instanceof kind))
        throw new TsqError(
          "ERR_DTYPE",
          `quantized tensor: ${name} is ${describe(array)}, expected ${withArticle(kind.name)}`,
        )
      if (array.length !== expected)
        throw new TsqError(
          "ERR_SHAPE",
          `quantized tensor [${n}, ${k}]: ${name} has ${array.length} elements, expected ${expected}`,
        )
    }
    check("codes", codes, Uint8Array, n * k)
    check("scales", scales, Float32Array, n * groups)
    if (scheme.symmetric !== (zeros === null))
      throw new TsqError(
        "ERR_FORMAT",
        `quantized tensor: ${scheme.symmetric ? "symmetric codes take no" : "asymmetric codes need"} zeros`,
      )
    if (zeros) check("zeros", zeros, Uint8Array, n * groups)
    if (init.groupIndex) check("groupIndex", init.groupIndex, Int32Array, k)
    if (init.inputScale) check("inputScale", init.inputScale, Float32Array, k)
    this.scheme = scheme
    this.shape = shape
    this.codes = codes
    this.scales = scales
    this.zeros = zeros
    this.groupIndex = init.groupIndex ?? null
    this.inputScale = init.inputScale ?? null
  }

  get groups(): number {
    return Math.ceil(this.shape[1] / this.scheme.groupSize)
  }

  /** Bits per weight with scales and zero points, as they are stored. */
  get bitsPerWeight(): number {
    return bitsPerWeight(this.scheme, this.shape, this.zeros !== null)
  }
}

export function bitsPerWeight(scheme: IntegerScheme, [n, k]: readonly [number, number], hasZeros: boolean): number {
  const { bits, granularity, groupSize, scaleType } = scheme
  const scaleBits = scaleType === "f32" ? 32 : 16
  const scales = granularity === "tensor" ? 1 : n * Math.ceil(k / groupSize)
  return bits + (scales * (scaleBits + (hasZeros ? bits : 0))) / (n * k)
}

const granularities = ["group", "channel", "tensor"]
const scaleTypes = ["f32", "f16", "bf16"]

export function checkScheme(scheme: IntegerScheme, shape: readonly number[]): void {
  if (!Array.isArray(shape) || shape.length !== 2 || !shape.every(size => Number.isSafeInteger(size) && size >= 1))
    throw new TsqError(
      "ERR_SHAPE",
      `quantized tensor: shape is ${Array.isArray(shape) ? `[${shape.map(describe).join(", ")}]` : describe(shape)}, expected [n, k], both positive integers`,
    )
  const k = shape[1] as number
  const refuse = (name: string, found: unknown, expected: string): never => {
    throw new TsqError("ERR_OPTION", `quantized tensor: ${name} is ${describe(found)}, expected ${expected}`)
  }
  if (typeof scheme !== "object" || scheme === null) refuse("scheme", scheme, "an object")
  const { bits, symmetric, granularity, groupSize, scaleType } = scheme
  if (!Number.isInteger(bits) || bits < 2 || bits > 8) refuse("bits", bits, "2 to 8")
  if (typeof symmetric !== "boolean") refuse("symmetric", symmetric, "true or false")
  if (!granularities.includes(granularity)) refuse("granularity", granularity, listChoices(granularities))
  if (!scaleTypes.includes(scaleType)) refuse("scaleType", scaleType, listChoices(scaleTypes))
  if (!Number.isSafeInteger(groupSize) || groupSize < 1 || groupSize > k)
    refuse("groupSize", groupSize, `1 to k = ${k}`)
  if (granularity !== "group" && groupSize !== k)
    refuse("groupSize", groupSize, `k = ${k}, as granularity ${JSON.stringify(granularity)} has one group a row`)
}
