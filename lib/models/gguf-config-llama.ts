// Llama, Mistral, Mixtral and the Qwen families in GGUF files.
import { TsqError } from "../core/errors.ts"
import { ropeScaling } from "./gguf-config-rope.ts"
import { checkWholeHeads, dtypeOf, type GgufShape, type GgufTensors } from "./gguf-config-shape.ts"

/** Those that may have experts. llama.cpp makes the shares of their experts sum to 1. */
export const withExperts: readonly string[] = ["llama", "qwen3moe"]

export function llamaOfGguf(shape: GgufShape): Record<string, unknown> {
  const { fields, tensors, architecture } = shape
  checkWholeHeads(shape)
  return {
    model_type: architecture,
    ...expertsOf(shape),
    ...decoderKeys(shape),
    hidden_act: "silu",
    rope_theta: fields.number(shape.key("rope.freq_base"), { min: 1 }, 10000),
    rope_scaling: ropeScaling(fields, architecture, shape.rotary, tensors),
    tie_word_embeddings: !tensors.has("output.weight"),
    ...biases(tensors, architecture, fields.path),
    torch_dtype: dtypeOf(fields),
  }
}

/** What decoders with RMS norms share. */
export const decoderKeys = ({ fields, key, ...shape }: GgufShape): Record<string, unknown> => ({
  vocab_size: shape.vocabulary,
  hidden_size: shape.hiddenSize,
  intermediate_size: shape.innerSize,
  num_hidden_layers: shape.layers,
  num_attention_heads: shape.heads,
  num_key_value_heads: shape.kvHeads,
  head_dim: shape.headDim,
  max_position_embeddings: shape.context,
  rms_norm_eps: fields.number(key("attention.layer_norm_rms_epsilon"), { min: 0, max: 1 }),
})

/** What config.json says of experts; nothing where there are none. */
function expertsOf({ fields, architecture, key }: GgufShape): Record<string, unknown> {
  if (!withExperts.includes(architecture)) return {}
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
