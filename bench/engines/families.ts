// Random models of the families that no model of the repository is of, with fable-5m's tokenizer.
import { cpSync } from "node:fs"
import { join } from "node:path"
import type { GgufPreset } from "../../lib/formats/gguf-mixes.ts"
import { familyWeights } from "../../test/lib/models/support/family-models.ts"
import { randomWeights, writeCheckpoint } from "../../test/lib/models/support/tiny-checkpoint.ts"
import type { Subject } from "./llama-cpp.ts"

/** Floats, and blocks of 32 and of 256. */
export const familyPresets: readonly GgufPreset[] = ["f32", "f16", "q8_0", "q4_k_m"]

const shared = {
  ...{ vocab_size: 2048, hidden_size: 256, intermediate_size: 512, num_hidden_layers: 4, torch_dtype: "float32" },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 1024 },
}
// Windows are shorter than the texts that are compared.
const gemma = { ...shared, head_dim: 64, query_pre_attn_scalar: 64, sliding_window: 100, num_hidden_layers: 7 }

/** Three quarters of a head turn. */
const longrope = (original: number) => ({
  ...{ ...shared, model_type: "phi3", max_position_embeddings: 4096, original_max_position_embeddings: original },
  partial_rotary_factor: 0.75,
  rope_scaling: {
    type: "longrope",
    short_factor: Array.from({ length: 24 }, (_, i) => 1 + i / 20),
    long_factor: Array.from({ length: 24 }, (_, i) => 1 + i / 2),
  },
})

/** With what token vectors are multiplied: the lower, the less a tied head repeats the last token. */
const models: Record<string, { config: Record<string, unknown>; embeddings: number }> = {
  "gemma3-random": {
    config: { ...gemma, model_type: "gemma3_text", rope_scaling: { rope_type: "linear", factor: 4 } },
    embeddings: 1 / 8,
  },
  "phi3-random": { config: { ...shared, model_type: "phi3" }, embeddings: 1 / 5 },
  "phi3-random, longrope, short": { config: longrope(1024), embeddings: 1 / 5 },
  "phi3-random, longrope, long": { config: longrope(256), embeddings: 1 / 5 },
  "gpt2-random": {
    config: { model_type: "gpt2", vocab_size: 2048, n_embd: 256, n_layer: 4, n_head: 4, n_positions: 1024 },
    embeddings: 1 / 5,
  },
  "gptneox-random": {
    config: { ...shared, model_type: "gpt_neox", num_key_value_heads: undefined },
    embeddings: 1 / 5,
  },
  "gptneox-random, in turn": {
    config: {
      ...{ ...shared, model_type: "gpt_neox", num_key_value_heads: undefined },
      ...{ use_parallel_residual: false, hidden_act: "gelu_fast", rotary_pct: 1 },
    },
    embeddings: 1 / 5,
  },
  "mixtral-random": {
    config: { ...shared, model_type: "mixtral", num_local_experts: 8, num_experts_per_tok: 2, num_hidden_layers: 2 },
    embeddings: 1 / 5,
  },
  "qwen3moe-random": {
    config: {
      ...{ ...shared, model_type: "qwen3_moe", num_hidden_layers: 2, head_dim: 64, norm_topk_prob: true },
      ...{ num_experts: 6, num_experts_per_tok: 3, moe_intermediate_size: 256, tie_word_embeddings: false },
    },
    embeddings: 1 / 5,
  },
  "gemma2-random": { config: { ...gemma, model_type: "gemma2", attn_logit_softcapping: 3 }, embeddings: 1 / 8 },
}

export function familySubjects(fable: Subject, work: string): Subject[] {
  return Object.entries(models).map(([name, { config, embeddings }], seed) => {
    const path = join(work, name)
    const make = /mixtral|qwen/.test(name) ? randomWeights : familyWeights
    const weights = make(config, 1 + seed)
    for (const [tensor, { values }] of Object.entries(weights)) {
      // Logits of some nats, so that few tokens are as good as level.
      const factor = /lm_head|embed_out/.test(tensor) ? 3 : /embed|wte|wpe/.test(tensor) ? embeddings : 1
      for (let i = 0; i < values.length; i++) values[i] = Math.fround(values[i]! * factor)
    }
    writeCheckpoint(path, config, weights)
    for (const file of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join(fable.path, file), join(path, file))
    // ggml takes GELU from a table of 16-bit floats (ggml/src/ggml-cpu/vec.h).
    const gelu = !/phi3|mixtral|qwen/.test(name)
    return { ...fable, name, path, bounds: { nll: gelu ? 0.01 : 0.002, same: 0.995 } }
  })
}
