// What is said of repeated measurements: the median, and how far they spread.
import { TsqError } from "../core/errors.ts"

export interface Summary {
  median: number
  min: number
  max: number
  /** Measurements it was made of. */
  count: number
}

/** ERR_OPTION for no values at all. */
export function summarize(values: readonly number[]): Summary {
  const sorted = Float64Array.from(values).sort()
  return { median: middle(sorted), min: sorted[0]!, max: sorted.at(-1)!, count: sorted.length }
}

export const median = (values: readonly number[]): number => middle(Float64Array.from(values).sort())

function middle(sorted: Float64Array): number {
  if (sorted.length === 0) throw new TsqError("ERR_OPTION", "statistics: no values, expected at least one")
  const half = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2
}

/** The mean of ratios: of positive values. */
export function geometricMean(values: readonly number[]): number {
  if (values.length === 0) throw new TsqError("ERR_OPTION", "statistics: no values, expected at least one")
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length)
}

/** The same figures in another unit: a positive factor keeps the order, `scale / value` (a rate) turns it round. */
export function scaled({ median, min, max, count }: Summary, factor: number): Summary {
  return { median: median * factor, min: min * factor, max: max * factor, count }
}
