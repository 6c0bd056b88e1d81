// The metadata of a GGUF file as the config.json of the same model.
// Source of keys and defaults: ggml-org/llama.cpp, src/llama-model.cpp and src/llama-arch.cpp.
import { GgufFields, shortest } from "../containers/gguf-fields.ts"
import type { GgufMetadata } from "../containers/gguf-types.ts"
import { TsqError } from "../core/errors.ts"
import { describe, listChoices, type NumberRange, rangeText, within } from "../core/options.ts"
import { ropeFreqsName } from "./gguf-names.ts"
import { endTokenIds, specialTokenId, tokensKey } from "./gguf-special.ts"
import { yarnMagnitude } from "./rope.ts"

/** What of a file's tensors decides how the model is described. */
export interface GgufTensors {
  has(name: string): boolean
  /** The values of rope_freqs.weight, where the file has it. */
  ropeFactors?: Float32Array | null
}

/** Architectures by their names in GGUF files; "llama" is Mistral as well, and Mixtral where it has experts. */
export const ggufArchitectures: readonly string[] = ["llama", "qwen2", "qwen3", "qwen3moe"]

/** Those that may have experts. llama.cpp makes the shares of their experts sum to 1. */
const withExperts: readonly string[] = ["llama", "qwen3moe"]

const sizes: NumberRange = { min: 1, max: 2 ** 31 - 1 }

/** Keys of which one value only leaves the mathematics as it is: the key behind the architecture's name, and that value. */
const neutral: ReadonlyMap<string, number | boolean> = new Map<string, number | boolean>([
  ["expert_count", 0],
  ["expert_used_count", 0],
  ["attention.causal", true],
  ["use_parallel_residual", false],
  ["attention.clamp_kqv", 0],
  ["attention.max_alibi_bias", 0],
  ["attn_logit_softcapping", 0],
  ["final_logit_softcapping", 0],
  ["rope.scaling.yarn_log_multiplier", 0],
  ["rope.scaling.yarn_ext_factor", 1],
  ["rope.scaling.yarn_attn_factor", 1],
  // llama.cpp reads these in other architectures only.
  ["rope.scaling.yarn_beta_fast", 32],
  ["rope.scaling.yarn_beta_slow", 1],
])

/** Keys that are read below, and those that say nothing about the mathematics of these architectures. */
const known: ReadonlySet<string> = new Set([
  ...["attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"],
  ...["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.scale"],
  ...["rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor"],
  ...["rope.scaling.original_context_length", "rope.scaling.attn_factor", "rope.scaling.finetuned"],
  // llama.cpp lets all layers of these architectures see everything.
  ...["attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"],
])

/** Beginnings and endings of keys that belong to other mathematics than the one described here. */
const foreign =
  /^(attention|rope|expert|ssm|wkv|altup|laurel|moe)[._]|_(scale|softcapping)$|^(swin_norm|interleave_moe)/

/**
 * The equivalent config.json of a GGUF file's metadata, for describeModel. ERR_FORMAT, naming file, key, found and expected, for what
 * does not fit; ERR_UNSUPPORTED for other architectures and for every key that would change the mathematics.
 */
export function configOfGguf(metadata: GgufMetadata, tensors: GgufTensors, path: string): Record<string, unknown> {
  const fields = new GgufFields(metadata, path)
  const architecture = architectureOf(fields)
  const key = (name: string) => `${architecture}.${name}`
  checkForeign(fields, architecture)
  const layers = fields.integer(key("block_count"), { min: 1, max: 4096 })
  const perLayer = (name: string, range: NumberRange, ...fallback: [number?]) =>
    uniform(fields, key(name), layers, range, fallback)
  const hiddenSize = fields.integer(key("embedding_length"), { min: 1, max: 2 ** 24 })
  const heads = perLayer("attention.head_count", { min: 1, max: 65536 })
  const headDim = headDimOf(fields, architecture, hiddenSize, heads)
  const kvHeads = perLayer("attention.head_count_kv", { min: 1, max: 65536 }, heads)
  if (heads % kvHeads !== 0) fields.fail(key("attention.head_count_kv"), `a divisor of head_count, ${heads}`)
  const experts = expertsOf(fields, architecture)
  const tokens = fields.has(tokensKey) ? fields.strings(tokensKey).length : null
  return {
    model_type: architecture,
    ...experts,
    vocab_size: tokens ?? fields.integer(key("vocab_size"), sizes),
    hidden_size: hiddenSize,
    intermediate_size: perLayer("feed_forward_length", { min: 1, max: 2 ** 24 }),
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    hidden_act: "silu",
    max_position_embeddings: fields.integer(key("context_length"), sizes),
    rms_norm_eps: fields.number(key("attention.layer_norm_rms_epsilon"), { min: 0, max: 1 }),
    rope_theta: fields.number(key("rope.freq_base"), { min: 1 }, 10000),
    rope_scaling: ropeScaling(fields, architecture, headDim, tensors),
    tie_word_embeddings: !tensors.has("output.weight"),
    ...biases(tensors, architecture, path),
    bos_token_id: specialTokenId(fields, "bos"),
    eos_token_id: endTokenIds(fields),
    torch_dtype: dtypeOf(fields),
  }
}

