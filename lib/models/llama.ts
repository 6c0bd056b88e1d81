// Llama (model_type "llama"): Llama 2 and 3, and the many models that share their shape.
import { buildDecoder } from "./builder.ts"
import { activationCode, layerWindows, parseDecoderConfig } from "./config.ts"
import type { ModelProgram } from "./program.ts"
import { describeRope, withScaledContext } from "./rope.ts"

export function llama(raw: Record<string, unknown>): ModelProgram {
  const { keys, config } = parseDecoderConfig(raw, { normEps: 1e-6, maxPositions: 2048 })
  const bias = keys.attention_bias ?? false
  const rope = describeRope(keys, config.headDim, config.maxContext)
  return buildDecoder(withScaledContext(config, rope), {
    attentionBias: { qkv: bias, o: bias },
    mlpBias: keys.mlp_bias ?? false,
    qkNorm: false,
    windows: layerWindows(keys, null, () => false),
    rope,
    activation: activationCode(keys),
  })
}
