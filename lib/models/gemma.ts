// What Gemma 2 and Gemma 3 share: their own keys of config.json, and what follows from them.
import { z } from "zod"
import type { GemmaTraits } from "./builder.ts"
import { type ActivationCode, activationOf, parseWith } from "./config.ts"
import type { ModelConfig } from "./program.ts"
import type { Rope } from "./rope.ts"

const positive = z.number().gt(0)
const gemmaSchema = z.object({
  hidden_activation: z.string().nullish(),
  query_pre_attn_scalar: positive.nullish(),
  attn_logit_softcapping: positive.nullish(),
  final_logit_softcapping: positive.nullish(),
  use_bidirectional_attention: z.literal(false, { error: "expected false: only causal models can be run" }).nullish(),
  sliding_window_pattern: z.number().int().min(1).nullish(),
  _sliding_window_pattern: z.number().int().min(1).nullish(),
  rope_local_base_freq: positive.nullish(),
})

export type GemmaKeys = z.infer<typeof gemmaSchema>

export const gemmaKeys = (raw: Record<string, unknown>): GemmaKeys => parseWith(gemmaSchema, raw, "config.json")

/** hidden_act is not read: early configurations hold "gelu" there, which the models were not trained with. */
export const gemmaActivation = (keys: GemmaKeys): ActivationCode =>
  activationOf(keys.hidden_activation ?? "gelu_pytorch_tanh", "hidden_activation")

/** Soft caps that are absent take the defaults; null is off. */
export function gemmaTraits(
  config: ModelConfig,
  keys: GemmaKeys,
  slidingRope: Rope,
  caps: { attention: number; final: number },
): GemmaTraits {
  const cap = (value: number | null | undefined, otherwise: number) => (value === undefined ? otherwise : (value ?? 0))
  return {
    embedScale: inDtype(Math.sqrt(config.hiddenSize), config.torchDtype),
    attentionScale: (keys.query_pre_attn_scalar ?? 256) ** -0.5,
    attentionSoftcap: cap(keys.attn_logit_softcapping, caps.attention),
    finalSoftcap: cap(keys.final_logit_softcapping, caps.final),
    slidingRope,
  }
}

/** The models multiply by a constant of their own type: sqrt(3584) is 59.75 in bfloat16. */
function inDtype(value: number, torchDtype: string): number {
  const float = Math.fround(value)
  if (torchDtype === "bfloat16") {
    const [bits] = new Uint32Array(Float32Array.of(float).buffer)
    const rounded = (bits! + 0x7fff + ((bits! >>> 16) & 1)) & 0xffff0000
    return new Float32Array(Uint32Array.of(rounded >>> 0).buffer)[0]!
  }
  if (torchDtype !== "float16") return float
  // 11 bits of significand; square roots of widths are far from the ends of the range.
  const unit = 2 ** (Math.floor(Math.log2(float)) - 10)
  const scaled = float / unit
  const below = Math.floor(scaled)
  const rest = scaled - below
  return (rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below) * unit
}