/** What config.json says of experts; nothing where there are none. */
function expertsOf(fields: GgufFields, architecture: string): Record<string, unknown> {
  if (!withExperts.includes(architecture)) return {}
  const key = (name: string) => `${architecture}.${name}`
  const moe = architecture === "qwen3moe"
  const count = fields.integer(key("expert_count"), { min: moe ? 1 : 0, max: 4096 }, ...(moe ? [] : ([0] as [number])))
  const used = fields.integer(
    key("expert_used_count"),
    { min: count > 0 ? 1 : 0, max: count },
    ...(count > 0 ? [] : ([0] as [number])),
  )
  if (count === 0) return {}
  if (!moe) return { model_type: "mixtral", num_local_experts: count, num_experts_per_tok: used }
  return {
    model_type: "qwen3_moe",
    num_experts: count,
    num_experts_per_tok: used,
    moe_intermediate_size: fields.integer(key("expert_feed_forward_length"), { min: 1, max: 2 ** 24 }),
    norm_topk_prob: true,
  }
}

function architectureOf(fields: GgufFields): string {
  const type = fields.string("general.type", "model")
  if (type !== "model")
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${fields.path}: metadata general.type is ${describe(type)}, expected "model"; this file holds no language model by itself`,
    )
  const architecture = fields.string("general.architecture")
  if (!ggufArchitectures.includes(architecture))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${fields.path}: metadata general.architecture is ${describe(architecture)}; supported architectures are ${listChoices(ggufArchitectures)}`,
    )
  return architecture
}

/** ERR_UNSUPPORTED for the first key that says that the model computes something else. */
function checkForeign(fields: GgufFields, architecture: string): void {
  for (const full of fields.keys()) {
    if (!full.startsWith(`${architecture}.`)) continue
    const key = full.slice(architecture.length + 1)
    if (known.has(key) || (withExperts.includes(architecture) && /^expert_(used_)?count$/.test(key))) continue
    if (architecture === "qwen3moe" && key === "expert_feed_forward_length") continue
    const only = neutral.get(key)
    if (only === undefined && foreign.test(key))
      fields.fail(full, `no such key in a model of architecture ${describe(architecture)}`, "ERR_UNSUPPORTED")
    if (only === undefined) continue
    const value =
      typeof only === "boolean"
        ? fields.flag(full)
        : key.startsWith("expert")
          ? fields.integer(full)
          : fields.number(full)
    if (value !== only) fields.fail(full, `${only}: this version does not compute anything else`, "ERR_UNSUPPORTED")
  }
}

/** A number, or an array with the same one for every layer: other arrays are models whose layers differ. */
function uniform(fields: GgufFields, key: string, layers: number, range: NumberRange, fallback: [number?]): number {
  if (!fields.isArray(key)) return fields.integer(key, range, ...(fallback as [number]))
  const values = fields.integers(key)
  if (values.length !== layers) fields.fail(key, `a number, or ${layers} numbers, one for every layer`)
  const first = values[0]!
  if (!within(first, range)) fields.fail(key, `integers${rangeText(range)}`)
  for (let i = 1; i < layers; i++)
    if (values[i] !== first)
      fields.fail(
        key,
        "the same number for all layers: models whose layers differ are not supported",
        "ERR_UNSUPPORTED",
      )
  return first
}

function headDimOf(fields: GgufFields, architecture: string, hiddenSize: number, heads: number): number {
  const key = `${architecture}.attention.key_length`
  const range = { min: 2, max: 65536 }
  if (!fields.has(key) && hiddenSize % heads !== 0)
    fields.fail(key, `an integer: embedding_length ${hiddenSize} is no multiple of head_count ${heads}`)
  const headDim = fields.integer(key, range, hiddenSize / heads)
  if (headDim % 2 !== 0 || heads * headDim > 2 ** 24)
    throw new TsqError(
      "ERR_FORMAT",
      `${fields.path}: ${heads} heads of ${headDim} elements, expected an even number of elements, and at most ${2 ** 24} of all heads`,
    )
  const valueKey = `${architecture}.attention.value_length`
  if (fields.integer(valueKey, range, headDim) !== headDim)
    fields.fail(
      valueKey,
      `${headDim} as the length of keys; values of another length are not supported`,
      "ERR_UNSUPPORTED",
    )
  const rotaryKey = `${architecture}.rope.dimension_count`
  if (fields.integer(rotaryKey, { min: 0 }, headDim) !== headDim)
    fields.fail(rotaryKey, `${headDim}: in this architecture the whole head turns`)
  const scaleKey = `${architecture}.attention.scale`
  const scale = fields.number(scaleKey, {}, 0)
  if (scale !== 0 && Math.abs(scale * Math.sqrt(headDim) - 1) > 1e-6)
    fields.fail(scaleKey, `${headDim ** -0.5}, 1 / sqrt(${headDim})`, "ERR_UNSUPPORTED")
  return headDim
}

