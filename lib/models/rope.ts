// Rotary position embeddings: the inverse frequencies and the attention factor that a configuration asks for.
//
// With base_i = theta^(-2i/d), i < d/2, d the rotated part of a head: element i of a head turns with element i + d/2 by the
// angle position * inverse_i. Variants as in transformers' modeling_rope_utils.py.
import { z } from "zod"
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import { type DecoderConfig, parseWith } from "./config.ts"
import type { LongConstant, ModelConfig } from "./program.ts"

export interface Rope {
  /** [rotaryDim / 2] radians per position. */
  inverseFrequencies: Float32Array
  /** Elements of a head that turn; the rest stays. Even. */
  rotaryDim: number
  /** Multiplies cosines and sines. */
  attentionFactor: number
  /** [rotaryDim / 2] what base_i is divided by, in the types that say no more than that ("llama3", "factors"); else null. */
  factors: Float32Array | null
  /** Inverse frequencies of sequences of more than `length` tokens, where they depend on it (longrope). */
  beyond?: LongConstant
  /** The context that the scaling reaches where the configuration states the unscaled one (yarn), or null. */
  scaledContext: number | null
}

const positive = z.number().gt(0)
const factorsSchema = z.object({ factors: z.array(positive) })
const llama3Schema = z.object({
  factor: positive,
  low_freq_factor: positive,
  high_freq_factor: positive,
  original_max_position_embeddings: positive,
})
const yarnSchema = z.object({
  factor: positive.nullish(),
  original_max_position_embeddings: positive.nullish(),
  beta_fast: positive.nullish(),
  beta_slow: positive.nullish(),
  attention_factor: positive.nullish(),
  mscale: z.number().min(0).nullish(),
  mscale_all_dim: z.number().min(0).nullish(),
  truncate: z.boolean().nullish(),
})

const longropeSchema = z.object({
  short_factor: z.array(positive),
  long_factor: z.array(positive),
  factor: positive.nullish(),
  attention_factor: positive.nullish(),
  original_max_position_embeddings: positive.nullish(),
})

type Parameters = Record<string, unknown>

