// The canonical quantized tensor: what every rounding makes, every format reads and writes, and every kernel is packed from.
import { codebook as knownValues } from "./codebooks.ts"
import type { TensorData } from "./dtype.ts"
import { TsqError } from "./errors.ts"
import { describe, withArticle } from "./options.ts"
import { bitsPerWeight, checkScheme, type Scheme, storedScales } from "./scheme.ts"

/**
 * Scales that are stored in two levels, each stored scale (see storedScales) being values[codes[i]] times, or divided by,
 * supers[floor(i / perSuper)], rounded to f32, plus `shift`, rounded to f32. Held beside the scales that result, so that a format that has such
 * levels writes the bytes that were read.
 */
export interface ScaleLevels {
  /** One a stored scale. */
  codes: Uint8Array
  /** f32 by code. */
  values: Float32Array
  supers: Float32Array
  /** Consecutive stored scales, in row-major order, that share one of `supers`. */
  perSuper: number
  /** Whether supers are divisors. */
  divides: boolean
  shift: number
}

/** Stored parameters of a module's activations, where they are static. */
export interface ActivationParameters {
  /** One for the tensor, or as many as the scheme's granularity says. */
  scale: Float32Array
  zero: Int32Array | null
}

export interface QuantizedTensorInit {
  scheme: Scheme
  /** [n, k] = [outFeatures, inFeatures]. */
  shape: readonly [number, number]
  /** [n, k], one unsigned code a byte, < 2^bits. */
  codes: Uint8Array
  /** [n, groups]. */
  scales: Float32Array
  /** [n, groups]; null for symmetric codes, whose zero point is 2^(bits-1), for code books, and where there are offsets. */
  zeros: Uint8Array | null
  /** [n, groups]: added to scale * code; null: none. Instead of zeros. */
  offsets?: Float32Array | null
  /** [2^bits] values of the codes, only for the code book "custom"; others follow from their names. */
  codebook?: Float32Array | null
  /** How the scales are stored; with scaleType "levels", and only with it. */
  levels?: ScaleLevels | null
  /** Only where scheme.activations is static. */
  activation?: ActivationParameters | null
  /** [k]: group of each column where groups are not consecutive columns (GPTQ's desc_act); null otherwise. */
  groupIndex?: Int32Array | null
  /** [k]: the weight stands for codes·inputScale, i.e. multiply activations by it first; null: ones. */
  inputScale?: Float32Array | null
}

/**
 * A weight [n, k] as codes:
 *   w[n, k] = scales[n, g] * (codes[n, k] - zero[n, g]) * inputScale[k]         whole numbers,
 *   w[n, k] = (scales[n, g] * codes[n, k] + offsets[n, g]) * inputScale[k]      with offsets,
 *   w[n, k] = scales[n, g] * codebook[codes[n, k]] * inputScale[k]              with a code book,
 * with g = groupIndex[k] or floor(k / groupSize). Fields are read-only by convention; lengths and ranges are checked once here.
 */
export class QuantizedTensor {
  readonly scheme: Scheme
  readonly shape: readonly [number, number]
  readonly codes: Uint8Array
  readonly scales: Float32Array
  readonly zeros: Uint8Array | null
  readonly offsets: Float32Array | null
  /** [2^bits]; null for whole numbers. */
  readonly codebook: Float32Array | null
  readonly levels: ScaleLevels | null
  readonly activation: ActivationParameters | null
  readonly groupIndex: Int32Array | null
  readonly inputScale: Float32Array | null

  constructor(init: QuantizedTensorInit) {
    if (typeof init !== "object" || init === null)
      throw new TsqError(
        "ERR_OPTION",
        `quantized tensor: it is made from ${describe(init)}, expected an object with scheme, shape, codes and scales`,
      )
    const { scheme, shape, codes } = init
    checkScheme(scheme, shape)
    const [n, k] = shape
    checkArray(shape, "codes", codes, Uint8Array, n * k)
    const values = scaleParts(init)
    if (init.inputScale) checkArray(shape, "inputScale", init.inputScale, Float32Array, k)
    this.scheme = scheme
    this.shape = shape
    this.codes = codes
    this.scales = values.scales
    this.zeros = values.zeros
    this.offsets = values.offsets
    this.codebook = values.codebook
    this.levels = values.levels
    this.activation = values.activation
    this.groupIndex = values.groupIndex
    this.inputScale = init.inputScale ?? null
  }

  get groups(): number {
    return Math.ceil(this.shape[1] / this.scheme.groupSize)
  }

  /** Bits per weight with scales and zero points, as they are stored. */
  get bitsPerWeight(): number {
    return bitsPerWeight(this.scheme, this.shape, partsOf(this))
  }
}

