// The JSON files of a Hugging Face folder from the metadata of a GGUF file.
import type { GgufMetadata } from "../containers/gguf-types.ts"
import { TsqError } from "../core/errors.ts"
import { parseDecoderConfig } from "./config.ts"
import { tokenizerOfGguf } from "./gguf-tokenizer.ts"
import { describeRope } from "./rope.ts"

/** Names that transformers gives the model classes. */
const classes: Readonly<Record<string, string>> = {
  llama: "LlamaForCausalLM",
  qwen2: "Qwen2ForCausalLM",
  qwen3: "Qwen3ForCausalLM",
  mixtral: "MixtralForCausalLM",
  qwen3_moe: "Qwen3MoeForCausalLM",
  gpt2: "GPT2LMHeadModel",
  gpt_neox: "GPTNeoXForCausalLM",
  gemma2: "Gemma2ForCausalLM",
  phi3: "Phi3ForCausalLM",
  gemma3_text: "Gemma3ForCausalLM",
}

export interface GgufFolder {
  /** config.json, without the type of the weights and how they are quantized. */
  config: Record<string, unknown>
  /** tokenizer.json, tokenizer_config.json and generation_config.json by name. */
  files: Record<string, unknown>
}

/**
 * `config`: what configOfGguf made of the metadata. ERR_UNSUPPORTED for a tokenizer or frequency factors that Hugging Face files do
 * not have.
 */
export function folderOfGguf(metadata: GgufMetadata, config: Record<string, unknown>, path: string): GgufFolder {
  const { json, config: settings, templates } = tokenizerOfGguf(metadata, path)
  const only = templates.size === 1 ? templates.get("default") : undefined
  const chat = only ?? Array.from(templates, ([name, template]) => ({ name, template }))
  const ends = config.eos_token_id as number[]
  const given = (values: Record<string, unknown>) =>
    Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null && value !== undefined))
  const tokens = given({
    bos_token_id: config.bos_token_id,
    eos_token_id: ends.length === 1 ? ends[0] : ends.length > 0 ? ends : null,
  })
  const { torch_dtype: _, ...rest } = config
  return {
    config: given({
      architectures: [classes[config.model_type as string]],
      ...rest,
      rope_scaling: ropeScaling(config, path),
      ...tokens,
      ...(ends.length === 0 && { eos_token_id: null }),
    }),
    files: {
      "tokenizer.json": json,
      "tokenizer_config.json": { ...settings, ...(templates.size > 0 && { chat_template: chat }) },
      "generation_config.json": { _from_model_config: true, ...tokens },
    },
  }
}

/** Of whole numbers, too, transformers wants a float of these. */
const floats =
  /("(?:attn_logit_softcapping|final_logit_softcapping|rms_norm_eps|layer_norm_eps(?:ilon)?)": -?\d+)(?=[,\n])/g

/** The text of config.json. */
export const configText = (config: Record<string, unknown>): string =>
  `${JSON.stringify(config, null, 2).replace(floats, "$1.0")}\n`

/** Frequency factors are known to transformers by Llama 3's rule only, whose numbers are found again here. */
function ropeScaling(config: Record<string, unknown>, path: string): unknown {
  const scaling = config.rope_scaling as { rope_type?: string; factors?: number[] } | null
  if (scaling?.rope_type !== "factors") return scaling
  const factors = Float32Array.from(scaling.factors ?? [])
  const factor = Math.max(...factors)
  const context = config.max_position_embeddings as number
  const headDim = config.head_dim as number
  for (const original of new Set([8192, context / factor, 4096, 16384, 32768, context]))
    for (const [low, high] of [[1, 4] as const]) {
      const rope_scaling = {
        rope_type: "llama3",
        ...{ factor, low_freq_factor: low, high_freq_factor: high },
        original_max_position_embeddings: original,
      }
      const { keys } = parseDecoderConfig({ ...config, rope_scaling }, { headDim, normEps: 0, maxPositions: context })
      const found = describeRope(keys, headDim, context).factors
      if (found?.every((value, i) => value === factors[i])) return rope_scaling
    }
  throw new TsqError(
    "ERR_UNSUPPORTED",
    `${path}: its rope frequency factors follow no rule that a Hugging Face config.json can state`,
  )
}
