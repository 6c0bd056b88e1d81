// Gemma 2 (model_type "gemma2"): norms before and after attention and MLP, soft-capped logits, every other layer slides.
import { buildDecoder } from "./builder.ts"
import { layerWindows, parseDecoderConfig } from "./config.ts"
import { gemmaActivation, gemmaKeys, gemmaTraits } from "./gemma.ts"
import type { ModelProgram } from "./program.ts"
import { describeRope, withScaledContext } from "./rope.ts"

export function gemma2(raw: Record<string, unknown>): ModelProgram {
  const { keys, config } = parseDecoderConfig(raw, { headDim: 256, normEps: 1e-6, maxPositions: 8192, tied: true })
  const own = gemmaKeys(raw)
  const bias = keys.attention_bias ?? false
  const rope = describeRope(keys, config.headDim, config.maxContext)
  const window = keys.sliding_window === undefined ? 4096 : keys.sliding_window
  return buildDecoder(withScaledContext(config, rope), {
    attentionBias: { qkv: bias, o: bias },
    mlpBias: false,
    qkNorm: false,
    windows: layerWindows(keys, window, layer => layer % 2 === 0),
    rope,
    activation: gemmaActivation(own),
    gemma: gemmaTraits(config, own, rope, { attention: 50, final: 30 }),
  })
}
