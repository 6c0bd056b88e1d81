// What compressed-tensors calls weights and activations (QuantizationArgs), and the formats in which it stores a module; both ways.
// Facts: vllm-project/compressed-tensors, quantization/quant_args.py and compressors/.
import { describe, isObject } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"
import type { ActivationScheme, Scheme } from "../core/scheme.ts"
import { booleanField, integerField, stringField } from "./config-fields.ts"
import { mxGroup, nvfp4Group } from "./stored-scales.ts"

export const moduleFormats = [
  "pack-quantized",
  "int-quantized",
  "float-quantized",
  "naive-quantized",
  "nvfp4-pack-quantized",
  "mxfp4-pack-quantized",
  "mxfp8-quantized",
] as const
export type ModuleFormat = (typeof moduleFormats)[number]

/** Where the codes lie: 32-bit words, a byte each, two a byte with scales in two levels or of powers of two. */
export const storageOf = {
  "pack-quantized": "words",
  "int-quantized": "bytes",
  "float-quantized": "bytes",
  "naive-quantized": "bytes",
  "mxfp8-quantized": "bytes",
  "nvfp4-pack-quantized": "nibbles",
  "mxfp4-pack-quantized": "nibbles",
} as const satisfies Record<ModuleFormat, string>

export type Strategy = "tensor" | "channel" | "group" | "block" | "tensor_group"
type Arguments = Record<string, unknown>

// ---------------------------------------------------------------------------------------------------------------- writing

/** The format that holds a scheme; null where none does. Of integers only those beside 8-bit activations are stored as bytes. */
export function formatOf({ codebook, scaleType, activations }: Scheme): ModuleFormat | null {
  if (codebook === undefined) return activations?.type === "int8" ? "int-quantized" : "pack-quantized"
  if (codebook === "e4m3")
    return scaleType === "levels"
      ? null
      : scaleType === "e8m0"
        ? "mxfp8-quantized"
        : activations
          ? "float-quantized"
          : "naive-quantized"
  if (codebook !== "e2m1") return null
  return scaleType === "levels" ? "nvfp4-pack-quantized" : scaleType === "e8m0" ? "mxfp4-pack-quantized" : null
}

/** Packed zero points of one scale for the whole tensor have no form; the scale is then repeated for every channel. */
export function strategyOf(scheme: Scheme): Strategy {
  const { granularity, symmetric, scaleType } = scheme
  if (scaleType === "levels") return "tensor_group"
  if (granularity === "tensor" && !symmetric && formatOf(scheme) === "pack-quantized") return "channel"
  return granularity as Exclude<Strategy, "tensor_group">
}

/** Keys of releases before 0.13 where those can read the format, and no other: the library refuses keys that it does not know. */
export function weightArguments(scheme: Scheme & { hasGroupIndex: boolean }): Arguments {
  const { bits, codebook, symmetric, groupSize, blockRows, scaleType, hasGroupIndex } = scheme
  const strategy = strategyOf(scheme)
  const scaleDtype = { levels: "torch.float8_e4m3fn", e8m0: "torch.uint8" }[scaleType as string]
  return {
    num_bits: bits,
    type: codebook === undefined ? "int" : "float",
    symmetric,
    group_size: strategy === "group" || strategy === "tensor_group" ? groupSize : null,
    strategy,
    block_structure: strategy === "block" ? [blockRows, groupSize] : null,
    dynamic: false,
    actorder: hasGroupIndex ? "group" : null,
    ...(scaleDtype && { scale_dtype: scaleDtype, zp_dtype: scaleDtype }),
    observer: "minmax",
    observer_kwargs: {},
  }
}

/** NVFP4's activations: a stored scale for the tensor, others taken from each group. */
const isLocal = ({ type, dynamic, granularity }: ActivationScheme) =>
  type === "e2m1" && !dynamic && granularity === "group"

export function activationArguments(scheme: ActivationScheme | undefined): Arguments | null {
  if (!scheme) return null
  const { type, symmetric, dynamic, granularity, groupSize = null } = scheme
  const local = isLocal(scheme)
  return {
    num_bits: type === "e2m1" ? 4 : 8,
    type: type === "int8" ? "int" : "float",
    symmetric,
    group_size: groupSize,
    strategy: local ? "tensor_group" : granularity,
    block_structure: null,
    dynamic: local ? "local" : dynamic,
    actorder: null,
    observer: dynamic ? null : "minmax",
    observer_kwargs: {},
  }
}

/** Why activations cannot be described, or their scales not stored; null when they can. */
export function refusesActivations(scheme: ActivationScheme): string | null {
  const { type, symmetric, dynamic, granularity } = scheme
  if (type === "e5m2") return "compressed-tensors has no activations of FP8 E5M2"
  if (type !== "int8" && !symmetric) return "compressed-tensors has no zero points of floating-point activations"
  if (isLocal(scheme) || dynamic || granularity === "tensor") return null
  return `compressed-tensors stores static scales of activations for the whole tensor, not per ${granularity}`
}

// ---------------------------------------------------------------------------------------------------------------- reading

/** How the weights of a config group are stored. */
export interface WeightSettings {
  bits: Scheme["bits"]
  codebook: "e4m3" | "e2m1" | undefined
  symmetric: boolean
  strategy: Strategy
  /** Columns that share a scale; 0 for tensor and channel. */
  groupSize: number
  /** Rows that share one; 0 unless the strategy is block. */
  blockRows: number
  ordered: boolean
}

