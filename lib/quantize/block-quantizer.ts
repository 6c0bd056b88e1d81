// Quantizes one block: transforms, then stage by stage (linears that share an input) statistics, rounding and replacement, so
// that every stage is calibrated on what the already quantized stages compute (true-sequential order).
import type { Checkpoint } from "../containers/checkpoint.ts"
import { throwIfAborted } from "../core/errors.ts"
import type { LongWork } from "../core/progress.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { isIntegerScheme, type Scheme } from "../core/scheme.ts"
import { sharedFloats } from "../core/tensor.ts"
import type { KvScales } from "../formats/kv-scales.ts"
import { prepack } from "../kernels/packed-weight.ts"
import { Accumulator } from "../models/accumulator.ts"
import { BlockWeights } from "../models/block-weights.ts"
import type { ModelProgram } from "../models/program.ts"
import { abortable, type Handle, native } from "../native.ts"
import { gridOf } from "../rounding/arrays.ts"
import { nearest } from "../rounding/nearest.ts"
import { roundingByName } from "../rounding/registry.ts"
import type { InputStatistics, Rounding, RoundingInput, RoundingReport } from "../rounding/rounding.ts"
import { blockTransforms, transformByName } from "../transforms/registry.ts"
import type { TransformReport } from "../transforms/transform.ts"
import type { ContestReport } from "./best/contest.ts"
import type { CalibrationRun } from "./calibration-run.ts"
import { transformRows } from "./estimate.ts"
import { expertFloor } from "./expert-coverage.ts"
import { quantizeExperts, withoutStatistics } from "./expert-stage.ts"
import { KvScaleWatch } from "./kv-scales.ts"
import { stages } from "./linears.ts"
import type { PlannedModule } from "./plan.ts"
import { type Recipe, usesStatistics } from "./recipe.ts"
import { StaticActivations } from "./static-activations.ts"

export interface BlockResult {
  /** By full module name. */
  tensors: ReadonlyMap<string, QuantizedTensor>
  reports: ReadonlyMap<string, RoundingReport>
  /** Dense tensors that a transform changed, by full name: f32 values. */
  changed: ReadonlyMap<string, Float32Array>
  transforms: readonly TransformReport[]
  /** Largest magnitude in the residual stream behind the block, over the calibration; null without one. */
  residualPeak: number | null
  /** Preset "best": what was tried. */
  contest?: ContestReport
  /** Where the recipe asks for them. */
  kvScales?: KvScales
}

export interface BlockInput extends LongWork {
  checkpoint: Checkpoint
  program: ModelProgram
  layer: number
  modules: readonly PlannedModule[]
  recipe: Recipe
  minZero: number
  /** null: no calibration. */
  run: CalibrationRun | null
  /** null: the CPU. */
  device: Handle | null
  /** Default true: `run` goes through the quantized block afterwards. */
  advance?: boolean
  onTensor(module: string, report: RoundingReport): void
}

