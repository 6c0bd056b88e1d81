// GPTQ's quantization_config: written so that vLLM, SGLang, transformers, AutoGPTQ and GPTQModel find what each needs, and read.
import { describe, isObject } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"
import { booleanField, groupSizeField, integerField, stringField } from "./config-fields.ts"
import { type FormatSummary, type GptqVersion, gptqVersions, type WriteOptions } from "./format.ts"
import { modulePatterns } from "./module-patterns.ts"
import { NamePattern } from "./name-pattern.ts"

/** The settings of one module. groupSize −1: one group a row. */
export interface GptqSettings {
  bits: number
  groupSize: number
  symmetric: boolean
  ordered: boolean
}

/** quantize_config.json of old AutoGPTQ releases names no method; its keys tell it from AWQ's. */
export function isGptq(config: Record<string, unknown>): boolean {
  if (config.quant_method === undefined || config.quant_method === null)
    return "bits" in config && ("desc_act" in config || "damp_percent" in config) && !("zero_point" in config)
  return config.quant_method === "gptq" && !declaresMarlin(config)
}

/** Whether files that call themselves GPTQ's are in Marlin's layout (marlin.ts). */
export const declaresMarlin = (config: Record<string, unknown>): boolean =>
  (config.checkpoint_format ?? config.format) === "marlin" || config.is_marlin_format === true

// ---------------------------------------------------------------------------------------------------------------- writing

type ModuleScheme = FormatSummary["modules"] extends ReadonlyMap<string, infer Scheme> ? Scheme : never

const overridesOf = (scheme: ModuleScheme) => ({
  bits: scheme.bits as number,
  group_size: scheme.granularity === "group" ? scheme.groupSize : -1,
  sym: scheme.symmetric,
})
type Overrides = ReturnType<typeof overridesOf>

