// config.json of a Hugging Face directory: validated, with the defaults of its architecture filled in.
import { z } from "zod"
import { TsqError } from "../core/errors.ts"
import { describe, listChoices } from "../core/options.ts"
import type { ModelConfig } from "./program.ts"

const size = z
  .number()
  .int()
  .min(1)
  .max(2 ** 31 - 1)
// Far above any model, and small enough that a damaged or hostile file cannot make the description itself huge.
const layerCount = z.number().int().min(1).max(4096)
const headCount = z.number().int().min(1).max(65536)
const width = z
  .number()
  .int()
  .min(1)
  .max(2 ** 24)
const tokenIds = z.union([z.number().int().min(0), z.array(z.number().int().min(0))])
const flag = z.boolean().nullish()

/** Keys that the supported architectures share. Others are ignored: configurations carry much that concerns training only. */
const decoderSchema = z.object({
  model_type: z.string(),
  vocab_size: size,
  hidden_size: width,
  intermediate_size: width,
  num_hidden_layers: layerCount,
  num_attention_heads: headCount,
  num_key_value_heads: headCount.nullish(),
  head_dim: headCount.nullish(),
  hidden_act: z.string().nullish(),
  max_position_embeddings: size.nullish(),
  original_max_position_embeddings: size.nullish(),
  rms_norm_eps: z.number().min(0).max(1).nullish(),
  rope_theta: z.number().gt(0).nullish(),
  rope_scaling: z.record(z.string(), z.unknown()).nullish(),
  rope_parameters: z.record(z.string(), z.unknown()).nullish(),
  partial_rotary_factor: z.number().gt(0).max(1).nullish(),
  tie_word_embeddings: flag,
  attention_bias: flag,
  mlp_bias: flag,
  sliding_window: size.nullish(),
  use_sliding_window: flag,
  max_window_layers: z.number().int().min(0).nullish(),
  layer_types: z.array(z.string()).nullish(),
  bos_token_id: tokenIds.nullish(),
  eos_token_id: tokenIds.nullish(),
  torch_dtype: z.string().nullish(),
  dtype: z.string().nullish(),
})

export type DecoderConfig = z.infer<typeof decoderSchema>

/** What an architecture assumes where config.json says nothing (the defaults of transformers' configuration classes). */
export interface ConfigDefaults {
  headDim?: number
  normEps: number
  maxPositions: number
  /** tie_word_embeddings; false where it is left out here. */
  tied?: boolean
}

/** Checks a JSON object against a schema. ERR_FORMAT names the file, the key, what was found and what is expected. */
export function parseWith<T>(schema: z.ZodType<T>, value: unknown, file: string): T {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]!
  let found: unknown = value
  for (const key of issue.path) found = (found as Record<PropertyKey, unknown> | undefined)?.[key]
  const name = issue.path.map(String).join(".")
  throw new TsqError(
    "ERR_FORMAT",
    `${file}: ${name ? `${name} is ` : "it is "}${found === undefined ? "missing" : describe(found)}; ${expectation(issue)}`,
  )
}

function expectation(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case "invalid_type":
      return `expected ${issue.expected === "int" ? "an integer" : `a value of type ${issue.expected}`}`
    case "too_small":
      return `expected ${issue.inclusive ? "at least" : "more than"} ${issue.minimum}`
    case "too_big":
      return `expected at most ${issue.maximum}`
    case "invalid_union":
      return "expected an integer or a list of integers"
    default:
      return issue.message
  }
}

