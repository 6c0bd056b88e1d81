// Mixtral (model_type "mixtral"): Mistral with a mixture of experts in every block (arXiv 2401.04088).
import { z } from "zod"
import { buildDecoder } from "./builder.ts"
import { activationCode, chosenExperts, expertCount, layerWindows, parseDecoderConfig, parseWith } from "./config.ts"
import type { ModelProgram } from "./program.ts"
import { describeRope, withScaledContext } from "./rope.ts"

const expertSchema = z.object({ num_local_experts: expertCount.nullish(), num_experts_per_tok: expertCount.nullish() })

const parts = { gate: "w1", up: "w3", down: "w2" }

export function mixtral(raw: Record<string, unknown>): ModelProgram {
  const { keys, config } = parseDecoderConfig(raw, { normEps: 1e-5, maxPositions: 4096 * 32 })
  const experts = parseWith(expertSchema, raw, "config.json")
  const count = experts.num_local_experts ?? 8
  const rope = describeRope({ ...keys, rope_theta: keys.rope_theta ?? 1e6 }, config.headDim, config.maxContext)
  return buildDecoder(withScaledContext(config, rope), {
    attentionBias: { qkv: false, o: false },
    mlpBias: false,
    qkNorm: false,
    windows: layerWindows(keys, keys.sliding_window ?? null, () => true),
    rope,
    activation: activationCode(keys),
    experts: {
      count,
      perToken: chosenExperts(experts.num_experts_per_tok ?? 2, "num_local_experts", count),
      renormalize: true,
      intermediateSize: config.intermediateSize,
      layers: new Array<boolean>(config.layers).fill(true),
      router: "block_sparse_moe.gate",
      module: (expert, part) => `block_sparse_moe.experts.${expert}.${parts[part]}`,
    },
  })
}
