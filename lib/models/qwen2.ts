// Qwen2 and Qwen2.5 (model_type "qwen2"): q, k and v have a bias; upper layers may slide.
import { buildDecoder } from "./builder.ts"
import { activationCode, type DecoderConfig, layerWindows, parseDecoderConfig } from "./config.ts"
import type { ModelProgram } from "./program.ts"
import { describeRope, withScaledContext } from "./rope.ts"

export function qwen2(raw: Record<string, unknown>): ModelProgram {
  const { keys, config } = parseDecoderConfig(raw, { normEps: 1e-6, maxPositions: 32768 })
  const rope = describeRope(keys, config.headDim, config.maxContext)
  return buildDecoder(withScaledContext(config, rope), {
    attentionBias: { qkv: true, o: false },
    mlpBias: false,
    qkNorm: false,
    windows: qwenWindows(keys),
    rope,
    activation: activationCode(keys),
  })
}

/** The window counts only with use_sliding_window; then layers from max_window_layers on slide, the ones below see everything. */
export function qwenWindows(keys: DecoderConfig): number[] {
  const window = keys.use_sliding_window ? (keys.sliding_window === undefined ? 4096 : keys.sliding_window) : null
  const full = keys.max_window_layers ?? 28
  return layerWindows(keys, window, layer => layer >= full)
}
