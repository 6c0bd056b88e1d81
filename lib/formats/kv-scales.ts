// Scales of a quantized KV cache, by the names that vLLM maps (model_executor/model_loader/weight_utils.py).
import type { Checkpoint } from "../containers/checkpoint.ts"

const names = /\.((k|v|q|kv|prob)_scale|(k|v|q)_proj\.output_scale)$/

export const kvScaleTensors = (checkpoint: Checkpoint): string[] => checkpoint.names.filter(name => names.test(name))
