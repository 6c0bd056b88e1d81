// The quantization_config of compressed-tensors: config groups, their targets, and the ignore list; written and read.
import { describe, isObject } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"
import type { IntegerScheme } from "../core/scheme.ts"
import { booleanField, integerField, stringField, stringsField } from "./config-fields.ts"
import type { FormatSummary, WriteOptions } from "./format.ts"
import { modulePatterns } from "./module-patterns.ts"
import { NamePattern } from "./name-pattern.ts"

export type Strategy = "tensor" | "channel" | "group"

/** First release that writes 3, 5, 6 and 7 bits as dense streams, which is what is written here. */
const denseVersion = [0, 17] as const
const writtenVersion = "0.17.0"

/** Zero points of one scale for the whole tensor have no packed form; the scale is then repeated for every channel. */
export const strategyOf = ({ granularity, symmetric }: IntegerScheme): Strategy =>
  granularity === "tensor" && !symmetric ? "channel" : granularity

// ---------------------------------------------------------------------------------------------------------------- writing

/** Every key that releases since 0.6 know and no other: the library refuses keys that it does not know. */
const weightArguments = (scheme: IntegerScheme & { hasGroupIndex: boolean }) => ({
  num_bits: scheme.bits,
  type: "int",
  symmetric: scheme.symmetric,
  group_size: strategyOf(scheme) === "group" ? scheme.groupSize : null,
  strategy: strategyOf(scheme),
  block_structure: null,
  dynamic: false,
  actorder: scheme.hasGroupIndex ? "group" : null,
  observer: "minmax",
  observer_kwargs: {},
})

export function compressedTensorsConfiguration(
  summary: FormatSummary,
  _options: WriteOptions,
): { quantizationConfig: Record<string, unknown>; files: Record<string, unknown> } {
  const byScheme = new Map<string, string[]>()
  for (const [module, scheme] of summary.modules) {
    const key = JSON.stringify(weightArguments(scheme as IntegerScheme & typeof scheme))
    byScheme.set(key, [...(byScheme.get(key) ?? []), module])
  }
  if (byScheme.size === 0)
    throw new TsqError(
      "ERR_FORMAT",
      "no module is quantized, so there is nothing that a compressed-tensors configuration could describe",
    )
  const all = [...summary.modules.keys(), ...summary.unquantized]
  const groups = [...byScheme].map(([key, modules], index) => {
    const targets =
      byScheme.size === 1
        ? uniformTargets(modules)
        : modulePatterns(modules, all, false).map(pattern => `re:${pattern}`)
    return [`group_${index}`, { targets, weights: JSON.parse(key), input_activations: null, output_activations: null }]
  })
  return {
    quantizationConfig: {
      quant_method: "compressed-tensors",
      format: "pack-quantized",
      quantization_status: "compressed",
      config_groups: Object.fromEntries(groups),
      // "Linear" would match the head.
      ignore: [...new Set([...summary.unquantized, ...(summary.modules.has("lm_head") ? [] : ["lm_head"])])],
      kv_cache_scheme: null,
      global_compression_ratio: null,
      version: writtenVersion,
    },
    files: {},
  }
}

/** All linears by their class; an embedding is no linear and is named. */
function uniformTargets(modules: string[]): string[] {
  const embeddings = modules.filter(module => className(module) !== "Linear")
  return embeddings.length < modules.length ? ["Linear", ...embeddings] : embeddings
}

/** The class that targets name. Checkpoints do not store it; the names of embeddings give them away. */
const className = (module: string) =>
  /(^|\.)(embed_tokens|wte|word_embeddings)$/.test(module) ? "Embedding" : "Linear"

// ---------------------------------------------------------------------------------------------------------------- reading

/** How the weights of a config group are stored. groupSize 0 unless the strategy is group. */
export interface WeightSettings {
  bits: IntegerScheme["bits"]
  symmetric: boolean
  strategy: Strategy
  groupSize: number
  ordered: boolean
}

interface ConfigGroup {
  name: string
  format: string
  targets: Target[]
  weights: Record<string, unknown> | null
}

/** A module path, a class, or re:<pattern>. */
interface Target {
  text: string
  pattern: NamePattern | null
}

export class CompressedTensorsConfig {
  /** Whether 3, 5, 6 and 7 bits are dense according to the writer's version; null when it is not recorded. */
  readonly dense: boolean | null
  readonly #groups: readonly ConfigGroup[]
  readonly #ignore: readonly Target[]

