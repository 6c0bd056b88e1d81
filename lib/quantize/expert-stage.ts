// The experts' linears of one stage: statistics of every expert on the rows that reached it, a few experts at a time.
import { throwIfAborted } from "../core/errors.ts"
import type { LongWork } from "../core/progress.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { prepack } from "../kernels/packed-weight.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { BoundSection } from "../models/runner.ts"
import type { InputStatistics } from "../rounding/rounding.ts"
import type { CalibrationRun } from "./calibration-run.ts"
import { expertsAtOnce } from "./estimate.ts"
import { expertFloor } from "./expert-coverage.ts"
import type { Stage } from "./linears.ts"
import type { Recipe } from "./recipe.ts"

export interface ExpertStageInput extends LongWork {
  run: CalibrationRun
  bound: BoundSection
  stage: Stage
  experts: NonNullable<Stage["experts"]>
  /** Those of the stage that are quantized. */
  modules: readonly string[]
  /** Where rounding aims at the outputs of the unquantized model: its block. */
  original: BoundSection | null
  recipe: Recipe
  round(module: string, statistics: InputStatistics | undefined, tokens: number): Promise<QuantizedTensor>
}

/**
 * Rounds them and returns the section with the results in their places. Experts that fewer than expertFloor() tokens reach are
 * rounded without statistics: second moments of a handful of rows describe those rows and no others. What enters an expert does not depend
 * on how the others of this stage are rounded, so going through the calibration set for some of them at a time gives what all at once would.
 * Tokens go where the quantized model sends them; what the unquantized model has as the input of an expert for the same tokens is compared,
 * wherever that model would have sent them. Second moments are summed on the CPU.
 */
export async function quantizeExperts(input: ExpertStageInput): Promise<BoundSection> {
  const { run, stage, experts, recipe, round, signal } = input
  const quantized = new Set(input.modules)
  const all = [...experts.modules.keys()].filter(expert =>
    experts.modules.get(expert)!.some(name => quantized.has(name)),
  )
  const tokens = await countTokens(input)
  let bound = input.bound
  const finish = async (expert: number, statistics: InputStatistics | undefined) => {
    for (const module of experts.modules.get(expert)!) {
      if (!quantized.has(module)) continue
      throwIfAborted(signal)
      const packed = run.own(await prepack(await round(module, statistics, tokens[expert]!)))
      bound = run.own(bound.set(module, packed))
    }
  }
  const seen = all.filter(expert => tokens[expert]! >= expertFloor(recipe, stage.k))
  for (const expert of all) if (!seen.includes(expert)) await finish(expert, undefined)
  const atOnce = expertsAtOnce(stage.k, input.original !== null)
  for (let first = 0; first < seen.length; first += atOnce) {
    const chunk = seen.slice(first, first + atOnce).map(expert => ({
      expert,
      hessian: new Accumulator("hessian", stage.k),
      cross: input.original && new Accumulator("cross", stage.k),
    }))
    try {
      const { op, slot } = stage
      const watched = chunk.flatMap(({ expert, hessian, cross }) =>
        [hessian, ...(cross ? [cross] : [])].map(accumulator => ({
          ...{ op, slot, routes: experts.routes, expert, accumulator },
        })),
      )
      await run.watch(bound, watched, signal, input.original ?? undefined)
      for (const { expert, hessian, cross } of chunk) {
        await finish(expert, {
          hessian: hessian.handle,
          meanSquare: hessian.meanSquare(),
          rows: hessian.rows,
          cross: cross?.handle,
        })
        hessian.dispose()
        cross?.dispose()
      }
    } finally {
      for (const { hessian, cross } of chunk) {
        hessian.dispose()
        cross?.dispose()
      }
    }
  }
  return bound
}

/** Tokens of the calibration set by expert. */
async function countTokens({ run, bound, stage, experts, signal }: ExpertStageInput): Promise<Float64Array> {
  const counts = new Accumulator("nonZero", run.runner.program.slots[experts.routes]!)
  try {
    await run.watch(bound, [{ op: stage.op, slot: experts.routes, accumulator: counts }], signal)
    return counts.read(counts.width)
  } finally {
    counts.dispose()
  }
}