/** ERR_UNSUPPORTED for rope types that are unknown, or change with every token of a sequence (dynamic). */
export function describeRope(keys: DecoderConfig, headDim: number, maxPositions: number): Rope {
  const where = keys.rope_parameters ? "config.json: rope_parameters" : "config.json: rope_scaling"
  const scaling: Parameters = keys.rope_parameters ?? keys.rope_scaling ?? {}
  const theta = number(scaling, "rope_theta", where) ?? keys.rope_theta ?? 10000
  const partial = number(scaling, "partial_rotary_factor", where) ?? keys.partial_rotary_factor ?? 1
  const rotaryDim = Math.floor(headDim * partial)
  if (rotaryDim < 2 || rotaryDim > headDim || rotaryDim % 2 !== 0)
    throw new TsqError(
      "ERR_FORMAT",
      `config.json: head_dim ${headDim} x partial_rotary_factor ${partial} rotates ${rotaryDim} elements, expected an even number from 2 to ${headDim}`,
    )
  if (!(theta >= 1)) throw new TsqError("ERR_FORMAT", `config.json: rope_theta is ${theta}, expected at least 1`)
  const base = Float64Array.from({ length: rotaryDim / 2 }, (_, i) => theta ** ((-2 * i) / rotaryDim))
  const plain = (inverse: Float64Array): Rope => ({
    inverseFrequencies: Float32Array.from(inverse),
    rotaryDim,
    attentionFactor: 1,
    factors: null,
    scaledContext: null,
  })
  const divided = (inverse: Float64Array): Rope => ({
    ...plain(inverse),
    factors: Float32Array.from(base, (value, i) => value / inverse[i]!),
  })
  const type = scaling.rope_type ?? scaling.type ?? "default"
  switch (type) {
    case "default":
      return plain(base)
    case "linear": {
      const { factor } = parseWith(z.object({ factor: positive }), scaling, where)
      return plain(base.map(value => value / factor))
    }
    case "llama3":
      return divided(llama3(base, parseWith(llama3Schema, scaling, where)))
    case "factors": {
      const { factors } = parseWith(factorsSchema, scaling, where)
      if (factors.length !== base.length)
        throw new TsqError(
          "ERR_FORMAT",
          `${where}: factors has ${factors.length} entries, expected ${base.length}: one for each pair of the ${rotaryDim} elements that turn`,
        )
      return divided(base.map((value, i) => value / factors[i]!))
    }
    case "yarn":
      return yarn(base, theta, rotaryDim, maxPositions, parseWith(yarnSchema, scaling, where), where)
    case "longrope": {
      const parameters = parseWith(longropeSchema, scaling, where)
      const original = keys.original_max_position_embeddings ?? parameters.original_max_position_embeddings
      return { ...plain(base), ...longrope(base, parameters, original ?? maxPositions, maxPositions, where) }
    }
    default:
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${where}: the rope type is ${describe(type)}; supported are "default", "linear", "llama3", "yarn", "longrope" and "factors"`,
      )
  }
}

function number(scaling: Parameters, key: string, where: string): number | undefined {
  const value = scaling[key]
  if (value === undefined || value === null) return undefined
  if (typeof value !== "number" || !(value > 0) || !Number.isFinite(value))
    throw new TsqError("ERR_FORMAT", `${where}: ${key} is ${describe(value)}, expected a positive number`)
  return value
}

/** Long wavelengths are divided by the factor, short ones kept, those between blended (Llama 3.1's model card). */
function llama3(base: Float64Array, scaling: z.infer<typeof llama3Schema>): Float64Array {
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original } = scaling
  return base.map(value => {
    const wavelength = (2 * Math.PI) / value
    if (wavelength < original / high) return value
    if (wavelength > original / low) return value / factor
    const smooth = (original / wavelength - low) / (high - low)
    return ((1 - smooth) * value) / factor + smooth * value
  })
}

/** Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", arXiv 2309.00071, 3.2 and 3.4. */
function yarn(
  base: Float64Array,
  theta: number,
  dim: number,
  maxPositions: number,
  scaling: z.infer<typeof yarnSchema>,
  where: string,
): Rope {
  const original = scaling.original_max_position_embeddings ?? maxPositions
  const factor = scaling.factor ?? (scaling.original_max_position_embeddings ? maxPositions / original : null)
  if (factor === null)
    throw new TsqError(
      "ERR_FORMAT",
      `${where}: factor is missing; expected a number, or original_max_position_embeddings`,
    )
  // The index of the pair that turns `rotations` times within the original context.
  const pairOf = (rotations: number) => (dim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta))
  const whole = scaling.truncate ?? true
  let low = pairOf(scaling.beta_fast ?? 32)
  let high = pairOf(scaling.beta_slow ?? 1)
  if (whole) {
    low = Math.floor(low)
    high = Math.ceil(high)
  }
  low = Math.max(low, 0)
  high = Math.min(high, dim - 1)
  if (low === high) high += 0.001
  const inverse = base.map((value, i) => {
    const ramp = Math.min(Math.max((i - low) / (high - low), 0), 1)
    return value * (1 - ramp) + (value / factor) * ramp
  })
  const ratio =
    scaling.mscale && scaling.mscale_all_dim
      ? yarnMagnitude(factor, scaling.mscale) / yarnMagnitude(factor, scaling.mscale_all_dim)
      : yarnMagnitude(factor, 1)
  return {
    inverseFrequencies: Float32Array.from(inverse),
    rotaryDim: dim,
    attentionFactor: scaling.attention_factor ?? ratio,
    factors: null,
    scaledContext: scaling.original_max_position_embeddings ? Math.floor(original * factor) : null,
  }
}

/**
 * Ding et al., "LongRoPE", arXiv 2402.13753: every frequency is divided by a factor of its own, by other ones in sequences that
 * are longer than the original context. As in transformers the length is that of the whole sequence, for all of its positions.
 */
function longrope(
  base: Float64Array,
  scaling: z.infer<typeof longropeSchema>,
  original: number,
  maxPositions: number,
  where: string,
): Pick<Rope, "inverseFrequencies" | "attentionFactor" | "beyond"> {
  const divided = (key: "short_factor" | "long_factor") => {
    if (scaling[key].length !== base.length)
      throw new TsqError(
        "ERR_FORMAT",
        `${where}: ${key} has ${scaling[key].length} entries, expected ${base.length}: one for each pair of the ${2 * base.length} elements that turn`,
      )
    return Float32Array.from(base, (value, i) => value / scaling[key][i]!)
  }
  const short = divided("short_factor")
  const long = divided("long_factor")
  const attentionFactor = longropeAttention(scaling.factor ?? maxPositions / original, original)
  return {
    inverseFrequencies: short,
    attentionFactor: scaling.attention_factor ?? attentionFactor,
    beyond: { length: original, values: long },
  }
}

/** By what longrope multiplies cosines and sines, where a configuration does not say. */
export const longropeAttention = (factor: number, original: number): number =>
  factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original))

/** By what yarn multiplies cosines and sines. */
export function yarnMagnitude(factor: number, weight: number): number {
  return factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1
}

/** The configuration with the context that the rope scaling reaches, where that is longer than what it states. */
export function withScaledContext(config: ModelConfig, rope: Rope): ModelConfig {
  return rope.scaledContext !== null && rope.scaledContext > config.maxContext
    ? { ...config, maxContext: rope.scaledContext }
    : config
}
