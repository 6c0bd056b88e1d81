// How much of the calibration reached the experts of a mixture.
import type { ModelProgram } from "../models/program.ts"
import type { RoundingReport } from "../rounding/rounding.ts"
import { linearsOf } from "./linears.ts"
import type { Recipe } from "./recipe.ts"

/**
 * Tokens that a linear of an expert needs for its second moments to be worth using. GPTQ from N rows against a search by weights alone, on
 * rows that neither has seen (docs/rounding.md): the error is 0.5 to 2 times as large for N = k / 2, 0.3 to 2 times for N = k, and smaller
 * nearly everywhere from N = 2 k on.
 */
export const expertFloor = (recipe: Pick<Recipe, "expertFloor">, k: number): number =>
  Math.max(1, recipe.expertFloor ?? Math.max(64, 2 * k))

export interface ExpertCoverage {
  /** "model.layers.3". */
  block: string
  count: number
  /** Tokens of calibration by expert. */
  min: number
  median: number
  max: number
  /** Experts with a linear that was rounded without statistics: fewer tokens than expertFloor(). */
  unseen: { expert: number; tokens: number }[]
}

/** By block, in order, of the experts that were quantized with calibration. */
export function expertCoverage(
  program: ModelProgram,
  recipe: Pick<Recipe, "expertFloor">,
  reports: ReadonlyMap<string, RoundingReport>,
): ExpertCoverage[] {
  return program.blocks.flatMap((_, layer) => {
    const prefix = program.blockPrefix(layer)
    const tokens = new Map<number, number>()
    const unseen = new Map<number, number>()
    for (const { module, expert, k } of linearsOf(program, layer)) {
      const seen = reports.get(prefix + module)?.tokens
      if (expert === undefined || seen === undefined) continue
      tokens.set(expert, seen)
      if (seen < expertFloor(recipe, k)) unseen.set(expert, seen)
    }
    if (tokens.size === 0) return []
    const sorted = [...tokens.values()].sort((a, b) => a - b)
    const middle = (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2
    return [
      {
        block: prefix.replace(/\.$/, ""),
        count: tokens.size,
        min: sorted[0]!,
        median: middle,
        max: sorted.at(-1)!,
        unseen: [...unseen].map(([expert, tokens]) => ({ expert, tokens })).sort((a, b) => a.expert - b.expert),
      },
    ]
  })
}

/** "3 (0), 7 (12) …": experts and their tokens. */
export const listed = (experts: ExpertCoverage["unseen"]): string =>
  experts
    .slice(0, 8)
    .map(({ expert, tokens }) => `${expert} (${tokens})`)
    .join(", ") + (experts.length > 8 ? " …" : "")
