// What a GGUF file says of rotary embeddings, as rope_scaling of config.json.
// Source of keys and defaults: ggml-org/llama.cpp, src/llama-model.cpp and src/llama-context.cpp.
import { type GgufFields, shortest } from "../containers/gguf-fields.ts"
import { TsqError } from "../core/errors.ts"
import type { NumberRange } from "../core/options.ts"
import type { GgufTensors } from "./gguf-config.ts"
import { ropeNames } from "./gguf-names.ts"
import { longropeAttention, yarnMagnitude } from "./rope.ts"

/** Types of scaling, where not all are computed. llama.cpp would scale the layers of Gemma 3 that slide by yarn as well. */
const types: Readonly<Record<string, readonly string[]>> = {
  gemma3: ["none", "linear"],
  gptneox: ["none", "linear"],
  phi3: ["none", "linear", "longrope"],
}

const sizes: NumberRange = { min: 1, max: 2 ** 31 - 1 }

/** Null where frequencies are what the base says. `rotary`: elements of a head that turn. */
export function ropeScaling(
  fields: GgufFields,
  architecture: string,
  rotary: number,
  tensors: GgufTensors,
): Record<string, unknown> | null {
  const key = (name: string) => `${architecture}.rope.scaling.${name}`
  const long = [ropeNames.long, ropeNames.short].filter(name => tensors.has(name))
  if (long.length > 0 && architecture !== "phi3")
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${fields.path}: tensor "${long[0]}" is of longrope scaling, which models of architecture "${architecture}" do not use`,
    )
  const old = fields.number(`${architecture}.rope.scale_linear`, { min: 0 }, 0)
  const factor = fields.number(key("factor"), { min: 0 }, old)
  // Without a type a factor is linear, and a factor of 0 is none.
  const type = fields.string(key("type"), "linear")
  const scaled = type !== "none" && factor !== 0
  const known = types[architecture] ?? ["none", "linear", "yarn"]
  if (!known.includes(type))
    fields.fail(
      key("type"),
      `${known
        .slice(0, -1)
        .map(name => `"${name}"`)
        .join(", ")} or "${known.at(-1)}"; others are not supported`,
      "ERR_UNSUPPORTED",
    )
  if (tensors.has(ropeNames.factors)) {
    if (architecture !== "llama")
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${fields.path}: has a tensor "${ropeNames.factors}", which models of architecture "${architecture}" do not use`,
      )
    if (scaled && factor !== 1)
      fields.fail(
        key("factor"),
        `1 beside a tensor "${ropeNames.factors}"; both together are not supported`,
        "ERR_UNSUPPORTED",
      )
    return { rope_type: "factors", factors: factorsOf(fields, ropeNames.factors, rotary, tensors) }
  }
  if (long.length > 0) {
    if (scaled && factor !== 1) fields.fail(key("factor"), `1 beside a tensor "${long[0]}"`, "ERR_UNSUPPORTED")
    return longrope(fields, architecture, rotary, tensors)
  }
  if (type === "yarn") return yarn(fields, key, factor === 0 ? 1 : factor)
  const attention = fields.number(key("attn_factor"), { min: 0, aboveMin: true }, 1)
  if (attention !== 1) fields.fail(key("attn_factor"), `1 where rope.scaling.type is not "yarn"`, "ERR_UNSUPPORTED")
  return scaled && factor !== 1 ? { rope_type: "linear", factor } : null
}

/** Factors of texts within the first context and beyond, and what both multiply cosines and sines with. */
function longrope(
  fields: GgufFields,
  architecture: string,
  rotary: number,
  tensors: GgufTensors,
): Record<string, unknown> {
  for (const name of [ropeNames.long, ropeNames.short])
    if (!tensors.has(name))
      throw new TsqError(
        "ERR_FORMAT",
        `${fields.path}: tensor "${name}" is missing beside the other of longrope scaling`,
      )
  const context = fields.integer(`${architecture}.context_length`, sizes)
  const original = fields.integer(`${architecture}.rope.scaling.original_context_length`, sizes, context)
  const attention = fields.number(`${architecture}.rope.scaling.attn_factor`, { min: 0, aboveMin: true }, 1)
  const usual = Math.fround(longropeAttention(context / original, original)) === Math.fround(attention)
  return {
    rope_type: "longrope",
    short_factor: factorsOf(fields, ropeNames.short, rotary, tensors),
    long_factor: factorsOf(fields, ropeNames.long, rotary, tensors),
    ...(!usual && { attention_factor: attention }),
  }
}

function factorsOf({ path }: GgufFields, name: string, rotary: number, { computed }: GgufTensors): number[] {
  const values = computed?.get(name)
  if (!values) throw new TsqError("ERR_OPTION", `${path}: the values of "${name}" were not given to configOfGguf`)
  if (values.length !== rotary / 2)
    throw new TsqError(
      "ERR_SHAPE",
      `${path}: tensor "${name}" has ${values.length} elements, expected ${rotary / 2}, half of what turns of a head`,
    )
  const wrong = values.findIndex(value => !(value > 0 && value < Number.POSITIVE_INFINITY))
  if (wrong >= 0)
    throw new TsqError(
      "ERR_CORRUPT",
      `${path}: tensor "${name}" holds ${values[wrong]} at ${wrong}, expected positive numbers`,
    )
  return Array.from(values)
}

function yarn(fields: GgufFields, key: (name: string) => string, factor: number): Record<string, unknown> {
  const attention = fields.number(key("attn_factor"), { min: 0, aboveMin: true }, 1)
  const plain = yarnMagnitude(factor, 1)
  const original = fields.integer(key("original_context_length"), sizes, null)
  return {
    rope_type: "yarn",
    factor,
    ...(original === null ? {} : { original_max_position_embeddings: original }),
    // The file holds it relative to the usual one, and in f32.
    ...(attention === 1
      ? {}
      : {
          attention_factor: shortest(attention * plain, v => Math.fround(v / plain) === Math.fround(attention)),
        }),
  }
}
