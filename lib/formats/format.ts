// One interface for every checkpoint format: named tensors of a linear <-> QuantizedTensor, and the configuration that goes with it.

import type { Checkpoint } from "../containers/checkpoint.ts"
import type { NamedTensor } from "../containers/safetensors-writer.ts"
import type { QuantizedTensor, ScaleLevels } from "../core/quantized-tensor.ts"
import { isFloatScale, isIntegerScheme, type Scheme } from "../core/scheme.ts"
import type { StoredTensor } from "../core/stored-tensor.ts"
import type { KvScaleForm } from "./kv-scales.ts"

export type { NamedTensor }

export type FormatName =
  | "gptq"
  | "awq"
  | "compressed-tensors"
  | "bitsandbytes"
  | "marlin"
  | "fp8"
  | "fbgemm_fp8"
  | "modelopt"

/** Layouts of GPTQ files; "planar" is GPTQModel's gptq_p. */
export const gptqVersions = ["v1", "v2", "planar"] as const
export type GptqVersion = (typeof gptqVersions)[number]

/** What is needed to write the configuration of a whole checkpoint. */
export interface FormatSummary {
  /** Every quantized module (full name, "model.layers.0.self_attn.q_proj") with its tensor's scheme. */
  modules: ReadonlyMap<string, Scheme & { hasGroupIndex: boolean }>
  /** Linear modules left unquantized (full names). */
  unquantized: readonly string[]
  /** damp used, for formats that record it; null where GPTQ was not used. */
  damp: number | null
  version: string
  /** FormatReader.carried of a source of the same format, or KvScaleForm.settings. */
  carried?: Readonly<Record<string, unknown>> | undefined
}

/** What a tensor has besides its scheme. */
export interface TensorTraits {
  groupIndex?: boolean
  inputScale?: boolean
  offsets?: boolean
  /** The zero points themselves, where they are known. */
  zeros?: Uint8Array | null
  /** Likewise the levels of the scales. */
  levels?: ScaleLevels | null
  gptqVersion?: GptqVersion
}

export const traitsOf = (tensor: QuantizedTensor, gptqVersion?: GptqVersion): TensorTraits => ({
  groupIndex: tensor.groupIndex !== null,
  inputScale: tensor.inputScale !== null,
  offsets: tensor.offsets !== null,
  zeros: tensor.zeros,
  levels: tensor.levels,
  ...(gptqVersion && { gptqVersion }),
})

/** For formats of whole numbers with zero points and float scales along rows: why the tensor is something else; null when it is not. */
export function refusesOthers(format: string, scheme: Scheme, traits: TensorTraits): string | null {
  const { codebook, granularity, scaleType, activations } = scheme
  if (codebook !== undefined) return `${format} stores whole numbers, not codes of the code book ${codebook}`
  if (traits.offsets) return `${format} stores integer zero points, and this tensor adds a float to each group`
  if (!isIntegerScheme(scheme))
    return isFloatScale(scaleType)
      ? `${format} has no scales of ${granularity === "block" ? "blocks of several rows" : "runs across rows"}`
      : `${format} has no ${scaleType === "e8m0" ? "e8m0 scales" : "scales in two levels"}`
  if (traits.inputScale) return `${format} cannot store a scale per input; fold it into the layer before`
  if (activations) return `${format} cannot say that activations are quantized to ${activations.type}`
  return null
}

export interface CheckpointFormat {
  name: FormatName
  /** How it keeps scales of an FP8 KV cache; absent where engines look for none. */
  kvScales?: KvScaleForm
  /** Whether a parsed quantization_config is this format. */
  detect(quantizationConfig: Record<string, unknown>): boolean
  /** Why this format cannot hold such a tensor, for people ("k = 172 is not a multiple of 32"); null when it can. */
  refuses(module: string, shape: readonly [number, number], scheme: Scheme, traits?: TensorTraits): string | null
  /** The tensors of a module. Throws TsqError ERR_UNSUPPORTED with refuses()'s text. */
  write(module: string, tensor: QuantizedTensor, options: WriteOptions): Promise<NamedTensor[]>
  /** quantization_config for config.json, and extra files (name -> JSON value) that the format has besides. */
  configuration(
    summary: FormatSummary,
    options: WriteOptions,
  ): { quantizationConfig: Record<string, unknown>; files: Record<string, unknown> }
  /** A reader over a checkpoint whose config.json declares this format. */
  reader(
    checkpoint: Checkpoint,
    quantizationConfig: Record<string, unknown>,
    warn: (message: string) => void,
  ): FormatReader
}

export interface WriteOptions {
  /** dtype of scales where the format leaves it open: the model's. */
  scaleType: "f16" | "bf16" | "f32"
  /** gptq: "v1" (default; widest reach), "v2" or "planar". */
  gptqVersion?: GptqVersion
  /** bitsandbytes: quantize the scales of 4-bit weights again, where they are floats. Changes them. Default false, as in bitsandbytes. */
  doubleQuantization?: boolean
}

export interface FormatReader {
  /** Names of the modules stored quantized. */
  modules: readonly string[]
  /** What of the configuration concerns no module, for a checkpoint of the same format that is made of this one. */
  carried?: Readonly<Record<string, unknown>>
  /** Scales of a quantized KV cache, which belong to no module. */
  kvScales?: readonly string[]
  /** Tensor names in the checkpoint that belong to quantized modules (not to be copied as dense tensors). */
  tensorNames(module: string): readonly string[]
  /** A module whose codes stay in the checkpoint, which must stay open. */
  stored(module: string): Promise<StoredTensor>
  /** The same, one byte a code. */
  read(module: string): Promise<QuantizedTensor>
}