  constructor(config: Record<string, unknown>, warn: (message: string) => void) {
    const format = stringField(config, "format") ?? "dense"
    const sparsity = config.sparsity_config
    if (isObject(sparsity) && sparsity.format !== undefined && sparsity.format !== "dense")
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantization_config.sparsity_config.format is ${describe(sparsity.format)}; sparse checkpoints are not read`,
      )
    this.#groups = parseGroups(config.config_groups ?? {}, format, warn)
    this.#ignore = stringsField(config, "ignore").map(text => parseTarget(text, "ignore"))
    this.dense = denseSince(stringField(config, "version"))
    if (config.kv_cache_scheme !== undefined && config.kv_cache_scheme !== null)
      warn("quantization_config.kv_cache_scheme is set; the scales of a quantized KV cache are not used")
  }

  /** The settings of a module that is stored packed; ERR_FORMAT when the configuration does not speak of it. */
  settings(module: string): WeightSettings {
    const ignored = this.#ignore.find(target => matches(target, module) !== null)
    if (ignored)
      throw new TsqError(
        "ERR_FORMAT",
        `${module}: is stored packed although quantization_config.ignore lists ${JSON.stringify(ignored.text)}`,
      )
    const group = this.#groupOf(module)
    if (!group?.weights)
      throw new TsqError(
        "ERR_FORMAT",
        `${module}: is stored packed, and no config group with weights of quantization_config targets it`,
      )
    if (group.format !== "pack-quantized")
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantization_config.config_groups.${group.name} has the format "${group.format}"; of compressed-tensors checkpoints "pack-quantized" is read`,
      )
    return weightSettings(group.name, group.weights)
  }

  /** Names and patterns go before classes, as in the library and in vLLM. */
  #groupOf(module: string): ConfigGroup | undefined {
    const find = (how: "name" | "class") =>
      this.#groups.find(group => group.targets.some(target => matches(target, module) === how))
    return find("name") ?? find("class")
  }
}

function matches(target: Target, module: string): "name" | "class" | null {
  if (target.pattern ? target.pattern.test(module) : target.text === module) return "name"
  return target.pattern === null && target.text === className(module) ? "class" : null
}

const parseTarget = (text: string, key: string): Target => ({
  text,
  pattern: text.startsWith("re:") ? new NamePattern(text.slice(3), key) : null,
})

function parseGroups(value: unknown, format: string, warn: (message: string) => void): ConfigGroup[] {
  if (!isObject(value))
    throw new TsqError("ERR_FORMAT", `quantization_config.config_groups is ${describe(value)}, expected an object`)
  return Object.entries(value).map(([name, group]) => {
    const key = `config_groups.${name}`
    if (!isObject(group))
      throw new TsqError("ERR_FORMAT", `quantization_config.${key} is ${describe(group)}, expected an object`)
    const own = stringField(group, "format") ?? format
    if (own !== "pack-quantized" && own !== "dense")
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantization_config.${key} has the format "${own}"; of compressed-tensors checkpoints "pack-quantized" is read`,
      )
    const weights = group.weights ?? null
    if (weights !== null && !isObject(weights))
      throw new TsqError("ERR_FORMAT", `quantization_config.${key}.weights is ${describe(weights)}, expected an object`)
    if (group.input_activations !== undefined && group.input_activations !== null)
      warn(`quantization_config.${key}.input_activations is set; activations are not quantized here`)
    return {
      name,
      format: own,
      weights,
      targets: stringsField(group, "targets").map(text => parseTarget(text, `${key}.targets`)),
    }
  })
}

function weightSettings(group: string, weights: Record<string, unknown>): WeightSettings {
  const key = `quantization_config.config_groups.${group}.weights`
  const bits = integerField(weights, ["num_bits"])
  const type = (stringField(weights, "type") ?? "int").toLowerCase()
  if (type !== "int" || bits < 2 || bits > 8)
    throw new TsqError("ERR_UNSUPPORTED", `${key} are ${bits}-bit ${type}; packed integers of 2 to 8 bits are read`)
  const symmetric = booleanField(weights, "symmetric", true)
  const size = integerField(weights, ["group_size"], 0)
  // Without a strategy the library takes it from the group size, -1 for channel.
  const inferred = size > 0 ? "group" : size === -1 ? "channel" : "tensor"
  const strategy = stringField(weights, "strategy")?.toLowerCase() ?? inferred
  if (strategy !== "tensor" && strategy !== "channel" && strategy !== "group")
    throw new TsqError("ERR_UNSUPPORTED", `${key}.strategy is "${strategy}"; tensor, channel and group are read`)
  if (strategy === "group" && size < 1)
    throw new TsqError("ERR_FORMAT", `${key}: strategy group needs a positive group_size, found ${size}`)
  if (strategy === "tensor" && !symmetric)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${key}: asymmetric packed weights with one scale for the whole tensor are not read`,
    )
  // "dynamic" is an alias of "group"; "weight" and "static" store no index.
  const order = weights.actorder
  const ordered = order === "group" || order === "dynamic" || order === true
  return {
    bits: bits as IntegerScheme["bits"],
    symmetric,
    strategy,
    groupSize: strategy === "group" ? size : 0,
    ordered,
  }
}

function denseSince(version: string | undefined): boolean | null {
  const found = /^(\d+)\.(\d+)/.exec(version ?? "")
  if (!found) return null
  const [major, minor] = [Number(found[1]), Number(found[2])]
  return major > denseVersion[0] || (major === denseVersion[0] && minor >= denseVersion[1])
}
