// Qwen3, dense (model_type "qwen3"): every head of q and k is normalised before it turns; heads are 128 wide by default.
import { buildDecoder } from "./builder.ts"
import { activationCode, parseDecoderConfig } from "./config.ts"
import type { ModelProgram } from "./program.ts"
import { qwenWindows } from "./qwen2.ts"
import { describeRope, withScaledContext } from "./rope.ts"

export function qwen3(raw: Record<string, unknown>): ModelProgram {
  const { keys, config } = parseDecoderConfig(raw, { headDim: 128, normEps: 1e-6, maxPositions: 32768 })
  const bias = keys.attention_bias ?? false
  const rope = describeRope(keys, config.headDim, config.maxContext)
  return buildDecoder(withScaledContext(config, rope), {
    attentionBias: { qkv: bias, o: bias },
    mlpBias: false,
    qkNorm: true,
    windows: qwenWindows(keys),
    rope,
    activation: activationCode(keys),
  })
}
