// A checkpoint's own scales of an fp8 KV cache, as vLLM maps them (model_executor/model_loader/weight_utils.py).
import { Checkpoint } from "../containers/checkpoint.ts"
import { isObject } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"
import { checkpointKvFormat, type KvFormat } from "../models/kv-cache.ts"
import type { ModelProgram } from "../models/program.ts"

const names = (kind: "k" | "v"): string[] => [
  `self_attn.${kind}_scale`,
  `self_attn.${kind}_proj.${kind}_scale`,
  `self_attn.qkv_proj.${kind}_scale`,
  `self_attn.${kind}_proj.output_scale`,
  "self_attn.kv_scale",
]

/**
 * fp8 keys and values with the scales in `directory`. ERR_OPTION where the checkpoint holds none, ERR_UNSUPPORTED for a scheme
 * that is not fp8 with a scale for each tensor.
 */
export async function storedKvFormat(directory: string, program: ModelProgram): Promise<KvFormat> {
  if (directory.endsWith(".gguf"))
    throw new TsqError("ERR_OPTION", `${directory}: GGUF files hold no scales of a KV cache; choose kvCache yourself`)
  const checkpoint = await Checkpoint.open(directory)
  try {
    const { kv_cache_scheme: scheme = null, kv_cache_quant_algo, quantization } = checkpoint.quantizationConfig ?? {}
    // ModelOpt's word for it, in the flat form of its configuration or in the other.
    const algorithm = kv_cache_quant_algo ?? (isObject(quantization) ? quantization.kv_cache_quant_algo : null) ?? null
    if (algorithm !== null && algorithm !== "FP8")
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${directory}: kv_cache_quant_algo is ${JSON.stringify(algorithm)}, expected "FP8"; choose kvCache yourself`,
      )
    if (isObject(scheme) && (scheme.num_bits !== 8 || scheme.type !== "float"))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${directory}: kv_cache_scheme is ${JSON.stringify(scheme)}, expected num_bits 8 and type "float"; choose kvCache yourself`,
      )
    let found = 0
    const read = async (layer: number, kind: "k" | "v"): Promise<number> => {
      const prefix = program.blockPrefix(layer)
      const name = names(kind).find(ending => checkpoint.has(prefix + ending))
      if (name === undefined) return 1
      found++
      const values = await checkpoint.floats(prefix + name)
      if (values.length !== 1)
        throw new TsqError(
          "ERR_UNSUPPORTED",
          `${prefix + name} has ${values.length} scales, expected one for the layer; choose kvCache yourself`,
        )
      if (!(values[0]! > 0 && Number.isFinite(values[0])))
        throw new TsqError("ERR_NUMERIC", `${prefix + name} is ${values[0]}, expected a positive number`)
      return values[0]!
    }
    const keys: number[] = []
    const values: number[] = []
    for (let layer = 0; layer < program.config.layers; layer++) {
      keys.push(await read(layer, "k"))
      values.push(await read(layer, "v"))
    }
    // Engines take scales of 1 where the scheme is declared and none are stored (formats 7.4).
    if (found === 0 && !isObject(scheme) && algorithm === null)
      throw new TsqError(
        "ERR_OPTION",
        `${directory}: kvCache is "checkpoint", but it holds neither a kv_cache_scheme nor scales of keys and values; use "fp8" or "int8"`,
      )
    return checkpointKvFormat(keys, values)
  } finally {
    checkpoint.dispose()
  }
}
