// Mistral (model_type "mistral"): Llama with a sliding window on every layer.
import { buildDecoder } from "./builder.ts"
import { activationCode, layerWindows, parseDecoderConfig } from "./config.ts"
import type { ModelProgram } from "./program.ts"
import { describeRope, withScaledContext } from "./rope.ts"

export function mistral(raw: Record<string, unknown>): ModelProgram {
  const { keys, config } = parseDecoderConfig(raw, { normEps: 1e-6, maxPositions: 4096 * 32 })
  // Absent means 4096, null means off: the first Mistral 7B has the window, later ones write null.
  const window = keys.sliding_window === undefined ? 4096 : keys.sliding_window
  const rope = describeRope(keys, config.headDim, config.maxContext)
  return buildDecoder(withScaledContext(config, rope), {
    attentionBias: { qkv: false, o: false },
    mlpBias: false,
    qkNorm: false,
    windows: layerWindows(keys, window, () => true),
    rope,
    activation: activationCode(keys),
  })
}
