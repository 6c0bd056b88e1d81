// Phi-3, Phi-3.5 and Phi-4 (model_type "phi3"): Llama with fused projections, longrope, and in Phi-4-mini a partial rotation.
import { buildDecoder } from "./builder.ts"
import { activationCode, type DecoderConfig, layerWindows, parseDecoderConfig } from "./config.ts"
import type { ModelProgram } from "./program.ts"
import { describeRope, withScaledContext } from "./rope.ts"

export function phi3(raw: Record<string, unknown>): ModelProgram {
  const { keys, config } = parseDecoderConfig(raw, { normEps: 1e-5, maxPositions: 4096 })
  const rope = describeRope(renamed(keys), config.headDim, config.maxContext)
  return buildDecoder(withScaledContext(config, rope), {
    attentionBias: { qkv: false, o: false },
    mlpBias: false,
    qkNorm: false,
    windows: layerWindows(keys, keys.sliding_window ?? null, () => true),
    rope,
    activation: activationCode(keys),
    fused: true,
  })
}

/** Longrope was called "su" at first, and "yarn" for a time: with lists of factors it is never the yarn of other models. */
function renamed(keys: DecoderConfig): DecoderConfig {
  const key = keys.rope_parameters ? "rope_parameters" : "rope_scaling"
  const scaling = keys[key]
  const type = scaling?.rope_type ?? scaling?.type
  return type === "su" || type === "yarn" ? { ...keys, [key]: { ...scaling, rope_type: "longrope" } } : keys
}
