// LoRA adapters as PEFT stores them: adapter_config.json and adapter_model.safetensors (huggingface/peft, tuners/lora/config.py and
// utils/save_and_load.py). What would change the weights in other ways than W + s·B·A is refused by name.
import { existsSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { floatsOf } from "../containers/checkpoint.ts"
import { describe, isObject, parseJsonObject } from "../containers/json.ts"
import { SafetensorsFile, type TensorEntry } from "../containers/safetensors.ts"
import { ioError, TsqError } from "../core/errors.ts"
import { NamePattern } from "./name-pattern.ts"

const configFile = "adapter_config.json"
const weightsFile = "adapter_model.safetensors"
const prefix = "base_model.model."

/** Keys that describe training, or what the tensors show by themselves. */
const harmless = new Set([
  ...["peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights", "bias"],
  ...["target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "lora_dropout"],
  ...["fan_in_fan_out", "task_type", "inference_mode", "revision", "base_model_name_or_path", "auto_mapping"],
  ...["peft_version", "megatron_core", "qalora_group_size", "eva_config", "runtime_config", "ensure_weight_tying"],
])

/** Initialisations that leave the base weights as they are; the others train against weights that were changed first. */
const plainInitialisations: readonly unknown[] = [undefined, null, true, false, "gaussian", "eva", "orthogonal"]

/** What becomes of a tensor of the base: replaced, or w + scale · b · a, or the first and then the second. */
export interface LoraUpdate {
  /** Name of the base's tensor. */
  tensor: string
  replacement: TensorEntry | null
  product: { a: TensorEntry; b: TensorEntry; rank: number; scale: number } | null
}

export class LoraAdapter {
  readonly directory: string
  readonly updates: readonly LoraUpdate[]
  readonly #file: SafetensorsFile

  private constructor(directory: string, file: SafetensorsFile, updates: readonly LoraUpdate[]) {
    this.directory = directory
    this.#file = file
    this.updates = updates
  }

  /** ERR_IO, ERR_FORMAT and ERR_CORRUPT for what is no adapter, ERR_UNSUPPORTED for what is none of plain LoRA. */
  static async open(directory: string, warn: (message: string) => void): Promise<LoraAdapter> {
    const config = await readConfig(directory)
    const scaling = new Scaling(directory, config, warn)
    if (!existsSync(join(directory, weightsFile)))
      throw new TsqError(
        "ERR_FORMAT",
        `${directory}: has no ${weightsFile}; adapters in other files (adapter_model.bin) are not read: save it with safe_serialization`,
      )
    const file = await SafetensorsFile.open(join(directory, weightsFile))
    try {
      const updates = collect(directory, file, scaling)
      if (updates.length === 0) throw new TsqError("ERR_FORMAT", `${directory}: ${weightsFile} holds no tensors`)
      return new LoraAdapter(directory, file, updates)
    } catch (error) {
      file.dispose()
      throw error
    }
  }

  floats(entry: TensorEntry): Promise<Float32Array> {
    return floatsOf(entry, this.directory)
  }

  dispose(): void {
    this.#file.dispose()
  }
}

async function readConfig(directory: string): Promise<Record<string, unknown>> {
  const path = join(directory, configFile)
  let text: string
  try {
    text = await readFile(path, "utf8")
  } catch (cause) {
    throw ioError("read", path, cause)
  }
  return parseJsonObject(text, path)
}

/** Ranks and factors, from the configuration. */
class Scaling {
  readonly #directory: string
  readonly #rank: number
  readonly #alpha: number
  readonly #rooted: boolean
  readonly #ranks: readonly [NamePattern, number][]
  readonly #alphas: readonly [NamePattern, number][]

  constructor(directory: string, config: Record<string, unknown>, warn: (message: string) => void) {
    this.#directory = directory
    refuseOthers(directory, config)
    if (config.fan_in_fan_out === true)
      warn(`${directory}: fan_in_fan_out is true; as in PEFT it is taken as false for linear layers`)
    this.#rank = this.#number("r", config.r ?? 8)
    this.#alpha = this.#number("lora_alpha", config.lora_alpha ?? 8)
    this.#rooted = config.use_rslora === true
    this.#ranks = this.#patterns("rank_pattern", config.rank_pattern)
    this.#alphas = this.#patterns("alpha_pattern", config.alpha_pattern)
  }

  /** The rank that a module should have, and the factor of its product. */
  of(module: string): { rank: number; scale: number } {
    const found = (patterns: readonly [NamePattern, number][]) =>
      patterns.find(([pattern]) => pattern.test(module))?.[1]
    const rank = found(this.#ranks) ?? this.#rank
    const alpha = found(this.#alphas) ?? this.#alpha
    return { rank, scale: alpha / (this.#rooted ? Math.sqrt(rank) : rank) }
  }

  #number(key: string, value: unknown): number {
    if (typeof value !== "number" || !Number.isFinite(value) || (key !== "lora_alpha" && value < 1))
      throw new TsqError(
        "ERR_FORMAT",
        `${this.#directory}: ${configFile}: ${key} is ${describe(value)}, expected a number`,
      )
    return value
  }

  /** PEFT's get_pattern_key: the whole name, or what follows a dot in it. */
  #patterns(key: string, value: unknown): [NamePattern, number][] {
    if (value === undefined || value === null) return []
    if (!isObject(value))
      throw new TsqError(
        "ERR_FORMAT",
        `${this.#directory}: ${configFile}: ${key} is ${describe(value)}, expected an object`,
      )
    return Object.entries(value).map(([pattern, number]) => [
      new NamePattern(`(?:.*\\.)?(?:${pattern})$`, key, configFile),
      this.#number(`${key}[${JSON.stringify(pattern)}]`, number),
    ])
  }
}

function refuseOthers(directory: string, config: Record<string, unknown>): void {
  const refuse = (what: string): never => {
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${directory}: ${configFile}: ${what}; plain LoRA is merged here: merge this adapter with PEFT (merge_and_unload) and quantize the result`,
    )
  }
  if (config.peft_type !== "LORA") refuse(`peft_type is ${describe(config.peft_type)}`)
  if (config.bias !== undefined && config.bias !== null && config.bias !== "none")
    refuse(`bias is ${describe(config.bias)}`)
  if (!plainInitialisations.includes(config.init_lora_weights))
    refuse(`init_lora_weights is ${describe(config.init_lora_weights)}, which changes the base weights`)
  for (const [key, value] of Object.entries(config)) {
    const empty =
      value === null ||
      value === false ||
      (Array.isArray(value) && value.length === 0) ||
      (isObject(value) && Object.keys(value).length === 0)
    if (!harmless.has(key) && !empty) refuse(`${key} is ${describe(value)}`)
  }
}

/** The tensors of the file by the base's tensors that they change. */
function collect(directory: string, file: SafetensorsFile, scaling: Scaling): LoraUpdate[] {
  const parts = new Map<string, { a?: TensorEntry; b?: TensorEntry; whole?: TensorEntry }>()
  for (const [name, entry] of file.entries) {
    const found = name.startsWith(prefix)
      ? /^(.+?)\.(lora_A\.weight|lora_B\.weight|base_layer\.weight|weight)$/.exec(name.slice(prefix.length))
      : null
    if (!found || /\blora_/.test(found[1] as string))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${directory}: ${weightsFile}: tensor ${name} is none that plain LoRA of linear layers has; merge this adapter with PEFT (merge_and_unload) and quantize the result`,
      )
    const [, module = "", part] = found
    const update = parts.get(module) ?? {}
    parts.set(module, update)
    const key = part === "lora_A.weight" ? "a" : part === "lora_B.weight" ? "b" : "whole"
    update[key] = entry
  }
  return [...parts].map(([module, { a, b, whole }]) => {
    const tensor = `${module}.weight`
    if (!a && !b) return { tensor, replacement: whole ?? null, product: null }
    const { rank, scale } = scaling.of(module)
    const [r, k] = a?.shape ?? []
    const [n, second] = b?.shape ?? []
    if (!a || !b || a.shape.length !== 2 || b.shape.length !== 2 || r !== rank || second !== rank || !n || !k)
      throw new TsqError(
        "ERR_FORMAT",
        `${directory}: ${module}: lora_A is ${a ? `[${a.shape.join(", ")}]` : "missing"} and lora_B ${b ? `[${b.shape.join(", ")}]` : "missing"}, expected [${rank}, inputs] and [outputs, ${rank}] for the rank of ${configFile}`,
      )
    return { tensor, replacement: whole ?? null, product: { a, b, rank, scale } }
  })
}
