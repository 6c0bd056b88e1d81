// The configuration of ModelOpt checkpoints: hf_quant_config.json, and the flat form of it in config.json; read and written.
// Facts: vllm-project/vllm, layers/quantization/modelopt.py; NVIDIA/TensorRT-Model-Optimizer, modelopt/torch/export/convert_hf_config.py.
import { describe, isObject } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"
import type { Scheme } from "../core/scheme.ts"
import { integerField, stringField, stringsField } from "./config-fields.ts"
import { perToken, sameActivations, staticTensor } from "./float8.ts"
import type { FormatSummary } from "./format.ts"
import { commonSettings, notConverted } from "./skipped-modules.ts"
import { nvfp4Group } from "./stored-scales.ts"

export const algorithms = ["FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "W4A16_NVFP4"] as const
export type Algorithm = (typeof algorithms)[number]

/** Rows and columns of a block in FP8_PB_WO. */
export const blockSize = 128

/** NVFP4's activations: one stored scale, and one of each 16 columns as they come. */
export const localGroups = {
  type: "e2m1",
  symmetric: true,
  dynamic: false,
  granularity: "group",
  groupSize: nvfp4Group,
} as const

/** The algorithm that has such weights and activations; null where none has. */
export function algorithmOf({ codebook, scaleType, granularity, activations }: Scheme): Algorithm | null {
  if (codebook === "e2m1" && scaleType === "levels")
    return activations === undefined ? "W4A16_NVFP4" : sameActivations(activations, localGroups) ? "NVFP4" : null
  if (codebook !== "e4m3") return null
  if (granularity === "tensor") return sameActivations(activations, staticTensor) ? "FP8" : null
  if (granularity === "channel") return sameActivations(activations, perToken) ? "FP8_PER_CHANNEL_PER_TOKEN" : null
  return granularity === "block" && activations === undefined ? "FP8_PB_WO" : null
}

// ---------------------------------------------------------------------------------------------------------------- writing

export function modeloptConfiguration(summary: FormatSummary) {
  const algorithm = commonSettings("modelopt", summary, scheme => algorithmOf(scheme))
  const { kv_cache_quant_algo = null } = summary.carried ?? {}
  const bits = algorithm?.includes("NVFP4") ? 4 : 8
  const group = bits === 4 ? { group_size: nvfp4Group } : {}
  const numbers = { dynamic: false, num_bits: bits, type: "float", ...group }
  const excluded = notConverted("modelopt", summary, [
    ...new Set([...summary.unquantized, ...(summary.modules.has("lm_head") ? [] : ["lm_head"])]),
  ])
  // Loaders know the layout by this producer's name.
  const producer = { name: "modelopt", version: `tsq-native ${summary.version}` }
  const inputs = algorithm === "FP8" || algorithm === "NVFP4" ? { input_activations: numbers } : {}
  return {
    quantizationConfig: {
      config_groups: { group_0: { ...inputs, weights: numbers, targets: ["Linear"] } },
      ignore: excluded,
      quant_algo: algorithm,
      ...(kv_cache_quant_algo !== null && { kv_cache_scheme: { dynamic: false, num_bits: 8, type: "float" } }),
      producer,
      quant_method: "modelopt",
      ...group,
    },
    files: {
      "hf_quant_config.json": {
        producer,
        quantization: { quant_algo: algorithm, kv_cache_quant_algo, ...group, exclude_modules: excluded },
      },
    },
  }
}

// ---------------------------------------------------------------------------------------------------------------- reading

export const isModelopt = (config: Record<string, unknown>): boolean =>
  config.quant_method === undefined
    ? isObject(config.quantization) && "quant_algo" in config.quantization
    : typeof config.quant_method === "string" && config.quant_method.toLowerCase().startsWith("modelopt")

export class ModeloptConfig {
  readonly algorithm: Algorithm
  /** "FP8", or null. */
  readonly kvCache: string | null
  readonly #excluded: readonly RegExp[]

  /** Either form. ERR_UNSUPPORTED for an algorithm that is not read. */
  constructor(config: Record<string, unknown>) {
    const nested = config.quantization ?? null
    if (nested !== null && !isObject(nested))
      throw new TsqError("ERR_FORMAT", `quantization_config.quantization is ${describe(nested)}, expected an object`)
    const fields = nested ?? config
    const algorithm = stringField(fields, "quant_algo")?.toUpperCase()
    if (!algorithms.includes(algorithm as Algorithm))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantization_config.quant_algo is ${describe(fields.quant_algo)}; of ModelOpt checkpoints ${algorithms.join(", ")} are read`,
      )
    this.algorithm = algorithm as Algorithm
    const group = integerField(fields, ["group_size"], nvfp4Group)
    if (this.algorithm.includes("NVFP4") && group !== nvfp4Group)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantization_config.group_size is ${group}; ${this.algorithm} is read with groups of ${nvfp4Group}`,
      )
    const scheme = fields.kv_cache_scheme
    this.kvCache = stringField(fields, "kv_cache_quant_algo") ?? (isObject(scheme) ? "FP8" : null)
    this.#excluded = stringsField(fields, nested ? "exclude_modules" : "ignore").map(wildcard)
  }

  /** Whether the list of modules that are left alone has this one, or one that holds it. */
  excludes(module: string): boolean {
    return this.#excluded.some(pattern => pattern.test(module))
  }
}

/** Python's fnmatch: "*", "?"; brackets stand for themselves here. Without repetition of groups, so that it cannot run away. */
function wildcard(text: string): RegExp {
  const source = text
    .replace(/\*+/g, "*")
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replaceAll("?", ".")
    .replaceAll("*", ".*")
  return new RegExp(`^${source}(?:\\.|$)`)
}
