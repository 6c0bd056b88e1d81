// Scales of an FP8 KV cache in checkpoints, one for the keys and one for the values of every layer: number = code * scale. By the names that vLLM
// maps (model_executor/model_loader/weight_utils.py, maybe_remap_kv_scale_name).
import type { Checkpoint } from "../containers/checkpoint.ts"
import type { NamedTensor } from "../containers/safetensors-writer.ts"
import { bytesOf } from "./arrays.ts"

const names = /\.((k|v|q|kv|prob)_scale|(k|v|q)_proj\.output_scale)$/

export const kvScaleTensors = (checkpoint: Checkpoint): string[] => checkpoint.names.filter(name => names.test(name))

/** Of one layer: keys after RoPE, as attention caches them, and values. */
export interface KvScales {
  key: number
  value: number
}

/** How a format keeps them. */
export interface KvScaleForm {
  /** Tensors relative to the layer. */
  names: { key: string; value: string }
  /** Of one scale. */
  shape: readonly number[]
  /** What its configuration says of them, as FormatSummary.carried. */
  settings: Readonly<Record<string, unknown>>
}

/** The tensors of a layer, in f32: engines hold scales in f32, and a small one would lose digits in f16. */
export const writeKvScales = (prefix: string, { key, value }: KvScales, form: KvScaleForm): NamedTensor[] =>
  [[form.names.key, key] as const, [form.names.value, value] as const].map(([name, scale]) => ({
    name: prefix + name,
    dtype: "F32",
    shape: [...form.shape],
    data: bytesOf(Float32Array.of(scale)),
  }))

/** compressed-tensors, and checkpoints with quant_method "fp8". */
export const plainNames = { key: "self_attn.k_scale", value: "self_attn.v_scale" }
/** ModelOpt (modelopt/torch/export/quant_utils.py, postprocess_state_dict: k_bmm_quantizer._amax / 448). */
export const projectionNames = { key: "self_attn.k_proj.k_scale", value: "self_attn.v_proj.v_scale" }