/** `key` names the arguments in messages. ERR_UNSUPPORTED for what the format cannot be, ERR_FORMAT for what nothing is. */
export function weightSettings(weights: Arguments, format: ModuleFormat, key: string): WeightSettings {
  const bits = integerField(weights, ["num_bits"])
  const type = (stringField(weights, "type") ?? "int").toLowerCase()
  const codebook = codebookFor(format, type, bits, key)
  const symmetric = booleanField(weights, "symmetric", true)
  const size = integerField(weights, ["group_size"], 0)
  const block = blockStructure(weights, key)
  const strategy = strategyFor(weights, size, block !== null)
  const allowed: Record<(typeof storageOf)[ModuleFormat], readonly string[]> = {
    words: ["tensor", "channel", "group"],
    bytes: ["tensor", "channel", "group", "block"],
    nibbles: format === "nvfp4-pack-quantized" ? ["tensor_group", "group"] : ["group"],
  }
  if (!allowed[storageOf[format]].includes(strategy))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${key}.strategy is "${strategy}"; of ${format} ${allowed[storageOf[format]].join(", ")} are read`,
    )
  if ((strategy === "group" || strategy === "tensor_group") && size < 1)
    throw new TsqError("ERR_FORMAT", `${key}: strategy ${strategy} needs a positive group_size, found ${size}`)
  const fixed = { "nvfp4-pack-quantized": nvfp4Group, "mxfp4-pack-quantized": mxGroup, "mxfp8-quantized": mxGroup }[
    format as string
  ]
  if (fixed !== undefined && (size !== fixed || strategy === "block"))
    throw new TsqError("ERR_UNSUPPORTED", `${key}.group_size is ${size}; ${format} is read with groups of ${fixed}`)
  if (strategy === "block" && block === null)
    throw new TsqError("ERR_FORMAT", `${key}: strategy block needs a block_structure of two positive integers`)
  if (codebook !== undefined && !symmetric)
    throw new TsqError("ERR_UNSUPPORTED", `${key}: asymmetric floating-point weights are not read`)
  if (strategy === "tensor" && !symmetric && storageOf[format] === "words")
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${key}: asymmetric packed weights with one scale for the whole tensor are not read`,
    )
  // "dynamic" is an alias of "group"; "weight" and "static" store no index.
  const order = weights.actorder
  return {
    bits: bits as Scheme["bits"],
    codebook,
    symmetric,
    strategy,
    groupSize: strategy === "block" ? (block as [number, number])[1] : strategy.endsWith("group") ? size : 0,
    blockRows: strategy === "block" ? (block as [number, number])[0] : 0,
    ordered: order === "group" || order === "dynamic" || order === true,
  }
}

function codebookFor(format: ModuleFormat, type: string, bits: number, key: string): WeightSettings["codebook"] {
  const refuse = (expected: string) =>
    new TsqError("ERR_UNSUPPORTED", `${key} are ${bits}-bit ${type}; of ${format} ${expected} are read`)
  if (format === "nvfp4-pack-quantized" || format === "mxfp4-pack-quantized") {
    if (type !== "float" || bits !== 4) throw refuse("4-bit floats")
    return "e2m1"
  }
  const floats = format === "float-quantized" || format === "mxfp8-quantized"
  if (floats || (format === "naive-quantized" && type === "float")) {
    if (type !== "float" || bits !== 8) throw refuse("8-bit floats")
    return "e4m3"
  }
  if (type !== "int" || bits < 2 || bits > 8) throw refuse("integers of 2 to 8 bits")
  return undefined
}

/** Without a strategy the library takes it from the sizes, -1 for channel. */
function strategyFor(weights: Arguments, size: number, block: boolean): Strategy {
  const inferred = block ? "block" : size > 0 ? "group" : size === -1 ? "channel" : "tensor"
  return (stringField(weights, "strategy")?.toLowerCase() as Strategy | undefined) ?? inferred
}

/** [rows, columns]; older writers have a string, "128x128". */
function blockStructure({ block_structure: value }: Arguments, key: string): [number, number] | null {
  if (value === undefined || value === null) return null
  const sizes = typeof value === "string" ? value.split("x").map(Number) : value
  if (Array.isArray(sizes) && sizes.length === 2 && sizes.every(size => Number.isSafeInteger(size) && size >= 1))
    return sizes as [number, number]
  throw new TsqError("ERR_FORMAT", `${key}.block_structure is ${describe(value)}, expected two positive integers`)
}

/** undefined: activations as they are. null: such as are not known here, whose parameters are left alone. */
export function activationSettings(value: unknown, key: string): ActivationScheme | null | undefined {
  if (value === undefined || value === null) return undefined
  if (!isObject(value)) throw new TsqError("ERR_FORMAT", `${key} is ${describe(value)}, expected an object`)
  const bits = integerField(value, ["num_bits"], 8)
  const kind = (stringField(value, "type") ?? "int").toLowerCase()
  const type = ({ "8 int": "int8", "8 float": "e4m3", "4 float": "e2m1" } as const)[`${bits} ${kind}` as "8 int"]
  const size = integerField(value, ["group_size"], 0)
  const { dynamic = false } = value
  const inferred = size > 0 ? "group" : "tensor"
  const strategy = stringField(value, "strategy")?.toLowerCase() ?? inferred
  const granularity = strategy === "tensor_group" ? "group" : strategy
  if (!type || !["tensor", "token", "group"].includes(granularity)) return null
  if (typeof dynamic !== "boolean" && dynamic !== "local") return null
  const scheme: ActivationScheme = {
    type,
    symmetric: booleanField(value, "symmetric", true),
    dynamic: dynamic === true,
    granularity: granularity as ActivationScheme["granularity"],
    ...(granularity === "group" && { groupSize: size > 0 ? size : nvfp4Group }),
  }
  return refusesActivations(scheme) ? null : scheme
}
