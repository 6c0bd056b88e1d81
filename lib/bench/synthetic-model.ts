// The parts of a model of a given shape that has no weights yet: its matrices and vectors, its configuration.
import type { ModelShape } from "./shapes.ts"

/** A linear layer, [n, k]; names as a Hugging Face checkpoint and as a GGUF file have them. */
export interface SyntheticMatrix {
  module: string
  gguf: string
  n: number
  k: number
  /** null: the embedding or the head. */
  layer: number | null
}

/** A norm's weight (ones) or a bias. */
export interface SyntheticVector {
  tensor: string
  gguf: string
  size: number
  kind: "norm" | "bias"
}

export interface SyntheticModel {
  shape: ModelShape
  matrices: SyntheticMatrix[]
  vectors: SyntheticVector[]
  /** config.json. */
  config: Record<string, unknown>
}

/** Positions that a made-up model has: more than any measurement needs. */
export const syntheticContext = 131072

export function syntheticModel(shape: ModelShape): SyntheticModel {
  const { hidden, intermediate, layers, heads, kvHeads, headDim, vocabulary, tied, modelType } = shape
  const [q, kv] = [heads * headDim, kvHeads * headDim]
  const matrices: SyntheticMatrix[] = [
    { module: "model.embed_tokens", gguf: "token_embd", n: vocabulary, k: hidden, layer: null },
  ]
  const vectors: SyntheticVector[] = []
  for (let layer = 0; layer < layers; layer++) {
    const matrix = (module: string, gguf: string, n: number, k: number) =>
      matrices.push({ module: `model.layers.${layer}.${module}`, gguf: `blk.${layer}.${gguf}`, n, k, layer })
    const vector = (tensor: string, gguf: string, size: number, kind: "norm" | "bias" = "norm") =>
      vectors.push({ tensor: `model.layers.${layer}.${tensor}`, gguf: `blk.${layer}.${gguf}`, size, kind })
    vector("input_layernorm.weight", "attn_norm.weight", hidden)
    matrix("self_attn.q_proj", "attn_q", q, hidden)
    matrix("self_attn.k_proj", "attn_k", kv, hidden)
    matrix("self_attn.v_proj", "attn_v", kv, hidden)
    matrix("self_attn.o_proj", "attn_output", hidden, q)
    if (modelType === "qwen2")
      for (const [name, size] of [
        ["q", q],
        ["k", kv],
        ["v", kv],
      ] as const)
        vector(`self_attn.${name}_proj.bias`, `attn_${name}.bias`, size, "bias")
    if (modelType === "qwen3")
      for (const name of ["q", "k"]) vector(`self_attn.${name}_norm.weight`, `attn_${name}_norm.weight`, headDim)
    if (modelType === "gemma2") {
      vector("post_attention_layernorm.weight", "post_attention_norm.weight", hidden)
      vector("pre_feedforward_layernorm.weight", "ffn_norm.weight", hidden)
      vector("post_feedforward_layernorm.weight", "post_ffw_norm.weight", hidden)
    } else vector("post_attention_layernorm.weight", "ffn_norm.weight", hidden)
    matrix("mlp.gate_proj", "ffn_gate", intermediate, hidden)
    matrix("mlp.up_proj", "ffn_up", intermediate, hidden)
    matrix("mlp.down_proj", "ffn_down", hidden, intermediate)
  }
  vectors.push({ tensor: "model.norm.weight", gguf: "output_norm.weight", size: hidden, kind: "norm" })
  if (!tied) matrices.push({ module: "lm_head", gguf: "output", n: vocabulary, k: hidden, layer: null })
  return { shape, matrices, vectors, config: configuration(shape) }
}

const architectures: Record<ModelShape["modelType"], string> = {
  llama: "LlamaForCausalLM",
  mistral: "MistralForCausalLM",
  qwen2: "Qwen2ForCausalLM",
  qwen3: "Qwen3ForCausalLM",
  gemma2: "Gemma2ForCausalLM",
}

/** Gemma 2's own, as google/gemma-2-2b has them. */
const gemmaSettings = ({ headDim }: ModelShape): Record<string, unknown> => ({
  hidden_activation: "gelu_pytorch_tanh",
  query_pre_attn_scalar: headDim,
  attn_logit_softcapping: 50,
  final_logit_softcapping: 30,
  sliding_window: 4096,
})

const configuration = (shape: ModelShape): Record<string, unknown> => ({
  architectures: [architectures[shape.modelType]],
  model_type: shape.modelType,
  torch_dtype: "float16",
  hidden_size: shape.hidden,
  intermediate_size: shape.intermediate,
  num_hidden_layers: shape.layers,
  num_attention_heads: shape.heads,
  num_key_value_heads: shape.kvHeads,
  head_dim: shape.headDim,
  vocab_size: shape.vocabulary,
  ...(shape.modelType === "gemma2" ? gemmaSettings(shape) : { hidden_act: "silu", sliding_window: null }),
  max_position_embeddings: syntheticContext,
  rms_norm_eps: shape.rmsNormEps,
  rope_theta: shape.ropeTheta,
  tie_word_embeddings: shape.tied,
  bos_token_id: shape.vocabulary - 2,
  eos_token_id: shape.vocabulary - 1,
})