/** Reads the keys that every supported architecture has, and what they imply. */
export function parseDecoderConfig(
  raw: Record<string, unknown>,
  defaults: ConfigDefaults,
): { keys: DecoderConfig; config: ModelConfig } {
  const keys = parseWith(decoderSchema, raw, "config.json")
  const heads = keys.num_attention_heads
  const kvHeads = keys.num_key_value_heads ?? heads
  const headDim = keys.head_dim ?? defaults.headDim ?? keys.hidden_size / heads
  if (!Number.isInteger(headDim))
    throw new TsqError(
      "ERR_FORMAT",
      `config.json: hidden_size ${keys.hidden_size} is not a multiple of num_attention_heads ${heads}, and head_dim is missing`,
    )
  if (heads % kvHeads !== 0)
    throw new TsqError(
      "ERR_FORMAT",
      `config.json: num_attention_heads is ${heads}, expected a multiple of num_key_value_heads ${kvHeads}`,
    )
  if (heads * headDim > 2 ** 24)
    throw new TsqError(
      "ERR_FORMAT",
      `config.json: num_attention_heads ${heads} x head_dim ${headDim} is ${heads * headDim}, expected at most ${2 ** 24}`,
    )
  for (const id of idList(keys.bos_token_id))
    if (id >= keys.vocab_size)
      throw new TsqError(
        "ERR_FORMAT",
        `config.json: bos_token_id is ${id}, expected below vocab_size ${keys.vocab_size}`,
      )
  const config: ModelConfig = {
    architecture: keys.model_type,
    hiddenSize: keys.hidden_size,
    intermediateSize: keys.intermediate_size,
    layers: keys.num_hidden_layers,
    heads,
    kvHeads,
    headDim,
    vocabularySize: keys.vocab_size,
    maxContext: keys.max_position_embeddings ?? defaults.maxPositions,
    normEps: keys.rms_norm_eps ?? defaults.normEps,
    tiedEmbeddings: keys.tie_word_embeddings ?? defaults.tied ?? false,
    bosTokenIds: idList(keys.bos_token_id),
    eosTokenIds: idList(keys.eos_token_id),
    torchDtype: keys.dtype ?? keys.torch_dtype ?? "float32",
    raw,
  }
  return { keys, config }
}

/** A token id, a list of them or nothing, as configurations hold them. */
export function idList(value: number | number[] | null | undefined): number[] {
  return value === null || value === undefined ? [] : typeof value === "number" ? [value] : [...value]
}

/** Of the addon's gated and activate operations: 0 SiLU, 1 GELU approximated by tanh, 2 GELU. */
export type ActivationCode = 0 | 1 | 2

/** Names of transformers' ACT2FN that can be computed. */
const activations: ReadonlyMap<string, ActivationCode> = new Map([
  ["silu", 0],
  ["swish", 0],
  ["gelu_pytorch_tanh", 1],
  ["gelu_new", 1],
  ["gelu_fast", 1],
  ["gelu", 2],
  ["gelu_python", 2],
])

/** Code of the activation that `key` of config.json names. */
export function activationOf(name: string, key: string): ActivationCode {
  const code = activations.get(name)
  if (code !== undefined) return code
  throw new TsqError(
    "ERR_UNSUPPORTED",
    `config.json: ${key} is ${describe(name)}; supported are ${listChoices([...activations.keys()])}`,
  )
}

export const activationCode = (keys: DecoderConfig): ActivationCode =>
  activationOf(keys.hidden_act ?? "silu", "hidden_act")

/** The attention window of every layer, 0 where it sees everything, from a rule that an explicit layer_types overrides. */
export function layerWindows(keys: DecoderConfig, window: number | null, slides: (layer: number) => boolean): number[] {
  const types = keys.layer_types
  if (types && types.length !== keys.num_hidden_layers)
    throw new TsqError(
      "ERR_FORMAT",
      `config.json: layer_types has ${types.length} entries, expected num_hidden_layers = ${keys.num_hidden_layers}`,
    )
  return Array.from({ length: keys.num_hidden_layers }, (_, layer) => {
    const type = types?.[layer]
    if (type !== undefined && type !== "full_attention" && type !== "sliding_attention")
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `config.json: layer_types[${layer}] is ${describe(type)}; supported are "full_attention" and "sliding_attention"`,
      )
    const sliding = type === undefined ? slides(layer) : type === "sliding_attention"
    return sliding && window !== null ? window : 0
  })
}