/** The settings that most modules share; the first of equals. */
function commonSettings(modules: FormatSummary["modules"]): Overrides {
  const counts = new Map<string, number>()
  for (const scheme of modules.values()) {
    const key = JSON.stringify(overridesOf(scheme))
    counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  const [best] = [...counts].sort((a, b) => b[1] - a[1])
  if (!best)
    throw new TsqError(
      "ERR_FORMAT",
      "no module is quantized, so there is nothing that a gptq configuration could describe",
    )
  return JSON.parse(best[0]) as Overrides
}

/**
 * Rules for the modules that differ from the common settings. GPTQModel, vLLM and SGLang match them from the start of a
 * module's name and take the first that matches; negative ones (left unquantized) come first.
 */
function dynamicRules(summary: FormatSummary, common: Overrides): Record<string, Partial<Overrides>> {
  // lm_head has a flag of its own.
  const unquantized = summary.unquantized.filter(name => !isHead(name))
  const all = [...summary.modules.keys(), ...unquantized]
  const rules: Record<string, Partial<Overrides>> = {}
  for (const pattern of modulePatterns(unquantized, all, true)) rules[`-:${pattern}`] = {}
  const different = new Map<string, string[]>()
  for (const [module, scheme] of summary.modules) {
    const own = overridesOf(scheme)
    const changed = Object.fromEntries(
      Object.entries(own).filter(([key, value]) => value !== common[key as keyof Overrides]),
    )
    if (Object.keys(changed).length === 0) continue
    const key = JSON.stringify(changed)
    different.set(key, [...(different.get(key) ?? []), module])
  }
  for (const [key, modules] of different)
    for (const pattern of modulePatterns(modules, all, true))
      rules[`+:${pattern}`] = JSON.parse(key) as Partial<Overrides>
  return rules
}

const isHead = (module: string) => module === "lm_head" || module.endsWith(".lm_head")

/** "self_attn.q_proj" of "model.layers.3.self_attn.q_proj"; null outside numbered blocks. */
const nameInBlock = (module: string) => /^[^\d]*\.\d+\.(.+)$/.exec(module)?.[1] ?? null

/**
 * Optimum and transformers do not know `dynamic`; they quantize the linears of a block that this list names. It can only be
 * written where every block leaves out the same ones, and not beside a quantized head: vLLM takes it for the whole list.
 */
function namesInBlocks(summary: FormatSummary): string[][] | null {
  if ([...summary.modules.keys()].some(isHead)) return null
  const skipped = new Set(summary.unquantized.map(nameInBlock).filter(name => name !== null))
  const quantized = new Set([...summary.modules.keys()].map(nameInBlock).filter(name => name !== null))
  if (skipped.size === 0 || [...skipped].some(name => quantized.has(name))) return null
  return [...quantized].map(name => [name])
}

const checkpointFormats: Record<GptqVersion, string> = { v1: "gptq", v2: "gptq_v2", planar: "gptq_p" }

export function gptqConfiguration(
  summary: FormatSummary,
  options: WriteOptions,
): { quantizationConfig: Record<string, unknown>; files: Record<string, unknown> } {
  const common = commonSettings(summary.modules)
  const checkpointFormat = checkpointFormats[options.gptqVersion ?? "v1"]
  const dynamic = dynamicRules(summary, common)
  const inBlocks = namesInBlocks(summary)
  const damp = summary.damp
  const quantizationConfig: Record<string, unknown> = {
    quant_method: "gptq",
    ...common,
    // A sequential g_idx is right under either value, so one module with reordered columns sets it for all.
    desc_act: [...summary.modules.values()].some(scheme => scheme.hasGroupIndex),
    static_groups: false,
    true_sequential: true,
    lm_head: [...summary.modules.keys()].some(isHead),
    // GPTQModel reads both names; transformers either.
    checkpoint_format: checkpointFormat,
    format: checkpointFormat,
    pack_dtype: "int32",
    // transformers refuses values outside (0, 1).
    ...(damp !== null && damp > 0 && damp < 1 ? { damp_percent: damp } : {}),
    ...(Object.keys(dynamic).length > 0 ? { dynamic } : {}),
    ...(inBlocks ? { modules_in_block_to_quantize: inBlocks } : {}),
    // AutoGPTQ's loader reads these two; null makes it look for model.safetensors.
    model_name_or_path: null,
    model_file_base_name: null,
    meta: { quantizer: [`tsq-native:${summary.version}`] },
  }
  return { quantizationConfig, files: { "quantize_config.json": quantizationConfig } }
}

// ---------------------------------------------------------------------------------------------------------------- reading

interface Rule {
  pattern: NamePattern
  overrides: Record<string, unknown>
}

/** What a quantization_config says about each module. */
export class GptqConfig {
  /** As declared; v1 and v2 of symmetric files are told apart by their values instead. */
  readonly version: GptqVersion
  readonly #common: GptqSettings
  readonly #excluded: readonly Rule[]
  readonly #rules: readonly Rule[]

  constructor(config: Record<string, unknown>) {
    const declared = stringField(config, "checkpoint_format") ?? stringField(config, "format") ?? "gptq"
    const version = gptqVersions.find(name => checkpointFormats[name] === declared)
    if (!version)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantization_config.checkpoint_format is "${declared}"; of GPTQ checkpoints, "gptq", "gptq_v2", "gptq_p" and "marlin" are read`,
      )
    this.version = version
    this.#common = {
      bits: integerField(config, ["bits", "w_bit"]),
      groupSize: groupSizeField(config, ["group_size", "q_group_size"], -1),
      symmetric: booleanField(config, "sym", true),
      ordered: booleanField(config, "desc_act", false),
    }
    const rules = parseDynamic(config.dynamic ?? {})
    this.#excluded = rules.filter(rule => rule.excludes)
    this.#rules = rules.filter(rule => !rule.excludes)
  }

  /** Whether a rule says that the module is left unquantized. */
  excludes(module: string): boolean {
    return this.#excluded.some(rule => rule.pattern.test(module))
  }

  settings(module: string): GptqSettings {
    const overrides = this.#rules.find(rule => rule.pattern.test(module))?.overrides ?? {}
    const settings = {
      bits: integerField(overrides, ["bits", "w_bit"], this.#common.bits),
      groupSize: groupSizeField(overrides, ["group_size", "q_group_size"], this.#common.groupSize),
      symmetric: booleanField(overrides, "sym", this.#common.symmetric),
      ordered: booleanField(overrides, "desc_act", this.#common.ordered),
    }
    if (settings.bits < 2 || settings.bits > 8)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${module}: quantization_config says ${settings.bits} bits; GPTQ checkpoints of 2 to 8 bits are read`,
      )
    return settings
  }
}

function parseDynamic(dynamic: unknown): (Rule & { excludes: boolean })[] {
  if (!isObject(dynamic))
    throw new TsqError("ERR_FORMAT", `quantization_config.dynamic is ${describe(dynamic)}, expected an object`)
  return Object.entries(dynamic).map(([key, overrides]) => {
    const [, sign = "", pattern = ""] = /^([-+]:)?(.*)$/s.exec(key) ?? []
    const excludes = sign === "-:"
    if (!excludes && !isObject(overrides))
      throw new TsqError(
        "ERR_FORMAT",
        `quantization_config.dynamic[${JSON.stringify(key)}] is ${describe(overrides)}, expected an object`,
      )
    return { pattern: new NamePattern(pattern, "dynamic"), excludes, overrides: isObject(overrides) ? overrides : {} }
  })
}