/** What a tensor has besides its codes and its scales' own type. */
export const partsOf = (
  tensor: Pick<ScaleParts, "zeros" | "offsets" | "levels">,
): { zeros: boolean; offsets: boolean; levelSupers: number } => ({
  zeros: tensor.zeros !== null,
  offsets: tensor.offsets !== null,
  levelSupers: tensor.levels?.supers.length ?? 0,
})

/** All of a quantized tensor but its codes. */
export interface ScaleParts {
  scales: Float32Array
  zeros: Uint8Array | null
  offsets: Float32Array | null
  codebook: Float32Array | null
  levels: ScaleLevels | null
  activation: ActivationParameters | null
  groupIndex: Int32Array | null
}

/** Checks everything but the codes against scheme and shape, which are valid. ERR_DTYPE, ERR_SHAPE or ERR_FORMAT. */
export function scaleParts(init: Omit<QuantizedTensorInit, "codes">): ScaleParts {
  const { scheme, shape, scales, zeros } = init
  const [n, k] = shape
  const groups = Math.ceil(k / scheme.groupSize)
  const { offsets = null, levels = null, activation = null, groupIndex = null } = init
  checkArray(shape, "scales", scales, Float32Array, n * groups)
  if (zeros && offsets)
    throw new TsqError("ERR_FORMAT", "quantized tensor: it has zeros and offsets, expected one of them or none")
  if (scheme.symmetric !== (zeros === null && offsets === null))
    throw new TsqError(
      "ERR_FORMAT",
      `quantized tensor: ${scheme.symmetric ? "symmetric codes take no" : "asymmetric codes need"} zeros or offsets`,
    )
  if (zeros) checkArray(shape, "zeros", zeros, Uint8Array, n * groups)
  if (offsets) checkArray(shape, "offsets", offsets, Float32Array, n * groups)
  if (groupIndex) checkArray(shape, "groupIndex", groupIndex, Int32Array, k)
  if ((scheme.scaleType === "levels") !== (levels !== null))
    throw new TsqError("ERR_FORMAT", 'quantized tensor: levels come with scaleType "levels", and only with it')
  if (levels) checkLevels(levels, scheme, shape)
  if (activation) checkActivation(activation, scheme, shape)
  return { scales, zeros, offsets, levels, activation, groupIndex, codebook: codebookOf(init) }
}

function codebookOf({ scheme, shape, codebook = null }: Omit<QuantizedTensorInit, "codes">): Float32Array | null {
  if (scheme.codebook === "custom") {
    checkArray(shape, "codebook", codebook as Float32Array, Float32Array, 2 ** scheme.bits)
    return codebook
  }
  const values = scheme.codebook === undefined ? null : knownValues(scheme.codebook)
  if (codebook !== null && codebook !== values)
    throw new TsqError(
      "ERR_FORMAT",
      `quantized tensor: it has values of codes, and its scheme has ${scheme.codebook ? `the code book ${scheme.codebook}` : "no code book"}; "custom" takes values`,
    )
  return values
}

function checkLevels(levels: ScaleLevels, scheme: Scheme, shape: readonly [number, number]): void {
  const count = storedScales(scheme, shape)
  const { perSuper } = levels
  checkArray(shape, "levels.codes", levels.codes, Uint8Array, count)
  if (!Number.isSafeInteger(perSuper) || perSuper < 1)
    throw new TsqError(
      "ERR_OPTION",
      `quantized tensor: levels.perSuper is ${describe(perSuper)}, expected a positive integer`,
    )
  checkArray(shape, "levels.supers", levels.supers, Float32Array, Math.ceil(count / perSuper))
  checkArray(shape, "levels.values", levels.values, Float32Array, levels.values?.length)
  // A byte is below 256, and NVFP4 has many.
  if (levels.values.length < 256 && levels.codes.some(code => code >= levels.values.length))
    throw new TsqError(
      "ERR_FORMAT",
      `quantized tensor: levels.codes has a code that is not below the ${levels.values.length} levels.values`,
    )
}

function checkActivation(
  { scale, zero }: ActivationParameters,
  { activations }: Scheme,
  shape: readonly [number, number],
): void {
  if (!activations || activations.dynamic)
    throw new TsqError(
      "ERR_FORMAT",
      "quantized tensor: it has parameters of activations, and its scheme has no static activations",
    )
  checkArray(shape, "activation.scale", scale, Float32Array, scale?.length)
  if (zero) checkArray(shape, "activation.zero", zero, Int32Array, scale.length)
}

function checkArray<T extends TensorData>(
  [n, k]: readonly [number, number],
  name: string,
  array: T,
  kind: abstract new () => T,
  expected: number,
): void {
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
