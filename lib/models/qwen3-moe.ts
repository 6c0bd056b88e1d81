// Qwen3 with experts (model_type "qwen3_moe"): Qwen3 with a mixture of experts in most or all blocks.
import { z } from "zod"
import { buildDecoder } from "./builder.ts"
import { activationCode, chosenExperts, expertCount, layerWindows, parseDecoderConfig, parseWith } from "./config.ts"
import type { ModelProgram } from "./program.ts"
import { describeRope, withScaledContext } from "./rope.ts"

const layer = z.number().int().min(0)
const expertSchema = z.object({
  num_experts: expertCount.nullish(),
  // What transformers 5 calls it.
  num_local_experts: expertCount.nullish(),
  num_experts_per_tok: expertCount.nullish(),
  moe_intermediate_size: z
    .number()
    .int()
    .min(1)
    .max(2 ** 24)
    .nullish(),
  norm_topk_prob: z.boolean().nullish(),
  decoder_sparse_step: z.number().int().min(1).nullish(),
  mlp_only_layers: z.array(layer).nullish(),
})

export function qwen3Moe(raw: Record<string, unknown>): ModelProgram {
  const { keys, config } = parseDecoderConfig(raw, { normEps: 1e-6, maxPositions: 32768 })
  const experts = parseWith(expertSchema, raw, "config.json")
  const count = experts.num_experts ?? experts.num_local_experts ?? 128
  const step = experts.decoder_sparse_step ?? 1
  const dense = new Set(experts.mlp_only_layers ?? [])
  const bias = keys.attention_bias ?? false
  const rope = describeRope(keys, config.headDim, config.maxContext)
  return buildDecoder(withScaledContext(config, rope), {
    attentionBias: { qkv: bias, o: bias },
    mlpBias: false,
    qkNorm: true,
    // One window for all layers: max_window_layers does not count here.
    windows: layerWindows(keys, keys.use_sliding_window ? (keys.sliding_window ?? null) : null, () => true),
    rope,
    activation: activationCode(keys),
    experts: {
      count,
      perToken: chosenExperts(experts.num_experts_per_tok ?? 8, "num_experts", count),
      renormalize: experts.norm_topk_prob ?? false,
      intermediateSize: experts.moe_intermediate_size ?? 768,
      layers: Array.from({ length: config.layers }, (_, i) => (i + 1) % step === 0 && !dense.has(i)),
      router: "mlp.gate",
      module: (expert, part) => `mlp.experts.${expert}.${part}_proj`,
    },
  })
}
