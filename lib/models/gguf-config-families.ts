// Families in GGUF files that are not Llama's kin. Source of keys, defaults and rules: ggml-org/llama.cpp, src/models/{gemma2,gemma3,gpt2,gptneox,phi3}.cpp.
import { shortest } from "../containers/gguf-fields.ts"
import { decoderKeys } from "./gguf-config-llama.ts"
import { ropeScaling } from "./gguf-config-rope.ts"
import { checkPlainHeads, checkWholeHeads, dtypeOf, type GgufShape } from "./gguf-config-shape.ts"

/** Layers between those that see everything, where a file does not say. */
export const gemmaPeriods: Readonly<Record<string, number>> = { gemma2: 2, gemma3: 6 }

/** What llama.cpp divides scores of q and k by the root of: the model of so many layers has hidden size by heads. */
export function gemmaScalar(
  architecture: string,
  shape: { layers: number; hiddenSize: number; heads: number; headDim: number },
): number {
  const { layers, hiddenSize, heads, headDim } = shape
  const layersOf27b = architecture === "gemma2" ? 46 : 62
  return layers === layersOf27b ? Math.floor(hiddenSize / heads) : headDim
}

/** Null: not one for every layer. */
export const slidingLayers = (layers: number, period: number): boolean[] =>
  Array.from({ length: layers }, (_, layer) => period === 0 || layer % period < period - 1)

/** Which layers slide, from a period or one value for every layer. */
function slidingOf({ fields, key, architecture, layers }: GgufShape): boolean[] {
  const name = key("attention.sliding_window_pattern")
  const otherwise = gemmaPeriods[architecture]!
  if (!fields.isArray(name)) return slidingLayers(layers, fields.integer(name, { min: 0 }, otherwise))
  const values = fields.flags(name)
  if (values.length !== layers) fields.fail(name, `a number, or ${layers} values, one for every layer`)
  return values
}

const layerTypes = (sliding: readonly boolean[]) =>
  sliding.map(slides => (slides ? "sliding_attention" : "full_attention"))

const gemmaKeys = (shape: GgufShape) => ({
  ...decoderKeys(shape),
  hidden_activation: "gelu_pytorch_tanh",
  query_pre_attn_scalar: gemmaScalar(shape.architecture, shape),
  // The families' own checkpoints are bfloat16, and their hidden states exceed what f16 holds.
  torch_dtype: dtypeOf(shape.fields) === "float32" ? "float32" : "bfloat16",
})

export function gemma2OfGguf(shape: GgufShape): Record<string, unknown> {
  const { fields, tensors, key, architecture } = shape
  checkWholeHeads(shape)
  const base = fields.number(key("rope.freq_base"), { min: 1 }, 10000)
  if (fields.number(key("rope.freq_base_swa"), { min: 1 }, base) !== base)
    fields.fail(
      key("rope.freq_base_swa"),
      `${base} as rope.freq_base: layers of this family turn alike`,
      "ERR_UNSUPPORTED",
    )
  const above = { min: 0, aboveMin: true }
  return {
    model_type: "gemma2",
    ...gemmaKeys(shape),
    attn_logit_softcapping: fields.number(key("attn_logit_softcapping"), above, 50),
    final_logit_softcapping: fields.number(key("final_logit_softcapping"), above, 30),
    sliding_window: fields.integer(key("attention.sliding_window"), { min: 1, max: 2 ** 31 - 1 }, 4096),
    layer_types: layerTypes(slidingOf(shape)),
    rope_theta: base,
    rope_scaling: ropeScaling(fields, architecture, shape.rotary, tensors),
    tie_word_embeddings: true,
  }
}

