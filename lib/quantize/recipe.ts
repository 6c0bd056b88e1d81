// What quantizeModel is asked to do: options validated once, presets expanded, every default written out.
import { basename, resolve } from "node:path"
import { type CudaDeviceId, type Device, readDevice } from "../core/cuda.ts"
import { TsqError } from "../core/errors.ts"
import { describe, listChoices, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import type { IntegerScheme } from "../core/scheme.ts"
import { type FormatName, type GptqVersion, gptqVersions } from "../formats/format.ts"
import { isGgufPreset } from "../formats/gguf-mixes.ts"
import { formats } from "../formats/registry.ts"
import type { ModelProgram } from "../models/program.ts"
import { readRoundingOptions, roundingOptionNames } from "../rounding/options.ts"
import { roundingByName, roundingNames } from "../rounding/registry.ts"
import type { Rounding, RoundingOptions } from "../rounding/rounding.ts"
import { blockTransforms, type TransformName, transformNames } from "../transforms/registry.ts"
import { type Contest, strategies } from "./best/strategies.ts"
import { isEngineScheme } from "./engine-schemes.ts"
import { readStoredKvCache, refuseOtherNames, refuseWithoutPlace, type StoredKvCache } from "./kv-scales.ts"
import {
  type Candidate,
  type MixRequest,
  mixOptions,
  readMix,
  type SensitivityKind,
  sensitivityKinds,
} from "./mixed/request.ts"
import {
  bitsOf,
  defaultGroups,
  type GroupSize,
  isBitsandbytes,
  isGroupSize,
  isNearestOnly,
  type SchemeName,
  schemeNames,
} from "./scheme.ts"
import { type ActivationKind, activationKinds } from "./static-activations.ts"

export type { SchemeName } from "./scheme.ts"

/** A scheme for the modules that a pattern matches; groupSize: the recipe's where it is absent. */
export interface Override {
  pattern: string
  scheme: SchemeName | "none"
  groupSize?: GroupSize
}

export type RoundingName = Rounding["name"]
export type PresetName = "rtn" | "gptq" | "awq" | "awq-gptq" | "smoothquant" | "fp8" | "nf4" | "llm.int8" | "best"

export interface QuantizeModelOptions extends LongWork, RoundingOptions {
  /** A named point in the space below; options given beside it win. Default "gptq" with calibration, "rtn" without. */
  preset?: PresetName
  scheme?: SchemeName
  /** Columns of a group (default 128, or less where a model's widths ask for it), or one scale per output
   * channel, or per tensor. */
  groupSize?: GroupSize
  symmetric?: boolean
  rounding?: RoundingName
  /** What is reshaped before rounding, in this order; "hadamard" comes first. */
  transforms?: readonly TransformName[]
  /** smooth: the share of the activations' range that moves into the weights, 0 to 1, or "auto" (default): searched for every scale group. */
  alpha?: number | "auto"
  format?: FormatName
  /** GPTQ files: "v1" (default; widest reach), "v2", or "planar" (GPTQModel's gptq_p, which holds 5 to 7 bits too). */
  gptqVersion?: GptqVersion
  /**
   * Schemes w8a8 and fp8: "dynamic" (default), "static" (a stored scale a module, chosen in calibration), or for w8a8 "asymmetric"
   * (dynamic, with zero points).
   */
  activations?: ActivationKind
  /**
   * "fp8": scales of keys and values of every layer are chosen in calibration and written beside the weights, for engines (and loadModel's
   * kvCache "checkpoint") that cache them in FP8. Formats: compressed-tensors, modelopt and fp8.
   */
  kvCache?: StoredKvCache
  /** nf4 and fp4: quantize the scales once more, in blocks of 256, as bnb_4bit_use_double_quant has it. Default false. */
  doubleQuantization?: boolean
  /** Folders of LoRA adapters as PEFT saves them, merged into the weights first, in this order. */
  adapters?: readonly string[]
  /** Calibration text or token ids. */
  calibration?: string | readonly number[] | Int32Array
  /** Windows of calibration asked for. Default: up to 128, whatever the text gives. */
  samples?: number
  /** Tokens of a window, the tokenizer's BOS included. Default 512, or the model's context if smaller. */
  sequenceLength?: number
  /**
   * Tokens of calibration that must reach an expert of a mixture. A linear of an expert that fewer reach is rounded by its weights alone ("mse"
   * without statistics). Default: twice the columns of the linear, and at least 64.
   */
  expertFloor?: number
  /** Modules left as they are: exact names, or patterns with * ("model.layers.0.*"). */
  ignore?: readonly string[]
  /** Other schemes (and groups) for some modules, by name or pattern; first match wins. "none" leaves a module alone. */
  overrides?: readonly Override[]
  /**
   * Instead of one scheme, one for every group of fused linears, chosen by measured damage so that the linears of the blocks take at most
   * so many bits per weight, scales and zero points included. Needs calibration.
   */
  targetBits?: number
  /** The same for the bytes of all tensors of the result: a number, or a size such as "4GB" or "512MiB". */
  targetSize?: number | string
  /** The same for the mean KL divergence from the unquantized model, in nats per token: the smallest result that keeps to it. */
  targetKl?: number
  /** With a target: what every group of linears may become. Default: 2, 3, 4, 5, 6 and 8 bits, where the format holds them, and "none". */
  candidates?: readonly Candidate[]
  /**
   * With a target: damage measured at the model's output ("kl", default), or at each layer's and scaled by one measurement at the output
   * ("layer"). Preset "best": strategies judged by the model's output ("kl", default), or by each block's ("layer").
   */
  sensitivity?: SensitivityKind
  seed?: number
  /** Round towards the outputs of the unquantized model, whose hidden states are carried along (twice their memory), as "qronos" does
   * by default and any rounding with calibration can. */
  errorCorrection?: boolean
  /** "cuda", "cuda:1", …: where second moments are summed and weights are rounded. The model itself runs on the CPU. Default "cpu". */
  device?: Device
  /** Bytes that the estimated peak of memory may not exceed. */
  maxMemory?: number
  /** Refuse instead of leaving a tensor unquantized for the format's reasons. */
  strict?: boolean
  /** Replace an existing output; accept less calibration than asked for. */
  force?: boolean
  /** Continue an interrupted run of the same source, calibration and recipe. */
  resume?: boolean
  onWarning?: (message: string) => void
}

export interface Recipe {
  scheme: SchemeName
  bits: IntegerScheme["bits"]
  groupSize: GroupSize
  symmetric: boolean
  rounding: RoundingName
  transforms: readonly TransformName[]
  /** null without the transform "smooth". */
  alpha: number | "auto" | null
  format: FormatName
  gptqVersion: GptqVersion
  activations: ActivationKind
  doubleQuantization: boolean
  /** Absent: no scales of keys and values. */
  kvCache?: StoredKvCache
  /** Names of the folders. */
  adapters: readonly string[]
  samples: number | null
  sequenceLength: number | null
  /** null: by the columns of each linear. */
  expertFloor: number | null
  ignore: readonly string[]
  overrides: readonly Override[]
  /** Absent: one scheme for all. */
  mix?: MixRequest
  /** Preset "best": strategies of which every block takes the best. Then `rounding` and `transforms` stand for the costliest. */
  contest?: Contest
  seed: number
  device: "cpu" | CudaDeviceId
  roundingOptions: RoundingOptions
  /** Whether rounding aims at the outputs of the unquantized model (rounding/correction.ts). */
  errorCorrection: boolean
}

const presets: Record<PresetName, Partial<Recipe>> = {
  rtn: { rounding: "nearest", transforms: [], symmetric: true },
  gptq: { rounding: "gptq", transforms: [], symmetric: true, format: "gptq" },
  awq: { rounding: "nearest", transforms: ["awq"], symmetric: false, format: "awq" },
  "awq-gptq": { rounding: "gptq", transforms: ["awq"], symmetric: true, format: "gptq" },
  smoothquant: {
    ...{ scheme: "w8a8", rounding: "nearest", transforms: ["smooth"], symmetric: true },
    format: "compressed-tensors",
  },
  fp8: { scheme: "fp8", rounding: "nearest", transforms: [], symmetric: true },
  nf4: { scheme: "nf4", rounding: "nearest", transforms: [], symmetric: true, format: "bitsandbytes" },
  "llm.int8": { scheme: "llm.int8", rounding: "nearest", transforms: [], symmetric: true, format: "bitsandbytes" },
  // Zero points cost bits / groupSize of a bit of each weight and save more than that. stories260K, 4 bits in groups of 32, 30,000
  // characters: KL of GPTQ 0.0572 with zero points, 0.0745 without.
  best: { rounding: "gptq", transforms: ["awq"], symmetric: false },
}

const known = [
  "preset",
  "scheme",
  "groupSize",
  "symmetric",
  "rounding",
  "transforms",
  "alpha",
  "format",
  "gptqVersion",
  "activations",
  "kvCache",
  "doubleQuantization",
  "adapters",
  "calibration",
  "samples",
  "sequenceLength",
  "expertFloor",
  "ignore",
  "overrides",
  ...mixOptions,
  "seed",
  "device",
  "maxMemory",
  "strict",
  "force",
  "resume",
  ...roundingOptionNames,
  "errorCorrection",
  "signal",
  "onProgress",
  "onWarning",
]

/** A recipe before the model is known: a group size that was not asked for is null. */
export type OpenRecipe = Omit<Recipe, "groupSize"> & { groupSize: GroupSize | null }

const defaultGroupSize = 128
const groupSizes = [defaultGroupSize, 64, 32]

/**
 * The recipe for a model. A group size that was not asked for becomes 128, or the largest power of two below that divides the columns
 * of every linear of the blocks; where only less than 32 would, the largest that none has too few columns for.
 */
export function closeRecipe(recipe: OpenRecipe, program: ModelProgram): Recipe {
  refuseOtherNames(recipe, program)
  if (recipe.groupSize !== null) return { ...recipe, groupSize: recipe.groupSize }
  const usual = defaultGroups(recipe.scheme, recipe.format)
  if (usual !== null) return { ...recipe, groupSize: usual }
  const columns = program.blocks.flatMap(block =>
    program.sections[block]!.weights.flatMap(slot => (slot.kind === "linear" ? [slot.k] : [])),
  )
  const divides = groupSizes.find(size => columns.every(k => k % size === 0))
  return {
    ...recipe,
    groupSize: divides ?? Math.min(defaultGroupSize, 2 ** Math.floor(Math.log2(Math.min(...columns)))),
  }
}

/** Validates options and writes out every default. ERR_OPTION. */
export function makeRecipe(values: QuantizeModelOptions): OpenRecipe {
  const options = new Options("quantizeModel", values, known)
  if (isGgufPreset(options.raw("preset")))
    throw new TsqError(
      "ERR_OPTION",
      `quantizeModel: preset ${describe(options.raw("preset"))} makes a GGUF file, for which there is no plan; give the name of a .gguf file as output`,
    )
  const preset = choose(options, "preset", Object.keys(presets) as PresetName[]) ?? defaultPreset(values)
  const defaults = presets[preset]
  const scheme = choose(options, "scheme", schemeNames) ?? defaults.scheme ?? "w4a16"
  const rounding = choose(options, "rounding", roundingNames) ?? defaults.rounding ?? "nearest"
  const transforms = options.strings("transforms", defaults.transforms ?? []) as readonly TransformName[]
  for (const transform of transforms) oneOf(options, "transforms", transform, transformNames)
  if (new Set(transforms).size !== transforms.length) options.fail("transforms", "every transform once")
  if (transforms.indexOf("hadamard") > 0)
    options.fail(
      "transforms",
      '"hadamard" as the first: it takes the weights of norms into which the others fold scales',
    )
  const symmetric = options.boolean("symmetric", defaults.symmetric ?? true)
  const groupSize =
    typeof values.groupSize === "string"
      ? options.oneOf("groupSize", ["channel", "tensor"], null)
      : options.integer("groupSize", { min: 1 }, null)
  const overrides = checkOverrides(options)
  const mix = readMix(options, preset === "best")
  const own = [scheme, ...[...overrides, ...(mix?.candidates ?? [])].map(entry => entry.scheme)].find(
    name => name !== "none" && (isNearestOnly(name) || name === "w8a8"),
  )
  const contest: Contest | null = preset === "best" ? readContest(options, own) : null
  const nearestOnly = own && own !== "none" && isNearestOnly(own)
  if ((own && !symmetric) || (nearestOnly && rounding !== "nearest"))
    throw new TsqError(
      "ERR_OPTION",
      `quantizeModel: scheme "${own}" is symmetric${nearestOnly ? " and rounded to the nearest value" : ""}; found rounding "${rounding}"${symmetric ? "" : ", symmetric false"}`,
    )
  const kvCache = readStoredKvCache(options)
  const format =
    readFormat(options) ??
    (isBitsandbytes(scheme)
      ? "bitsandbytes"
      : isEngineScheme(scheme) || kvCache !== null
        ? "compressed-tensors"
        : defaultFormat(defaults.format, { bits: bitsOf(scheme), symmetric, groupSize, overrides, mix }))
  if (kvCache !== null) refuseWithoutPlace(format)
  const doubleQuantization = options.boolean("doubleQuantization", false)
  const schemes = [scheme, ...[...overrides, ...(mix?.candidates ?? [])].map(entry => entry.scheme)]
  if (doubleQuantization && !schemes.some(name => name === "nf4" || name === "fp4"))
    options.fail("doubleQuantization", 'false without scheme "nf4" or "fp4": it is of their scales')
  if (options.has("gptqVersion") && format !== "gptq")
    options.fail("gptqVersion", `no value beside format "${format}", which has no versions`)
  for (const name of ["strict", "force", "resume", "scaleSearch"] as const) options.boolean(name, false)
  options.number("maxMemory", { min: 0, aboveMin: true }, 0)
  options.signal()
  options.onProgress()
  if (options.has("onWarning") && typeof options.raw("onWarning") !== "function")
    options.fail("onWarning", "a function")
  return {
    scheme,
    bits: bitsOf(scheme),
    groupSize,
    symmetric,
    rounding,
    transforms: [...transforms],
    alpha: readAlpha(options, transforms),
    format,
    gptqVersion: options.oneOf("gptqVersion", gptqVersions, "v1"),
    activations: options.oneOf("activations", activationKinds, "dynamic"),
    doubleQuantization,
    ...(kvCache !== null && { kvCache }),
    adapters: options.strings("adapters", []).map(path => basename(resolve(path))),
    samples: options.integer("samples", { min: 1 }, null),
    sequenceLength: options.integer("sequenceLength", { min: 2 }, null),
    expertFloor: options.integer("expertFloor", { min: 0 }, null),
    ignore: [...options.strings("ignore", [])],
    overrides,
    ...(mix && { mix }),
    ...(contest && { contest }),
    seed: options.integer("seed", { min: 0 }, 0),
    device: readDevice("quantizeModel", options.raw("device") ?? "cpu"),
    roundingOptions: {
      ...{ damp: 0.01, order: "static", scaleSearch: true, block: 128 },
      ...readRoundingOptions(options, contest ? null : rounding),
    },
    errorCorrection: readCorrection(options, rounding, contest),
  }
}

/** What else decides how codes are chosen is the preset's own. own: a scheme that is rounded to the nearest value or rounds activations. */
function readContest(options: Options, own: SchemeName | "none" | undefined): Contest {
  for (const name of ["rounding", "transforms", "order", "errorCorrection"] as const)
    if (options.has(name)) options.fail(name, 'no value beside preset "best", which tries several')
  if (own)
    throw new TsqError(
      "ERR_OPTION",
      `quantizeModel: scheme "${own}" beside preset "best", whose strategies are for whole numbers and exact activations ("w8a16" to "w2a16"); leave the preset out`,
    )
  return { strategies, objective: options.oneOf("sensitivity", sensitivityKinds, "kl") }
}

/** ERR_OPTION rather than nothing for a rounding that has no other target than its weight. */
function readCorrection(options: Options, rounding: RoundingName, contest: Contest | null): boolean {
  const corrects = roundingByName(rounding).calibration === "required"
  const chosen = options.boolean("errorCorrection", rounding === "qronos" || contest !== null)
  if (chosen && !corrects)
    options.fail(
      "errorCorrection",
      `false beside rounding "${rounding}", which does not round towards the unquantized model's outputs; ${listChoices(roundingNames.filter(name => roundingByName(name).calibration === "required"))} do`,
    )
  return chosen
}

function readAlpha(options: Options, transforms: readonly TransformName[]): Recipe["alpha"] {
  const alpha = options.raw("alpha")
  if (!transforms.includes("smooth")) {
    if (alpha !== undefined) options.fail("alpha", 'no value without the transform "smooth"')
    return null
  }
  if (alpha === undefined) return "auto"
  if (alpha !== "auto" && !(typeof alpha === "number" && alpha >= 0 && alpha <= 1))
    options.fail("alpha", 'a number from 0 to 1 or "auto"')
  return alpha as number | "auto"
}

function defaultPreset(values: QuantizeModelOptions): PresetName {
  if (values.scheme !== undefined && schemeNames.includes(values.scheme) && isNearestOnly(values.scheme)) return "rtn"
  return values.calibration === undefined ? "rtn" : "gptq"
}

function checkOverrides(options: Options): Recipe["overrides"] {
  const list = options.raw("overrides") ?? []
  if (!Array.isArray(list)) options.fail("overrides", "an array of { pattern, scheme }")
  for (const entry of list as Recipe["overrides"]) {
    if (typeof entry?.pattern !== "string" || entry.pattern === "")
      options.fail("overrides", "entries { pattern, scheme } with the name or pattern of modules")
    oneOf(options, `overrides[${JSON.stringify(entry.pattern)}]`, entry.scheme, [...schemeNames, "none"])
    if (entry.groupSize !== undefined && !isGroupSize(entry.groupSize))
      options.fail("overrides", 'entries whose groupSize is an integer of at least 1, "channel" or "tensor"')
  }
  return [...(list as Recipe["overrides"])]
}

/** Whether a recipe looks at activations. */
export const needsCalibration = (recipe: Recipe): boolean =>
  roundingByName(recipe.rounding).calibration === "required" ||
  blockTransforms(recipe.transforms).length > 0 ||
  recipe.mix !== undefined ||
  recipe.activations === "static" ||
  recipe.kvCache !== undefined

/** Whether the calibration set is sent through the model: weighted scale search uses it too where it is there. */
export const needsCalibrationRun = (recipe: Recipe): boolean =>
  needsCalibration(recipe) || roundingByName(recipe.rounding).calibration !== "none"

/**
 * Whether codes depend on second moments of the inputs. Otherwise a calibration set only runs through the finished blocks, for static activations or
 * for keys and values.
 */
export const usesStatistics = ({ rounding, transforms }: Pick<Recipe, "rounding" | "transforms">): boolean =>
  roundingByName(rounding).calibration !== "none" || blockTransforms(transforms).length > 0

/** Whether groups may turn out not to be neighbouring columns. */
export const usesGroupIndex = ({ rounding, roundingOptions }: Recipe): boolean =>
  ["gptq", "auto-round", "qronos"].includes(rounding) && roundingOptions.order === "dynamic"

/** The format of the widest reach that holds the scheme. */
function defaultFormat(
  preset: FormatName | undefined,
  recipe: Pick<OpenRecipe, "bits" | "symmetric" | "groupSize" | "overrides"> & { mix: MixRequest | null },
): FormatName {
  const { bits, symmetric, groupSize } = recipe
  const mixed = recipe.mix !== null || recipe.overrides.some(override => override.scheme !== "none")
  if (preset === "awq" && bits === 4 && !symmetric && !mixed && groupSize !== "tensor") return "awq"
  if ([2, 3, 4, 8].includes(bits) && symmetric && !mixed && groupSize !== "tensor") return "gptq"
  return "compressed-tensors"
}

/** The option "format"; undefined when it was not given. */
export function readFormat(options: Options): FormatName | undefined {
  const format = options.raw("format")
  if (format === "gguf" || format === "onnx")
    throw new TsqError(
      "ERR_OPTION",
      `${options.caller}: format "${format}" is a single file's: ${format === "gguf" ? "give an output called .gguf and a preset such as q4_k_m" : "quantize to a folder, and convert that to a file called .onnx"}`,
    )
  return choose(
    options,
    "format",
    formats.map(({ name }) => name),
  )
}

/** An option out of a set; undefined when it was not given. */
function choose<T extends string>(options: Options, name: string, allowed: readonly T[]): T | undefined {
  const value = options.raw(name)
  if (value !== undefined) oneOf(options, name, value, allowed)
  return value as T | undefined
}

function oneOf(options: Options, option: string, value: unknown, allowed: readonly string[]): void {
  if (allowed.includes(value as string)) return
  throw new TsqError(
    "ERR_OPTION",
    `${options.caller}: ${option} is ${describe(value)}, expected ${listChoices(allowed)}`,
  )
}
