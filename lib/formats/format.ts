// One interface for every checkpoint format: named tensors of a linear <-> QuantizedTensor, and the configuration that goes with it.

import type { Checkpoint } from "../containers/checkpoint.ts"
import type { NamedTensor } from "../containers/safetensors-writer.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { StoredTensor } from "../core/stored-tensor.ts"

export type { NamedTensor }

export type FormatName = "gptq" | "awq" | "compressed-tensors"

/** What is needed to write the configuration of a whole checkpoint. */
export interface FormatSummary {
  /** Every quantized module (full name, "model.layers.0.self_attn.q_proj") with its tensor's scheme. */
  modules: ReadonlyMap<string, QuantizedTensor["scheme"] & { hasGroupIndex: boolean }>
  /** Linear modules left unquantized (full names). */
  unquantized: readonly string[]
  /** damp used, for formats that record it; null where GPTQ was not used. */
  damp: number | null
  version: string
}

export interface CheckpointFormat {
  name: FormatName
  /** Whether a parsed quantization_config is this format. */
  detect(quantizationConfig: Record<string, unknown>): boolean
  /** Why this format cannot hold such a tensor, for people ("k = 172 is not a multiple of 32"); null when it can. Options: see each format. */
  refuses(
    module: string,
    shape: readonly [number, number],
    scheme: QuantizedTensor["scheme"],
    extra?: { groupIndex?: boolean; inputScale?: boolean; zeros?: Uint8Array | null; gptqVersion?: "v1" | "v2" },
  ): string | null
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
  /** gptq: "v1" (default; widest reach) or "v2". */
  gptqVersion?: "v1" | "v2"
}

export interface FormatReader {
  /** Names of the modules stored quantized. */
  modules: readonly string[]
  /** Tensor names in the checkpoint that belong to quantized modules (not to be copied as dense tensors). */
  tensorNames(module: string): readonly string[]
  /** A module whose codes stay in the checkpoint, which must stay open. */
  stored(module: string): Promise<StoredTensor>
  /** The same, one byte a code. */
  read(module: string): Promise<QuantizedTensor>
}
