// The plan: every tensor with its scheme or the reason why it is left alone, sizes, memory and time, before any work is done.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import type { IntegerScheme, Scheme } from "../core/scheme.ts"
import type { FormatName } from "../formats/format.ts"
import { formatByName } from "../formats/registry.ts"
import type { ModelProgram } from "../models/program.ts"
import { engineScheme, isEngineScheme } from "./engine-schemes.ts"
import { estimateMemory, estimateSeconds, nominalBits, sizeUp } from "./estimate.ts"
import { fusedGroups, linearsOf } from "./linears.ts"
import { type QuantizeModelOptions, type Recipe, usesGroupIndex } from "./recipe.ts"
import { bitsandbytesScheme, bitsOf, type GroupSize, isBitsandbytes, type SchemeName } from "./scheme.ts"
import { withActivations } from "./static-activations.ts"
import { refuseTransposed } from "./transposed.ts"

export interface PlannedModule {
  /** Full module name. */
  module: string
  /** Block it belongs to; null for embedding and head. */
  layer: number | null
  shape: readonly [number, number]
  /** null: left as it is, for `reason`. */
  scheme: Scheme | null
  reason: string | null
  /** It was to be quantized, and the format cannot hold it or one that it is fused with. */
  refused: boolean
}

export interface Plan {
  modules: readonly PlannedModule[]
  /** Over quantized linears, scales and zero points included. */
  bitsPerWeight: number
  sourceBytes: number
  outputBytes: number
  /** Estimated peak of anonymous memory in bytes, and what it is made of. */
  peakMemory: number
  memoryParts: Record<string, number>
  /** Rough, from a measured rate of this machine's kernels. */
  estimatedSeconds: number
  warnings: readonly string[]
}

/** Scales are stored in f16 by GPTQ, AWQ and Marlin, in f32 by formats of FP8, in the model's own type by compressed-tensors. */
export function scaleTypeOf(format: FormatName, program: ModelProgram): IntegerScheme["scaleType"] {
  if (["gptq", "awq", "marlin"].includes(format)) return "f16"
  if (["fp8", "fbgemm_fp8", "modelopt"].includes(format)) return "f32"
  const { torchDtype } = program.config
  return torchDtype === "bfloat16" ? "bf16" : torchDtype === "float16" ? "f16" : "f32"
}

export function makePlan(
  checkpoint: Checkpoint,
  program: ModelProgram,
  recipe: Recipe,
  calibrationTokens: { rows: number; windows: number; length: number } | null,
  options: Pick<QuantizeModelOptions, "strict" | "maxMemory">,
): Plan {
  const warnings: string[] = []
  const modules: PlannedModule[] = []
  for (let layer = 0; layer < program.blocks.length; layer++)
    for (const slot of linearsOf(program, layer))
      modules.push(
        planModule(`${program.blockPrefix(layer)}${slot.module}`, layer, [slot.n, slot.k], recipe, program, slot.kept),
      )
  for (const module of new Set([program.embedding, program.head])) {
    const { vocabularySize, hiddenSize } = program.config
    modules.push(planModule(module, null, [vocabularySize, hiddenSize], recipe, program))
  }
  refuseTransposed(modules, program, recipe.format)
  keepFusedTogether(modules, program, warnings)
  checkPatterns(modules, recipe, program, warnings)
  if (checkpoint.isAlias(`${program.head}.weight`))
    warnings.push(
      `the head was tied to the embedding and becomes a matrix of its own, with another ${mb(checkpoint.entry(`${program.head}.weight`).bytes)}: the last norm's weight moves into it`,
    )
  const refused = modules.filter(entry => entry.refused)
  if (refused.length > 0) {
    const reasons = [
      ...new Map(refused.toReversed().map(({ module, reason }) => [reason, `${module}: ${reason}`])).values(),
    ].reverse()
    const found = `${refused.length} of ${modules.length} linears stay unquantized: ${firstOf(reasons)}`
    if (options.strict) throw new TsqError("ERR_UNSUPPORTED", `${found} (strict: nothing may be left unquantized)`)
    warnings.push(found)
  }
  if (!modules.some(entry => entry.scheme))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `nothing would be quantized: ${modules[0]?.module}: ${modules[0]?.reason}${recipe.kvCache ? "; scales of keys and values are written beside quantized weights only" : ""}`,
    )

  const sizes = sizeUp(checkpoint, modules)
  const nominal = nominalBits(recipe, scaleTypeOf(recipe.format, program))
  const linearBits = sizes.linearBits / sizes.linearWeights
  if (Math.abs(linearBits / nominal - 1) > 0.03 && recipe.overrides.length === 0)
    warnings.push(`block linears take ${linearBits.toFixed(2)} bits per weight, not the nominal ${nominal.toFixed(2)}`)
  const memoryParts = estimateMemory(program, recipe, modules, calibrationTokens)
  const peakMemory = Object.values(memoryParts).reduce((sum, bytes) => sum + bytes, 0)
  if (options.maxMemory !== undefined && peakMemory > options.maxMemory)
    throw new TsqError(
      "ERR_MEMORY",
      `an estimated ${mb(peakMemory)} would be needed, maxMemory allows ${mb(options.maxMemory)} (${describeParts(memoryParts)}); ` +
        "take fewer or shorter samples, a rounding without calibration, or allow more",
    )
  return {
    modules,
    bitsPerWeight: sizes.quantizedBits / Math.max(sizes.quantizedWeights, 1),
    sourceBytes: sizes.sourceBytes,
    outputBytes: sizes.outputBytes + (recipe.kvCache ? program.blocks.length * 2 * 4 : 0),
    peakMemory,
    memoryParts,
    estimatedSeconds: estimateSeconds(program, recipe, calibrationTokens?.rows ?? 0, sizes.sourceBytes),
    warnings,
  }
}

