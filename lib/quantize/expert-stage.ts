// The experts' linears of one stage: statistics of every expert on the rows that reached it, a few experts at a time.
import { throwIfAborted } from "../core/errors.ts"
import type { LongWork } from "../core/progress.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { prepack } from "../kernels/packed-weight.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { BoundSection } from "../models/runner.ts"
import { roundingByName } from "../rounding/registry.ts"
import type { InputStatistics } from "../rounding/rounding.ts"
import type { CalibrationRun } from "./calibration-run.ts"
import { expertsAtOnce } from "./estimate.ts"
import { expertFloor } from "./expert-coverage.ts"
import type { Stage } from "./linears.ts"
import type { Recipe } from "./recipe.ts"

export interface ExpertStageInput extends LongWork {
  run: CalibrationRun
  /** The block as it runs. */
  bound: BoundSection
  stage: Stage
  experts: NonNullable<Stage["experts"]>
  /** Those of the stage that are wanted. */
  modules: readonly string[]
  /** Where rounding aims at the outputs of the unquantized model: its block. */
  original: BoundSection | null
  recipe: Pick<Recipe, "expertFloor">
}

/** An expert's linears of the stage, its tokens in calibration, and what is known of their inputs: nothing below expertFloor(). */
export interface SeenExpert {
  modules: readonly string[]
  tokens: number
  statistics: InputStatistics | undefined
}

/**
 * Visits the experts of a stage, those first that fewer than expertFloor() tokens reach: second moments of a handful of rows describe those
 * rows and no others. What enters an expert does not depend on how the others of this stage are rounded, so going through the calibration set
 * for some of them at a time gives what all at once would.
 * Tokens go where `bound` sends them; what the unquantized model has as the input of an expert for the same tokens is compared,
 * wherever that model would have sent them. Second moments are summed on the CPU.
 */
export async function visitExperts(
  input: ExpertStageInput,
  visit: (expert: SeenExpert) => Promise<void>,
): Promise<void> {
  const { run, bound, stage, experts, recipe, original, signal } = input
  const wanted = new Set(input.modules)
  const tokens = await countTokens(input)
  const all = [...experts.modules].flatMap(([expert, names]) => {
    const modules = names.filter(name => wanted.has(name))
    return modules.length > 0 ? [{ expert, modules, tokens: tokens[expert]! }] : []
  })
  const isSeen = (entry: { tokens: number }) => entry.tokens >= expertFloor(recipe, stage.k)
  for (const entry of all) if (!isSeen(entry)) await visit({ ...entry, statistics: undefined })
  const seen = all.filter(isSeen)
  const atOnce = expertsAtOnce(stage.k, original !== null)
  for (let first = 0; first < seen.length; first += atOnce) {
    const chunk = seen.slice(first, first + atOnce).map(entry => ({
      ...entry,
      hessian: new Accumulator("hessian", stage.k),
      cross: original && new Accumulator("cross", stage.k),
    }))
    try {
      const { op, slot } = stage
      const watched = chunk.flatMap(({ expert, hessian, cross }) =>
        [hessian, ...(cross ? [cross] : [])].map(accumulator => ({
          ...{ op, slot, routes: experts.routes, expert, accumulator },
        })),
      )
      await run.watch(bound, watched, signal, original ?? undefined)
      for (const { hessian, cross, ...entry } of chunk) {
        const [meanSquare, rows] = [hessian.meanSquare(), hessian.rows]
        const statistics = { hessian: hessian.handle, meanSquare, rows, cross: cross?.handle }
        await visit({ ...entry, statistics })
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
}

/** Rounds the experts' linears and returns the section with the results in their places. */
export async function quantizeExperts(
  input: ExpertStageInput,
  round: (module: string, statistics: InputStatistics | undefined, tokens: number) => Promise<QuantizedTensor>,
): Promise<BoundSection> {
  const { run, signal } = input
  let { bound } = input
  await visitExperts(input, async ({ modules, statistics, tokens }) => {
    for (const module of modules) {
      throwIfAborted(signal)
      bound = run.own(bound.set(module, run.own(await prepack(await round(module, statistics, tokens)))))
    }
  })
  return bound
}

/** What rounds a weight about whose inputs nothing is known. */
export const withoutStatistics = (name: Recipe["rounding"]): Recipe["rounding"] =>
  roundingByName(name).calibration === "none" ? name : "mse"

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