export async function quantizeBlock(input: BlockInput): Promise<BlockResult> {
  const { checkpoint, program, layer, recipe, run } = input
  const section = program.sections[program.blocks[layer]!]!
  const prefix = program.blockPrefix(layer)
  const weights = new BlockWeights(checkpoint, prefix, section)
  const planned = new Map(input.modules.map(entry => [entry.module.slice(prefix.length), entry]))
  const schemeOf = (module: string) => planned.get(module)?.scheme ?? null
  const tensors = new Map<string, QuantizedTensor>()
  const reports = new Map<string, RoundingReport>()
  const transforms: TransformReport[] = []

  /** tokens: how many reached the expert that the module belongs to. */
  const round = async (module: string, statistics: InputStatistics | undefined, tokens?: number) => {
    const scheme = schemeOf(module)!
    const [n, k] = weights.shape(module)
    const weight = await weights.linear(module)
    const what: RoundingInput = {
      name: prefix + module,
      weight,
      n,
      k,
      scheme,
      statistics,
      minZero: input.minZero,
      options: recipe.roundingOptions,
      device: input.device,
      signal: input.signal,
    }
    const unseen = tokens !== undefined && !statistics
    const rounded =
      statistics && usesClip(recipe, module, scheme)
        ? await roundClipped(what, statistics)
        : await roundingByName(unseen ? withoutStatistics(recipe.rounding) : recipe.rounding).round(what)
    const { tensor } = rounded
    const note = unseen
      ? `${tokens} tokens of calibration reached this expert, fewer than ${expertFloor(recipe, k)} (expertFloor): rounded by its weights alone`
      : rounded.report.note
    const report = { ...rounded.report, ...(tokens !== undefined && { tokens }), ...(note !== undefined && { note }) }
    weights.forget(module)
    tensors.set(prefix + module, tensor)
    reports.set(prefix + module, report)
    input.onTensor(prefix + module, report)
    return tensor
  }

  if (!run) {
    for (const [module, entry] of planned) {
      throwIfAborted(input.signal)
      if (entry.scheme) await round(module, undefined)
    }
    return { tensors, reports, changed: new Map(), transforms, residualPeak: null }
  }

  try {
    const original = run.own(await run.bind(layer))
    for (const name of blockTransforms(recipe.transforms)) {
      const bound = await run.rebind(original, weights)
      transforms.push(
        await transformByName(name).apply({
          program,
          layer,
          runner: run.runner,
          cache: run.cache,
          bound,
          weights,
          sample: run.sample(transformRows),
          observe: watched => run.watch(bound, watched, input.signal),
          schemeOf,
          minZero: input.minZero,
          options: { alpha: recipe.alpha ?? "auto" },
          signal: input.signal,
        }),
      )
    }
    for (const module of weights.changedLinears) if (!schemeOf(module)) await weights.roundToStored(module)
    let bound = await run.rebind(original, weights)
    // What transforms did leaves the function as it is, and the inputs of every stage in the terms of its weights.
    const unquantized = recipe.errorCorrection && run.carriesOriginal ? bound : null
    for (const stage of stages(section)) {
      const modules = stage.modules.filter(module => schemeOf(module))
      if (modules.length === 0) continue
      throwIfAborted(input.signal)
      if (!usesStatistics(recipe)) {
        for (const module of modules)
          bound = run.own(bound.set(module, run.own(await prepack(await round(module, undefined)))))
        continue
      }
      if (stage.experts) {
        const { experts } = stage
        const { signal } = input
        bound = await quantizeExperts(
          { run, bound, stage, experts, modules, original: unquantized, recipe, signal },
          round,
        )
        continue
      }
      const hessian = new Accumulator("hessian", stage.k)
      const cross = unquantized && new Accumulator("cross", stage.k)
      const { addend } = stage
      const residual =
        cross && addend ? new Accumulator("cross", stage.k, { capacity: program.slots[addend.stream]! }) : null
      try {
        const { op, slot } = stage
        const drift = cross && {
          original: unquantized,
          accumulators: [
            { op, slot, accumulator: cross },
            ...(residual && addend ? [{ op, slot: addend.stream, inputs: slot, accumulator: residual }] : []),
          ],
        }
        await run.observe(bound, { op, slot, accumulator: hessian }, input.signal, drift)
        const statistics: InputStatistics = {
          hessian: hessian.handle,
          meanSquare: hessian.meanSquare(),
          rows: hessian.rows,
          cross: cross?.handle,
        }
        for (const module of modules) {
          const own = module === addend?.module ? { ...statistics, residual: residual?.handle } : statistics
          bound = run.own(bound.set(module, run.own(await prepack(await round(module, own)))))
        }
      } finally {
        hessian.dispose()
        cross?.dispose()
        residual?.dispose()
      }
    }
    const activations = run.own(new StaticActivations(program, stages(section), schemeOf))
    const cached = recipe.kvCache ? run.own(new KvScaleWatch(program, section)) : null
    const watched = [...activations.watched, ...(cached?.watched ?? [])]
    let residualPeak: number | null = null
    if (input.advance ?? true) {
      residualPeak = await run.advanceMeasured(bound, input.signal, watched)
      await run.advanceOriginal(layer, input.signal)
    } else await run.watch(bound, watched, input.signal)
    activations.apply(prefix, tensors)
    const changed = await changedTensors(weights, prefix, tensors)
    const kvScales = cached && { kvScales: cached.scales(prefix) }
    return { tensors, reports, changed, transforms, residualPeak, ...kvScales }
  } finally {
    run.releaseOwned()
  }
}

/** The clip search belongs to AWQ with plain rounding (a scale search subsumes it); q and k are left alone as in the paper's code, and what holds them. One
 * scale for the whole tensor has no groups to clip. */
const usesClip = (recipe: Recipe, module: string, scheme: Scheme): boolean =>
  recipe.transforms.includes("awq") &&
  recipe.rounding === "nearest" &&
  isIntegerScheme(scheme) &&
  scheme.granularity !== "tensor" &&
  !/\b([qk]_proj|qkv_proj|query_key_value|c_attn)$/.test(module)

const clipSteps = 20
const clipShrink = 0.5

/** Rounds with and without clipped ranges and keeps what is closer: the search looks at each group by itself. */
async function roundClipped(
  input: RoundingInput,
  statistics: InputStatistics,
): Promise<Awaited<ReturnType<Rounding["round"]>>> {
  const { weight, n, k, scheme, signal } = input
  const clip = sharedFloats(n * Math.ceil(k / scheme.groupSize))
  const grid = gridOf(scheme, input.minZero)
  const hessian = statistics.hessian.value
  await abortable(signal, flag => native.searchClip(weight, n, k, hessian, grid, clipSteps, clipShrink, clip, flag))
  const plain = await nearest.round(input)
  const clipped = await nearest.round({ ...input, clip })
  return clipped.report.error < plain.report.error ? clipped : plain
}

/** What a transform changed and rounding has not replaced. */
async function changedTensors(
  weights: BlockWeights,
  prefix: string,
  tensors: ReadonlyMap<string, QuantizedTensor>,
): Promise<Map<string, Float32Array>> {
  const changed = new Map<string, Float32Array>()
  for (const module of weights.changedLinears)
    if (!tensors.has(prefix + module)) changed.set(`${prefix}${module}.weight`, await weights.linear(module))
  for (const [tensor, values] of weights.changedVectors) changed.set(prefix + tensor, values)
  return changed
}