export function phi3OfGguf(shape: GgufShape): Record<string, unknown> {
  const { fields, tensors, key, architecture, rotary, headDim } = shape
  checkPlainHeads(shape, false)
  const window = fields.integer(key("attention.sliding_window"), { min: 0, max: 2 ** 31 - 1 }, 0)
  return {
    model_type: "phi3",
    ...decoderKeys(shape),
    hidden_act: "silu",
    // llama.cpp ignores it, which is not what the model was trained for.
    sliding_window: window === 0 ? null : window,
    ...(rotary !== headDim && { partial_rotary_factor: partOf(rotary, headDim) }),
    rope_theta: fields.number(key("rope.freq_base"), { min: 1 }, 10000),
    original_max_position_embeddings: fields.integer(
      key("rope.scaling.original_context_length"),
      { min: 1, max: 2 ** 31 - 1 },
      shape.context,
    ),
    rope_scaling: ropeScaling(fields, architecture, rotary, tensors),
    tie_word_embeddings: !tensors.has("output.weight"),
    torch_dtype: dtypeOf(fields),
  }
}

/** The factor by which a configuration says that `rotary` of `headDim` elements turn. */
const partOf = (rotary: number, headDim: number): number =>
  shortest(rotary / headDim, part => Math.floor(headDim * part) === rotary)

export function gemma3OfGguf(shape: GgufShape): Record<string, unknown> {
  const { fields, tensors, key, architecture, layers } = shape
  checkWholeHeads(shape)
  const cap = fields.number(key("final_logit_softcapping"), { min: 0 }, 0)
  const window = fields.integer(key("attention.sliding_window"), { min: 0, max: 2 ** 31 - 1 }, 0)
  return {
    model_type: "gemma3_text",
    ...gemmaKeys(shape),
    final_logit_softcapping: cap === 0 ? null : cap,
    sliding_window: window === 0 ? null : window,
    layer_types: layerTypes(window === 0 ? slidingLayers(layers, 1) : slidingOf(shape)),
    rope_theta: fields.number(key("rope.freq_base"), { min: 1 }, 10000),
    rope_local_base_freq: fields.number(key("rope.freq_base_swa"), { min: 1 }, 10000),
    rope_scaling: ropeScaling(fields, architecture, shape.rotary, tensors),
    tie_word_embeddings: !tensors.has("output.weight"),
  }
}

export function gpt2OfGguf(shape: GgufShape): Record<string, unknown> {
  const { fields, tensors, key } = shape
  checkPlainHeads(shape)
  return {
    model_type: "gpt2",
    vocab_size: shape.vocabulary,
    n_embd: shape.hiddenSize,
    n_inner: shape.innerSize,
    n_layer: shape.layers,
    n_head: shape.heads,
    n_positions: shape.context,
    n_ctx: shape.context,
    activation_function: "gelu_new",
    layer_norm_epsilon: fields.number(key("attention.layer_norm_epsilon"), { min: 0, max: 1 }),
    tie_word_embeddings: !tensors.has("output.weight"),
    torch_dtype: dtypeOf(fields),
  }
}

/** What llama.cpp reads in other architectures only. There it says what this one's files cannot: GELU by its definition, or by tanh. */
export const neoxActivationKey = "hidden_activation"

export function neoxOfGguf(shape: GgufShape): Record<string, unknown> {
  const { fields, tensors, key, rotary, headDim } = shape
  checkPlainHeads(shape)
  return {
    model_type: "gpt_neox",
    vocab_size: shape.vocabulary,
    hidden_size: shape.hiddenSize,
    intermediate_size: shape.innerSize,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    max_position_embeddings: shape.context,
    hidden_act: fields.string(key(neoxActivationKey), "gelu"),
    layer_norm_eps: fields.number(key("attention.layer_norm_epsilon"), { min: 0, max: 1 }),
    rotary_pct: partOf(rotary, headDim),
    rotary_emb_base: fields.number(key("rope.freq_base"), { min: 1 }, 10000),
    rope_scaling: ropeScaling(fields, shape.architecture, rotary, tensors),
    use_parallel_residual: fields.flag(key("use_parallel_residual")),
    attention_bias: true,
    tie_word_embeddings: !tensors.has("output.weight"),
    torch_dtype: dtypeOf(fields),
  }
}
