// Small random checkpoints, written by hand so that they do not depend on the code under test.
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Weights } from "./float64-forward.ts"

/** Uniform in [0, 1), a function of the seed (mulberry32). */
export function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** What every variant starts from. */
export const tinyConfig = {
  model_type: "llama",
  vocab_size: 37,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
}

/** Random weights of a configuration, exactly representable in the dtype that they will be stored in. */
export function randomWeights(config: Record<string, unknown>, seed: number, dtype: "F32" | "BF16" = "F32"): Weights {
  const next = random(seed)
  const weights: Weights = {}
  const store = (value: number) => {
    if (dtype === "F32") return Math.fround(value)
    const bits = new Uint32Array(Float32Array.of(value).buffer)
    bits[0]! &= 0xffff0000
    return new Float32Array(bits.buffer)[0]!
  }
  const tensor = (name: string, shape: number[], scale: number, offset = 0) => {
    const count = shape.reduce((a, b) => a * b, 1)
    weights[name] = {
      shape,
      values: Float64Array.from({ length: count }, () => store(offset + scale * (2 * next() - 1))),
    }
  }
  const c = config as typeof tinyConfig & { head_dim?: number; attention_bias?: boolean; mlp_bias?: boolean }
  const headDim = c.head_dim ?? c.hidden_size / c.num_attention_heads
  const [q, kv] = [c.num_attention_heads * headDim, c.num_key_value_heads * headDim]
  const linear = (module: string, n: number, k: number, bias: boolean) => {
    tensor(`${module}.weight`, [n, k], 2 / Math.sqrt(k))
    if (bias) tensor(`${module}.bias`, [n], 0.5)
  }
  const qkvBias = c.model_type === "qwen2" || c.attention_bias === true
  tensor("model.embed_tokens.weight", [c.vocab_size, c.hidden_size], 1)
  for (let layer = 0; layer < c.num_hidden_layers; layer++) {
    const prefix = `model.layers.${layer}.`
    tensor(`${prefix}input_layernorm.weight`, [c.hidden_size], 0.5, 1)
    linear(`${prefix}self_attn.q_proj`, q, c.hidden_size, qkvBias)
    linear(`${prefix}self_attn.k_proj`, kv, c.hidden_size, qkvBias)
    linear(`${prefix}self_attn.v_proj`, kv, c.hidden_size, qkvBias)
    linear(`${prefix}self_attn.o_proj`, c.hidden_size, q, c.model_type !== "qwen2" && c.attention_bias === true)
    if (c.model_type === "qwen3") {
      tensor(`${prefix}self_attn.q_norm.weight`, [headDim], 0.5, 1)
      tensor(`${prefix}self_attn.k_norm.weight`, [headDim], 0.5, 1)
    }
    tensor(`${prefix}post_attention_layernorm.weight`, [c.hidden_size], 0.5, 1)
    linear(`${prefix}mlp.gate_proj`, c.intermediate_size, c.hidden_size, c.mlp_bias === true)
    linear(`${prefix}mlp.up_proj`, c.intermediate_size, c.hidden_size, c.mlp_bias === true)
    linear(`${prefix}mlp.down_proj`, c.hidden_size, c.intermediate_size, c.mlp_bias === true)
  }
  tensor("model.norm.weight", [c.hidden_size], 0.5, 1)
  if (!c.tie_word_embeddings) linear("lm_head", c.vocab_size, c.hidden_size, false)
  return weights
}

/** config.json, model.safetensors and a tokenizer of single letters without BOS. */
export function writeCheckpoint(
  directory: string,
  config: Record<string, unknown>,
  weights: Weights,
  dtype: "F32" | "BF16" = "F32",
): void {
  mkdirSync(directory, { recursive: true })
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } }
  const parts: Uint8Array[] = []
  let offset = 0
  for (const name of Object.keys(weights).sort()) {
    const { shape, values } = weights[name]!
    const floats = Float32Array.from(values)
    const bytes =
      dtype === "F32"
        ? new Uint8Array(floats.buffer)
        : new Uint8Array(Uint16Array.from(new Uint32Array(floats.buffer), bits => bits >>> 16).buffer)
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] }
    parts.push(bytes)
    offset += bytes.length
  }
  let text = JSON.stringify(header)
  text += " ".repeat((8 - (text.length % 8)) % 8)
  const length = new Uint8Array(8)
  new DataView(length.buffer).setBigUint64(0, BigInt(text.length), true)
  writeFileSync(join(directory, "model.safetensors"), Buffer.concat([length, Buffer.from(text), ...parts]))
  writeFileSync(join(directory, "config.json"), JSON.stringify(config))
  writeFileSync(
    join(directory, "tokenizer.json"),
    JSON.stringify(
      letterTokenizer(((config.text_config as Record<string, unknown> | undefined) ?? config).vocab_size as number),
    ),
  )
}

/** Token i is the i-th letter of "abc…zABC…"; nothing is added to a text. */
export function letterTokenizer(vocabulary: number): Record<string, unknown> {
  const letters = [..."abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"].slice(0, vocabulary)
  return {
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: "Fuse" },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(letters.map((letter, i) => [letter, i])),
      merges: [],
      unk_token: null,
    },
  }
}
