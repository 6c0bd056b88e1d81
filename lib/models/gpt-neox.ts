// GPT-NeoX and Pythia (model_type "gpt_neox"): attention and MLP side by side, a partial rotation, exact GELU.
import { z } from "zod"
import { activationOf, parseDecoderConfig, parseWith } from "./config.ts"
import { buildLayerNormDecoder } from "./layer-norm-decoder.ts"
import type { ModelProgram } from "./program.ts"
import { describeRope, withScaledContext } from "./rope.ts"

const neoxSchema = z.object({
  hidden_act: z.string().nullish(),
  layer_norm_eps: z.number().min(0).max(1).nullish(),
  rotary_pct: z.number().gt(0).max(1).nullish(),
  rotary_emb_base: z.number().gt(0).nullish(),
  use_parallel_residual: z.boolean().nullish(),
})

export function gptNeox(raw: Record<string, unknown>): ModelProgram {
  const own = parseWith(neoxSchema, raw, "config.json")
  const named = { ...raw, num_key_value_heads: null, head_dim: null, rms_norm_eps: own.layer_norm_eps ?? 1e-5 }
  const { keys, config } = parseDecoderConfig(named, { normEps: 1e-5, maxPositions: 2048 })
  const rope = describeRope(
    {
      ...keys,
      rope_theta: own.rotary_emb_base ?? keys.rope_theta,
      partial_rotary_factor: own.rotary_pct ?? keys.partial_rotary_factor ?? 0.25,
    },
    config.headDim,
    config.maxContext,
  )
  return buildLayerNormDecoder(withScaledContext({ ...config, raw }, rope), {
    names: {
      embedding: "gpt_neox.embed_in",
      positions: null,
      finalNorm: "gpt_neox.final_layer_norm",
      head: "embed_out",
      layers: "gpt_neox.layers.",
      attentionNorm: "input_layernorm",
      qkv: "attention.query_key_value",
      attentionOut: "attention.dense",
      mlpNorm: "post_attention_layernorm",
      up: "mlp.dense_h_to_4h",
      down: "mlp.dense_4h_to_h",
    },
    parallel: own.use_parallel_residual ?? true,
    interleaved: true,
    transposed: false,
    attentionBias: keys.attention_bias ?? true,
    rope,
    activation: activationOf(own.hidden_act ?? "gelu", "hidden_act"),
    attentionScales: new Array<number>(config.layers).fill(config.headDim ** -0.5),
  })
}