function ropeScaling(
  fields: GgufFields,
  architecture: string,
  headDim: number,
  tensors: GgufTensors,
): Record<string, unknown> | null {
  const key = (name: string) => `${architecture}.rope.scaling.${name}`
  for (const name of ["rope_factors_long.weight", "rope_factors_short.weight"])
    if (tensors.has(name))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${fields.path}: tensor "${name}" is of longrope scaling, which is not supported`,
      )
  const old = fields.number(`${architecture}.rope.scale_linear`, { min: 0 }, 0)
  const factor = fields.number(key("factor"), { min: 0 }, old)
  // Without a type a factor is linear, and a factor of 0 is none.
  const type = fields.string(key("type"), "linear")
  const scaled = type !== "none" && factor !== 0
  if (!["none", "linear", "yarn"].includes(type))
    fields.fail(key("type"), `"none", "linear" or "yarn"; others are not supported`, "ERR_UNSUPPORTED")
  if (tensors.has(ropeFreqsName)) {
    if (architecture !== "llama")
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${fields.path}: has a tensor "${ropeFreqsName}", which models of architecture "${architecture}" do not use`,
      )
    if (scaled && factor !== 1)
      fields.fail(
        key("factor"),
        `1 beside a tensor "${ropeFreqsName}"; both together are not supported`,
        "ERR_UNSUPPORTED",
      )
    return { rope_type: "factors", factors: factorsOf(fields, headDim, tensors) }
  }
  if (type === "yarn") return yarn(fields, key, factor === 0 ? 1 : factor)
  const attention = fields.number(key("attn_factor"), { min: 0, aboveMin: true }, 1)
  if (attention !== 1) fields.fail(key("attn_factor"), `1 where rope.scaling.type is not "yarn"`, "ERR_UNSUPPORTED")
  return scaled && factor !== 1 ? { rope_type: "linear", factor } : null
}

function factorsOf({ path }: GgufFields, headDim: number, { ropeFactors }: GgufTensors): number[] {
  if (!ropeFactors)
    throw new TsqError("ERR_OPTION", `${path}: the values of "${ropeFreqsName}" were not given to configOfGguf`)
  if (ropeFactors.length !== headDim / 2)
    throw new TsqError(
      "ERR_SHAPE",
      `${path}: tensor "${ropeFreqsName}" has ${ropeFactors.length} elements, expected ${headDim / 2}, half a head`,
    )
  const wrong = ropeFactors.findIndex(value => !(value > 0 && value < Number.POSITIVE_INFINITY))
  if (wrong >= 0)
    throw new TsqError(
      "ERR_CORRUPT",
      `${path}: tensor "${ropeFreqsName}" holds ${ropeFactors[wrong]} at ${wrong}, expected positive numbers`,
    )
  return Array.from(ropeFactors)
}

function yarn(fields: GgufFields, key: (name: string) => string, factor: number): Record<string, unknown> {
  const attention = fields.number(key("attn_factor"), { min: 0, aboveMin: true }, 1)
  const plain = yarnMagnitude(factor, 1)
  const original = fields.integer(key("original_context_length"), sizes, null)
  return {
    rope_type: "yarn",
    factor,
    ...(original === null ? {} : { original_max_position_embeddings: original }),
    // The file holds it relative to the usual one, and in f32.
    ...(attention === 1
      ? {}
      : {
          attention_factor: shortest(attention * plain, v => Math.fround(v / plain) === Math.fround(attention)),
        }),
  }
}

/** Biases of q, k and v come with one of the output, as in config.json; those of the gated layer all together. */
function biases(tensors: GgufTensors, architecture: string, path: string): Record<string, boolean> {
  const has = (module: string) => tensors.has(`blk.0.${module}.bias`)
  const together = (modules: readonly string[]) => {
    const missing = modules.find(module => !has(module))
    const present = modules.find(has)
    if (missing !== undefined && present !== undefined)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${path}: has a tensor "blk.0.${present}.bias" and none "blk.0.${missing}.bias"; an architecture "${architecture}" with one and not the other is not supported`,
      )
    return present !== undefined
  }
  const qkv = ["attn_q", "attn_k", "attn_v"]
  const mlp = together(["ffn_gate", "ffn_up", "ffn_down"])
  if (architecture === "llama") return { attention_bias: together([...qkv, "attn_output"]), mlp_bias: mlp }
  for (const module of architecture === "qwen2" ? ["attn_output", "ffn_gate"] : [...qkv, "attn_output", "ffn_gate"])
    if (has(module))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${path}: has a tensor "blk.0.${module}.bias", which models of architecture "${architecture}" do not have`,
      )
  return architecture.startsWith("qwen3") ? { attention_bias: false } : {}
}

/** By general.file_type; what is quantized was made from, and is computed in, 16 bits. */
function dtypeOf(fields: GgufFields): string {
  const type = fields.integer("general.file_type", {}, 1)
  return type === 0 ? "float32" : type === 32 ? "bfloat16" : "float16"
}
