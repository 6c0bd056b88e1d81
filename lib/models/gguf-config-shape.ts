// What every architecture says in a GGUF file's metadata: sizes, heads, the context.
// Source of keys and defaults: ggml-org/llama.cpp, src/llama-model.cpp (load_hparams).
import type { GgufFields } from "../containers/gguf-fields.ts"
import { TsqError } from "../core/errors.ts"
import { type NumberRange, rangeText, within } from "../core/options.ts"
import { tokensKey } from "./gguf-special.ts"

/** What of a file's tensors decides how the model is described. */
export interface GgufTensors {
  has(name: string): boolean
  /** The values of those of isRopeFactors, where the file has them. */
  computed?: ReadonlyMap<string, Float32Array>
}

export interface GgufShape {
  fields: GgufFields
  tensors: GgufTensors
  architecture: string
  /** A key's full name. */
  key(name: string): string
  layers: number
  hiddenSize: number
  heads: number
  kvHeads: number
  headDim: number
  /** Elements of a head that turn. */
  rotary: number
  innerSize: number
  context: number
  vocabulary: number
}

const sizes: NumberRange = { min: 1, max: 2 ** 31 - 1 }
const widths: NumberRange = { min: 1, max: 2 ** 24 }
const counts: NumberRange = { min: 1, max: 65536 }

export function readShape(fields: GgufFields, architecture: string, tensors: GgufTensors): GgufShape {
  const key = (name: string) => `${architecture}.${name}`
  const layers = fields.integer(key("block_count"), { min: 1, max: 4096 })
  const perLayer = (name: string, range: NumberRange, ...fallback: [number?]) =>
    uniform(fields, key(name), layers, range, fallback)
  const hiddenSize = fields.integer(key("embedding_length"), widths)
  const heads = perLayer("attention.head_count", counts)
  const headDim = headDimOf(fields, architecture, hiddenSize, heads)
  const kvHeads = perLayer("attention.head_count_kv", counts, heads)
  if (heads % kvHeads !== 0) fields.fail(key("attention.head_count_kv"), `a divisor of head_count, ${heads}`)
  const tokens = fields.has(tokensKey) ? fields.strings(tokensKey).length : null
  return {
    ...{ fields, tensors, architecture, key, layers, hiddenSize, heads, kvHeads, headDim },
    rotary: fields.integer(key("rope.dimension_count"), { min: 0 }, headDim),
    innerSize: perLayer("feed_forward_length", widths),
    context: fields.integer(key("context_length"), sizes),
    vocabulary: tokens ?? fields.integer(key("vocab_size"), sizes),
  }
}

/** A number, or an array with the same one for every layer: other arrays are models whose layers differ. */
function uniform(fields: GgufFields, key: string, layers: number, range: NumberRange, fallback: [number?]): number {
  if (!fields.isArray(key)) return fields.integer(key, range, ...(fallback as [number]))
  const values = fields.integers(key)
  if (values.length !== layers) fields.fail(key, `a number, or ${layers} numbers, one for every layer`)
  const first = values[0]!
  if (!within(first, range)) fields.fail(key, `integers${rangeText(range)}`)
  for (let i = 1; i < layers; i++)
    if (values[i] !== first)
      fields.fail(
        key,
        "the same number for all layers: models whose layers differ are not supported",
        "ERR_UNSUPPORTED",
      )
  return first
}

function headDimOf(fields: GgufFields, architecture: string, hiddenSize: number, heads: number): number {
  const key = `${architecture}.attention.key_length`
  const range = { min: 2, max: 65536 }
  if (!fields.has(key) && hiddenSize % heads !== 0)
    fields.fail(key, `an integer: embedding_length ${hiddenSize} is no multiple of head_count ${heads}`)
  const headDim = fields.integer(key, range, hiddenSize / heads)
  if (headDim % 2 !== 0 || heads * headDim > 2 ** 24)
    throw new TsqError(
      "ERR_FORMAT",
      `${fields.path}: ${heads} heads of ${headDim} elements, expected an even number of elements, and at most ${2 ** 24} of all heads`,
    )
  const valueKey = `${architecture}.attention.value_length`
  if (fields.integer(valueKey, range, headDim) !== headDim)
    fields.fail(
      valueKey,
      `${headDim} as the length of keys; values of another length are not supported`,
      "ERR_UNSUPPORTED",
    )
  const scaleKey = `${architecture}.attention.scale`
  const scale = fields.number(scaleKey, {}, 0)
  if (scale !== 0 && Math.abs(scale * Math.sqrt(headDim) - 1) > 1e-6)
    fields.fail(scaleKey, `${headDim ** -0.5}, 1 / sqrt(${headDim})`, "ERR_UNSUPPORTED")
  return headDim
}

/** For architectures that turn whole heads only. */
export function checkWholeHeads({ fields, key, rotary, headDim }: GgufShape): void {
  if (rotary !== headDim)
    fields.fail(key("rope.dimension_count"), `${headDim}: in this architecture the whole head turns`)
}

/** For architectures whose heads are the hidden state cut into pieces, and have keys and values of their own. */
export function checkPlainHeads({ fields, key, heads, kvHeads, headDim, hiddenSize }: GgufShape, ownKeys = true): void {
  if (headDim * heads !== hiddenSize)
    fields.fail(
      key("attention.key_length"),
      `${hiddenSize / heads}, embedding_length ${hiddenSize} by head_count ${heads}`,
    )
  if (ownKeys && kvHeads !== heads)
    fields.fail(key("attention.head_count_kv"), `${heads}, as many as head_count`, "ERR_UNSUPPORTED")
}

/** By general.file_type; what is quantized was made from, and is computed in, 16 bits. */
export function dtypeOf(fields: GgufFields): string {
  const type = fields.integer("general.file_type", {}, 1)
  return type === 0 ? "float32" : type === 32 ? "bfloat16" : "float16"
}
