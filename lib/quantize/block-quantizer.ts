// Quantizes one block: transforms, then stage by stage (linears that share an input) statistics, rounding and replacement, so
// that every stage is calibrated on what the already quantized stages compute (true-sequential order).
import type { Checkpoint } from "../containers/checkpoint.ts"
import { throwIfAborted } from "../core/errors.ts"
import type { LongWork } from "../core/progress.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { sharedFloats } from "../core/tensor.ts"
import { prepack } from "../kernels/packed-weight.ts"
import { Accumulator } from "../models/accumulator.ts"
import { BlockWeights } from "../models/block-weights.ts"
import type { ModelProgram } from "../models/program.ts"
import type { BoundSection } from "../models/runner.ts"
import { native } from "../native.ts"
import { roundingByName } from "../rounding/registry.ts"
import type { InputStatistics, RoundingReport } from "../rounding/rounding.ts"
import { transformByName } from "../transforms/registry.ts"
import type { TransformReport } from "../transforms/transform.ts"
import { gridOf } from "./grid.ts"
import type { CalibrationRun } from "./calibration-run.ts"
import type { PlannedModule } from "./plan.ts"
import type { Recipe } from "./recipe.ts"

export interface BlockResult {
  /** By full module name. */
  tensors: ReadonlyMap<string, QuantizedTensor>
  reports: ReadonlyMap<string, RoundingReport>
  /** Dense tensors that a transform changed, by full name: f32 values. */
  changed: ReadonlyMap<string, Float32Array>
  transforms: readonly TransformReport[]
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
  const replaced: BoundSection[] = []

  const round = async (module: string, statistics: InputStatistics | undefined) => {
    const scheme = schemeOf(module)!
    const [n, k] = weights.shape(module)
    const weight = await weights.linear(module)
    const clip = statistics && usesClip(recipe, module) ? await searchClip(weight, n, k, statistics, scheme, input.minZero) : undefined
    const { tensor, report } = await roundingByName(recipe.rounding).round({
      name: prefix + module,
      weight,
      n,
      k,
      scheme,
      statistics,
      clip,
      minZero: input.minZero,
      options: recipe.roundingOptions,
      signal: input.signal,
    })
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
    return { tensors, reports, changed: new Map(), transforms }
  }

  let bound = await run.bind(layer)
  replaced.push(bound)
  try {
    for (const name of recipe.transforms) {
      const sample = run.sample()
      transforms.push(
        await transformByName(name).apply({
          program,
          layer,
          runner: run.runner,
          cache: run.cache,
          bound,
          weights,
          sample,
          gridOf: module => {
            const scheme = schemeOf(module)
            return scheme && gridOf(scheme, input.minZero)
          },
          signal: input.signal,
        }),
      )
    }
    if (weights.changed.size > 0) {
      bound = await run.rebind(layer, bound, weights)
      replaced.push(bound)
    }
    for (const stage of stages(section)) {
      const modules = stage.modules.filter(module => schemeOf(module))
      if (modules.length === 0) continue
      throwIfAborted(input.signal)
      const hessian = new Accumulator("hessian", program.slots[stage.slot]!)
      try {
        await run.observe(bound, stage.op, stage.slot, hessian, input.signal)
        const statistics: InputStatistics = { hessian: hessian.handle, meanSquare: hessian.meanSquare(), rows: hessian.rows }
        for (const module of modules) {
          const packed = await prepack(await round(module, statistics))
          run.own(packed)
          bound = bound.set(module, packed)
          replaced.push(bound)
        }
      } finally {
        hessian.dispose()
      }
    }
    await run.advance(bound, input.signal)
    return { tensors, reports, changed: await changedTensors(weights, prefix, tensors), transforms }
  } finally {
    for (const section of replaced) section.dispose()
    run.releaseOwned()
  }
}

interface Stage {
  /** First op that reads the slot. */
  op: number
  slot: number
  modules: string[]
}

/** Linears of a section grouped by the slot they read, in program order. */
export function stages(section: ModelProgram["sections"][number]): Stage[] {
  const result: Stage[] = []
  section.ops.forEach((op, index) => {
    const weight = op.kind === "linear" ? section.weights[op.weights[0]!] : undefined
    if (weight?.kind !== "linear") return
    const known = result.find(stage => stage.slot === op.in[0])
    if (known) known.modules.push(weight.module)
    else result.push({ op: index, slot: op.in[0]!, modules: [weight.module] })
  })
  return result
}

/** The clip search belongs to AWQ with plain rounding (a scale search subsumes it); q and k are left alone as in the paper's code. */
const usesClip = (recipe: Recipe, module: string): boolean =>
  recipe.transforms.includes("awq") && recipe.rounding === "nearest" && !/\b[qk]_proj$/.test(module)

async function searchClip(
  weight: Float32Array,
  n: number,
  k: number,
  statistics: InputStatistics,
  scheme: NonNullable<PlannedModule["scheme"]>,
  minZero: number,
): Promise<Float32Array> {
  const clip = sharedFloats(n * Math.ceil(k / scheme.groupSize))
  await native.searchClip(weight, n, k, statistics.hessian.value, gridOf(scheme, minZero), 20, 0.5, clip, null)
  return clip
}

/** What a transform changed and rounding has not replaced. */
async function changedTensors(
  weights: BlockWeights,
  prefix: string,
  tensors: ReadonlyMap<string, QuantizedTensor>,
): Promise<Map<string, Float32Array>> {
  const changed = new Map<string, Float32Array>()
  for (const name of weights.changed) {
    const module = name.endsWith(".weight") ? name.slice(0, -".weight".length) : null
    if (module !== null && tensors.has(prefix + module)) continue
    const values = weights.isLinear(module) ? await weights.linear(module!) : await weights.vector(name)
    if (values) changed.set(prefix + name, values)
  }
  return changed
}
