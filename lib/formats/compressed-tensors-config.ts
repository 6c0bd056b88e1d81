// Reads the quantization_config of compressed-tensors: config groups, their targets, and the ignore list.
import { describe, isObject } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"
import type { ActivationScheme } from "../core/scheme.ts"
import {
  activationSettings,
  type ModuleFormat,
  moduleFormats,
  type WeightSettings,
  weightSettings,
} from "./compressed-tensors-scheme.ts"
import { matches, parseTarget, type Target } from "./compressed-tensors-targets.ts"
import { stringField, stringsField } from "./config-fields.ts"

/** First release whose 3, 5, 6 and 7 bits are dense streams. */
const denseVersion = [0, 17] as const

export interface ModuleSettings {
  format: ModuleFormat
  weights: WeightSettings
  activations: ActivationScheme | undefined
}

interface ConfigGroup {
  name: string
  format: string
  targets: Target[]
  weights: Record<string, unknown> | null
  activations: ActivationScheme | undefined
}

export class CompressedTensorsConfig {
  /** Whether 3, 5, 6 and 7 bits are dense according to the writer's version; null when it is not recorded. */
  readonly dense: boolean | null
  readonly kvCacheScheme: Record<string, unknown> | null
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
    const kvCache = config.kv_cache_scheme ?? null
    if (kvCache !== null && !isObject(kvCache))
      throw new TsqError(
        "ERR_FORMAT",
        `quantization_config.kv_cache_scheme is ${describe(kvCache)}, expected an object`,
      )
    this.kvCacheScheme = kvCache
  }

  /** The settings of a module that is stored quantized; ERR_FORMAT when the configuration does not speak of it. */
  settings(module: string): ModuleSettings {
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
    const { name, format, weights, activations } = group
    if (!isModuleFormat(format)) throw notRead(`config_groups.${name}`, format)
    const key = `quantization_config.config_groups.${name}.weights`
    return { format, weights: weightSettings(weights, format, key), activations }
  }

  /** Names and patterns go before classes, as in the library and in vLLM. */
  #groupOf(module: string): ConfigGroup | undefined {
    const find = (how: "name" | "class") =>
      this.#groups.find(group => group.targets.some(target => matches(target, module) === how))
    return find("name") ?? find("class")
  }
}

const isModuleFormat = (format: string): format is ModuleFormat => (moduleFormats as readonly string[]).includes(format)

const notRead = (key: string, format: string) =>
  new TsqError(
    "ERR_UNSUPPORTED",
    `quantization_config.${key} has the format "${format}"; of compressed-tensors checkpoints ${moduleFormats.join(", ")} are read`,
  )

function parseGroups(value: unknown, format: string, warn: (message: string) => void): ConfigGroup[] {
  if (!isObject(value))
    throw new TsqError("ERR_FORMAT", `quantization_config.config_groups is ${describe(value)}, expected an object`)
  return Object.entries(value).map(([name, group]) => {
    const key = `config_groups.${name}`
    if (!isObject(group))
      throw new TsqError("ERR_FORMAT", `quantization_config.${key} is ${describe(group)}, expected an object`)
    const own = stringField(group, "format") ?? format
    if (!isModuleFormat(own) && own !== "dense") throw notRead(key, own)
    const weights = group.weights ?? null
    if (weights !== null && !isObject(weights))
      throw new TsqError("ERR_FORMAT", `quantization_config.${key}.weights is ${describe(weights)}, expected an object`)
    const inputs = `quantization_config.${key}.input_activations`
    const activations = activationSettings(group.input_activations, inputs)
    if (activations === null) warn(`${inputs} is not known here (${describe(group.input_activations)}); it is left out`)
    return {
      name,
      format: own,
      weights,
      activations: activations ?? undefined,
      targets: stringsField(group, "targets").map(text => parseTarget(text, `${key}.targets`)),
    }
  })
}

function denseSince(version: string | undefined): boolean | null {
  const found = /^(\d+)\.(\d+)/.exec(version ?? "")
  if (!found) return null
  const [major, minor] = [Number(found[1]), Number(found[2])]
  return major > denseVersion[0] || (major === denseVersion[0] && minor >= denseVersion[1])
}