/** One module of each reason, without those that only follow from another. */
function firstOf(reasons: readonly string[]): string {
  const own = reasons.filter(reason => !reason.includes("engines fuse it with"))
  return own.slice(0, 3).join("; ") + (own.length > 3 ? " …" : "")
}

const mb = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`
const describeParts = (parts: Record<string, number>) =>
  Object.entries(parts)
    .map(([name, bytes]) => `${name} ${mb(bytes)}`)
    .join(", ")

/** What a recipe makes of one module. */
export function planModule(
  module: string,
  layer: number | null,
  shape: readonly [number, number],
  recipe: Recipe,
  program: ModelProgram,
  kept?: string,
): PlannedModule {
  const leave = (reason: string, refused = false): PlannedModule => ({
    module,
    layer,
    shape,
    scheme: null,
    reason,
    refused,
  })
  if (kept) return leave(kept)
  if (recipe.ignore.some(pattern => matches(pattern, module))) return leave("ignored by option")
  const override = recipe.overrides.find(({ pattern }) => matches(pattern, module))
  if (override?.scheme === "none") return leave("ignored by override")
  if (layer === null && !override) return leave(module === program.head ? "output head, kept" : "embedding, kept")
  const scheme = schemeOn(module, shape, override?.scheme ?? recipe.scheme, override?.groupSize, recipe, program)
  const reason = formatByName(recipe.format).refuses(module, shape, scheme, {
    groupIndex: usesGroupIndex(recipe),
  })
  return reason ? leave(reason, true) : { module, layer, shape, scheme, reason: null, refused: false }
}

/** A scheme by its name on a weight. ERR_OPTION for groups that it cannot have. */
function schemeOn(
  module: string,
  shape: readonly [number, number],
  name: SchemeName,
  ownGroups: GroupSize | undefined,
  recipe: Recipe,
  program: ModelProgram,
): Scheme {
  const groupSize = ownGroups ?? recipe.groupSize
  const k = shape[1]
  if (recipe.activations !== "dynamic" && !isEngineScheme(name))
    throw new TsqError(
      "ERR_OPTION",
      `quantizeModel: activations is "${recipe.activations}", and scheme "${name}" of ${module} has none that could be; "w8a8" and "fp8" have`,
    )
  if (isBitsandbytes(name)) return bitsandbytesScheme(name, groupSize, k, recipe.doubleQuantization, "quantizeModel")
  if (isEngineScheme(name))
    return withActivations(
      engineScheme(name, groupSize, k, scaleTypeOf(recipe.format, program), "quantizeModel"),
      recipe.activations,
      "quantizeModel",
    )
  if (typeof groupSize === "number" && groupSize > k)
    throw new TsqError(
      "ERR_OPTION",
      `quantizeModel: groupSize is ${groupSize}, larger than k = ${k} of ${module} [${shape.join(", ")}]; use at most ${k} or "channel", or leave the module alone (ignore)`,
    )
  return {
    bits: bitsOf(name),
    symmetric: recipe.symmetric,
    granularity: typeof groupSize === "number" ? "group" : groupSize,
    groupSize: typeof groupSize === "number" ? groupSize : k,
    scaleType: scaleTypeOf(recipe.format, program),
  }
}

/** "*" stands for any run of characters; anything else is literal. */
export function matches(pattern: string, module: string): boolean {
  if (!pattern.includes("*")) return pattern === module || module.endsWith(`.${pattern}`)
  const parts = pattern.split("*")
  const [first, last] = [parts[0]!, parts.at(-1)!]
  if (!module.startsWith(first) || !module.endsWith(last) || module.length < first.length + last.length) return false
  // Between both ends the leftmost place of every part is as good as any other.
  let from = first.length
  for (const part of parts.slice(1, -1)) {
    const at = module.indexOf(part, from)
    if (at < 0) return false
    from = at + part.length
  }
  return from <= module.length - last.length
}

/** Where the format refuses one of the linears that engines fuse, its siblings stay unquantized as well. */
function keepFusedTogether(modules: PlannedModule[], program: ModelProgram, warnings: string[]): void {
  const byName = new Map(modules.map(entry => [entry.module, entry]))
  for (let layer = 0; layer < program.blocks.length; layer++)
    for (const group of fusedGroups(program, layer)) {
      const siblings = group.map(module => byName.get(program.blockPrefix(layer) + module)!)
      const refused = siblings.find(entry => entry.refused)
      if (refused)
        for (const entry of siblings)
          if (entry.scheme) {
            entry.scheme = null
            entry.refused = true
            entry.reason = `engines fuse it with ${refused.module}, which is left alone: ${refused.reason}`
          }
      const bits = new Set(siblings.map(entry => entry.scheme?.bits ?? 0))
      if (bits.size > 1)
        warnings.push(
          `${someOf(siblings.map(entry => entry.module))} differ in bits; engines that fuse them will refuse the file`,
        )
    }
}

const someOf = (names: readonly string[]): string =>
  names.length > 4 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ")

/** An override that matches nothing is a mistake; an ignored name that matches nothing does no harm. */
function checkPatterns(
  modules: readonly PlannedModule[],
  recipe: Recipe,
  program: ModelProgram,
  warnings: string[],
): void {
  const unmatched = (pattern: string) => !modules.some(({ module }) => matches(pattern, module))
  const names = `modules are named like ${modules[0]?.module} and ${program.head}${program.head === program.embedding ? " (embedding and tied head)" : ""}`
  const routers = new Set(
    program.blocks.flatMap((_, layer) =>
      linearsOf(program, layer).flatMap(slot => (slot.kept ? [program.blockPrefix(layer) + slot.module] : [])),
    ),
  )
  for (const { pattern, scheme } of recipe.overrides) {
    if (unmatched(pattern))
      throw new TsqError("ERR_OPTION", `quantizeModel: override ${JSON.stringify(pattern)} matches no matrix; ${names}`)
    const found = modules.filter(({ module }) => matches(pattern, module))
    if (scheme !== "none" && found.every(({ module }) => routers.has(module)))
      throw new TsqError(
        "ERR_OPTION",
        `quantizeModel: override ${JSON.stringify(pattern)} matches ${found[0]!.module}, which is never quantized: ${found[0]!.reason}`,
      )
  }
  for (const pattern of recipe.ignore)
    if (unmatched(pattern) && pattern !== "lm_head")
      warnings.push(`ignore ${JSON.stringify(pattern)} matches no matrix; ${names}`)
}
