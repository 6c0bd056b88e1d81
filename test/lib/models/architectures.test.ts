// Every architecture and rope type against a float64 forward pass over the same random weights.
import t from "tap"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { forward64 } from "./support/float64-forward.ts"
import { random, randomWeights, tinyConfig, writeCheckpoint } from "./support/tiny-checkpoint.ts"

const variants: Record<string, Record<string, unknown>> = {
  "llama, biases everywhere": { attention_bias: true, mlp_bias: true },
  "llama, llama3 rope, tied, head_dim of its own": {
    tie_word_embeddings: true,
    head_dim: 16,
    rope_theta: 500,
    rope_scaling: {
      rope_type: "llama3",
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    },
  },
  "llama, linear rope under its old key, GELU": {
    rope_scaling: { type: "linear", factor: 4 },
    hidden_act: "gelu_pytorch_tanh",
  },
  "llama, half of a head turns": { head_dim: 8, partial_rotary_factor: 0.5 },
  "llama, one KV head": { num_key_value_heads: 1 },
  "mistral, window of 5": { model_type: "mistral", sliding_window: 5 },
  "mistral, no window": { model_type: "mistral", sliding_window: null },
  "qwen2, upper layers slide": {
    model_type: "qwen2",
    use_sliding_window: true,
    sliding_window: 7,
    max_window_layers: 1,
  },
  "qwen2, yarn in rope_parameters": {
    model_type: "qwen2",
    head_dim: 16,
    rope_theta: undefined,
    rope_parameters: { rope_type: "yarn", rope_theta: 1000, factor: 4, original_max_position_embeddings: 32 },
  },
  "qwen3, q and k norm": { model_type: "qwen3", head_dim: 16 },
  "qwen3, layer_types and bias": {
    model_type: "qwen3",
    head_dim: 8,
    attention_bias: true,
    use_sliding_window: true,
    sliding_window: 4,
    layer_types: ["sliding_attention", "full_attention", "sliding_attention"],
  },
  "mixtral, two of five experts": { model_type: "mixtral", num_local_experts: 5, num_experts_per_tok: 2 },
  "mixtral, one expert, window": {
    model_type: "mixtral",
    num_local_experts: 3,
    num_experts_per_tok: 1,
    sliding_window: 6,
  },
  "qwen3_moe, shares as they are": {
    model_type: "qwen3_moe",
    num_experts: 12,
    num_experts_per_tok: 8,
    moe_intermediate_size: 9,
    head_dim: 16,
  },
  "qwen3_moe, shares sum to 1, dense layers between": {
    model_type: "qwen3_moe",
    num_experts: 6,
    num_experts_per_tok: 3,
    moe_intermediate_size: 16,
    norm_topk_prob: true,
    decoder_sparse_step: 2,
    use_sliding_window: true,
    sliding_window: 9,
    max_window_layers: 2,
  },
  "qwen3_moe, every expert, a layer without": {
    model_type: "qwen3_moe",
    num_experts: 4,
    num_experts_per_tok: 4,
    moe_intermediate_size: 20,
    mlp_only_layers: [1],
    attention_bias: true,
  },
}

let seed = 1
for (const [name, changes] of Object.entries(variants))
  for (const dtype of ["F32", "BF16"] as const)
    t.test(`${name}, ${dtype}`, async t => {
      const config = { ...tinyConfig, ...changes }
      const weights = randomWeights(config, seed++, dtype)
      const directory = t.testdir()
      writeCheckpoint(directory, config, weights, dtype)
      const next = random(99)
      // Longer than two pages of the KV cache and than every window.
      const ids = Array.from({ length: 41 }, () => Math.floor(next() * config.vocab_size))
      const expected = forward64(config, weights, ids)

      const model = await loadModel(directory)
      t.teardown(() => model.dispose())
      const logits = (await model.forward(ids)).data
      let worst = 0
      let size = 0
      expected.forEach((row, i) => {
        row.forEach((value, j) => {
          worst = Math.max(worst, Math.abs(value - logits[i * config.vocab_size + j]!))
          size = Math.max(size, Math.abs(value))
        })
      })
      t.ok(worst < 1e-5 * Math.max(size, 1), `largest difference ${worst} of logits up to ${size}`)

      // One token at a time over the cache: every greedy choice is the float64 argmax.
      const prompt = ids.slice(0, 5)
      const { tokens } = await model.complete(prompt, { maxTokens: 30, temperature: 0, ignoreEos: true })
      const rows = forward64(config, weights, [...prompt, ...tokens])
      tokens.forEach((token, i) => {
        const row = rows[prompt.length - 1 + i]!
        const best = Math.max(...row)
        t.ok(best - row[token]! < 1e-4, `token ${i} is the most likely one`)
      })
    })
