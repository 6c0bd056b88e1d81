// Statistics of the Kullback-Leibler divergence over the scored positions of a text.

import { moments } from "../engine/perplexity.ts"
import { divergenceColumns } from "../engine/window-scorer.ts"

/** Of KL(reference || model) over the whole vocabulary, in nats per token. */
export interface Divergence {
  klMean: number
  /** Standard error of the mean, taking tokens as independent. */
  klStdError: number
  klMedian: number
  klP99: number
  klMax: number
  /** Share of positions where both models find the same token most likely. */
  topAgreement: number
}

/** From rows [positions, 4] of WindowScorer.divergence. */
export function summarizeDivergence(scores: readonly Float64Array[]): Divergence {
  const { mean, stdError, count } = moments(scores, divergenceColumns, 0)
  const sorted = new Float64Array(count)
  let next = 0
  for (const chunk of scores) for (let i = 0; i < chunk.length; i += divergenceColumns) sorted[next++] = chunk[i]!
  sorted.sort()
  return {
    klMean: mean,
    klStdError: stdError,
    klMedian: quantile(sorted, 0.5),
    klP99: quantile(sorted, 0.99),
    klMax: sorted.at(-1)!,
    topAgreement: moments(scores, divergenceColumns, 3).mean,
  }
}

/** Linear interpolation between the two nearest order statistics. */
export function quantile(sorted: Float64Array, share: number): number {
  const position = share * (sorted.length - 1)
  const below = Math.floor(position)
  const above = Math.min(below + 1, sorted.length - 1)
  return sorted[below]! + (sorted[above]! - sorted[below]!) * (position - below)
}
