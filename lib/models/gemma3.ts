// Gemma 3 (model_type "gemma3_text", and the text half of "gemma3"): Gemma 2 with norms of q and k in place of soft caps, and two
// kinds of layers: most slide and turn by a base of their own, every sixth sees everything and has the scaled rope.
import { isObject } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import { buildDecoder, type DecoderTraits } from "./builder.ts"
import { type DecoderConfig, layerWindows, parseDecoderConfig } from "./config.ts"
import { gemmaActivation, gemmaKeys, gemmaTraits } from "./gemma.ts"
import type { ModelConfig, ModelProgram } from "./program.ts"
import { describeRope, withScaledContext } from "./rope.ts"

/** Of transformers' Gemma3TextConfig: configurations of multimodal models leave out what equals them. */
const defaults = {
  vocab_size: 262208,
  hidden_size: 2304,
  intermediate_size: 9216,
  num_hidden_layers: 26,
  num_attention_heads: 8,
  num_key_value_heads: 4,
}

export function gemma3Text(raw: Record<string, unknown>): ModelProgram {
  return build({ ...defaults, ...raw }, undefined)
}

/** The language model of a multimodal checkpoint; images cannot be given to it. */
export function gemma3(raw: Record<string, unknown>, has?: (tensor: string) => boolean): ModelProgram {
  const { text_config: text } = raw
  if (!isObject(text))
    throw new TsqError("ERR_FORMAT", `config.json: text_config is ${describe(text)}, expected an object`)
  const { bos_token_id, eos_token_id, dtype, torch_dtype, tie_word_embeddings } = raw
  const outer = { bos_token_id, eos_token_id, dtype, torch_dtype, tie_word_embeddings }
  const shared = Object.fromEntries(Object.entries(outer).filter(([, value]) => value !== undefined && value !== null))
  const config = { ...defaults, ...shared, ...text, model_type: "gemma3" }
  const newer = has?.("model.language_model.norm.weight") ?? false
  const names = newer
    ? { root: "model.language_model.", head: "lm_head" }
    : { root: "language_model.model.", head: "language_model.lm_head" }
  return build(config, names)
}

function build(raw: Record<string, unknown>, names: DecoderTraits["names"]): ModelProgram {
  const own = gemmaKeys(raw)
  const { keys, config, global, local } = gemma3Config(raw)
  const bias = keys.attention_bias ?? false
  const rope = describeRope(global, config.headDim, config.maxContext)
  const localRope = describeRope(local, config.headDim, config.maxContext)
  // Without a window these layers see everything, and turn by their own base all the same.
  const window = keys.sliding_window === undefined ? 4096 : (keys.sliding_window ?? config.maxContext)
  const pattern = own.sliding_window_pattern ?? own._sliding_window_pattern ?? 6
  return buildDecoder(withScaledContext({ ...config, raw }, rope), {
    attentionBias: { qkv: bias, o: bias },
    mlpBias: false,
    qkNorm: true,
    windows: layerWindows(keys, window, layer => (layer + 1) % pattern !== 0),
    rope,
    activation: gemmaActivation(own),
    gemma: gemmaTraits(config, own, localRope, { attention: 0, final: 0 }),
    ...(names && { names }),
  })
}

/** `global` and `local`: the keys by which layers turn that see everything, and those that slide. */
export function gemma3Config(raw: Record<string, unknown>): {
  keys: DecoderConfig
  config: ModelConfig
  global: DecoderConfig
  local: DecoderConfig
} {
  const { global, local, rest } = ropes(raw)
  const { keys, config } = parseDecoderConfig(rest, { headDim: 256, normEps: 1e-6, maxPositions: 131072, tied: true })
  const own = { rope_scaling: null, rope_theta: gemmaKeys(raw).rope_local_base_freq ?? 10000 }
  return { keys, config, global: { ...keys, ...global }, local: { ...keys, ...own, ...local } }
}

interface Ropes {
  global: Partial<DecoderConfig>
  local: Partial<DecoderConfig>
  rest: Record<string, unknown>
}

/** transformers 5 has rope_parameters by kind of layer; before, everything about the global one lies in the usual keys. */
function ropes(raw: Record<string, unknown>): Ropes {
  const { rope_parameters: parameters, ...rest } = raw
  const usual = { ...rest, rope_theta: raw.rope_theta ?? 1e6 }
  if (!isObject(parameters)) return { global: {}, local: {}, rest: usual }
  const of = (kind: string) => {
    const value = parameters[kind]
    if (isObject(value)) return { rope_parameters: value }
    throw new TsqError("ERR_FORMAT", `config.json: rope_parameters.${kind} is ${describe(value)}, expected an object`)
  }
  return { global: of("full_attention"), local: of("sliding_attention"), rest: usual }
}
