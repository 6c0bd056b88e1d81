// Statistics of how far a model is from a reference over the scored positions of a text: those of llama.cpp's perplexity tool
// (tools/perplexity/perplexity.cpp, kl_divergence), from values that are not rounded to 16 bits on the way.

import { moments } from "../engine/perplexity.ts"
import { divergenceColumns } from "../engine/window-scorer.ts"

/** Order statistics of the scored positions: shares of them that lie below. */
export const percentileShares = {
  ...{ max: 1, p999: 0.999, p99: 0.99, p95: 0.95, p90: 0.9, p75: 0.75, median: 0.5 },
  ...{ p25: 0.25, p10: 0.1, p5: 0.05, p1: 0.01, p01: 0.001, min: 0 },
}

/** p999 is the 99.9th percentile, p01 the 0.1th. */
export type Percentiles = Record<keyof typeof percentileShares, number>

/** Of KL(reference || model) over the whole vocabulary, in nats per token, and of what the models think of the text's tokens. */
export interface Divergence {
  klMean: number
  /** Standard error of the mean, taking tokens as independent; so are all others here. */
  klStdError: number
  klMedian: number
  klP99: number
  klMax: number
  klMin: number
  klPercentiles: Percentiles
  /** Share of positions where both models find the same token most likely. */
  topAgreement: number
  topAgreementStdError: number
  /** Of the reference's perplexity. */
  perplexityStdError: number
  /** perplexity / the reference's, and minus it. Errors are propagated with the correlation: most of what moves one moves the other. */
  perplexityRatio: number
  perplexityRatioStdError: number
  perplexityDifference: number
  perplexityDifferenceStdError: number
  /** ln perplexityRatio, and its error. */
  logPerplexityRatio: number
  logPerplexityRatioStdError: number
  /** Of both models' ln perplexity, -1 to 1; 1 where one of them does not vary. */
  logPerplexityCorrelation: number
  probabilityChange: ProbabilityChange
}

/** Of the text's own token: probability in the model minus that in the reference, -1 to 1. */
export interface ProbabilityChange {
  mean: number
  stdError: number
  rms: number
  rmsStdError: number
  percentiles: Percentiles
}

/** From rows [positions, 4] of WindowScorer.divergence. */
export function summarizeDivergence(scores: readonly Float64Array[]): Divergence {
  const kl = column(scores, 0)
  const { mean: klMean, stdError: klStdError, count } = moments([kl], 1, 0)
  const klPercentiles = percentiles(kl)
  const topAgreement = moments(scores, divergenceColumns, 3).mean
  return {
    klMean,
    klStdError,
    klMedian: klPercentiles.median,
    klP99: klPercentiles.p99,
    klMax: klPercentiles.max,
    klMin: klPercentiles.min,
    klPercentiles,
    topAgreement,
    topAgreementStdError: count > 1 ? Math.sqrt((topAgreement * (1 - topAgreement)) / (count - 1)) : 0,
    ...comparePerplexities(column(scores, 1), column(scores, 2)),
    probabilityChange: probabilityChange(scores),
  }
}

/** Gaussian propagation: of x - y, var = var x + var y - 2 cov; of exp x, sigma exp x. */
function comparePerplexities(own: Float64Array, reference: Float64Array) {
  const [x, y] = [moments([own], 1, 0), moments([reference], 1, 0)]
  const { count } = x
  const products = own.map((value, i) => (value - x.mean) * (reference[i]! - y.mean))
  const covariance = count > 1 ? moments([products], 1, 0).mean / (count - 1) : 0
  const logRatio = x.mean - y.mean
  // Rounding could make the variance of a difference of equal values negative.
  const logRatioError = Math.sqrt(Math.max(0, x.stdError ** 2 + y.stdError ** 2 - 2 * covariance))
  const [perplexity, base] = [Math.exp(x.mean), Math.exp(y.mean)]
  const [error, baseError] = [perplexity * x.stdError, base * y.stdError]
  return {
    perplexityStdError: baseError,
    perplexityRatio: Math.exp(logRatio),
    perplexityRatioStdError: Math.exp(logRatio) * logRatioError,
    perplexityDifference: perplexity - base,
    perplexityDifferenceStdError: Math.sqrt(
      Math.max(0, error ** 2 + baseError ** 2 - 2 * perplexity * base * covariance),
    ),
    logPerplexityRatio: logRatio,
    logPerplexityRatioStdError: logRatioError,
    logPerplexityCorrelation: x.stdError > 0 && y.stdError > 0 ? covariance / (x.stdError * y.stdError) : 1,
  }
}

function probabilityChange(scores: readonly Float64Array[]): ProbabilityChange {
  const [own, reference] = [column(scores, 1), column(scores, 2)]
  const changes = own.map((nll, i) => Math.exp(-nll) - Math.exp(-reference[i]!))
  const { mean, stdError } = moments([changes], 1, 0)
  const squares = moments([changes.map(change => change ** 2)], 1, 0)
  const rms = Math.sqrt(squares.mean)
  return {
    mean,
    stdError,
    rms,
    rmsStdError: rms > 0 ? squares.stdError / (2 * rms) : 0,
    percentiles: percentiles(changes),
  }
}

function column(scores: readonly Float64Array[], index: number): Float64Array {
  const values = new Float64Array(scores.reduce((sum, chunk) => sum + chunk.length, 0) / divergenceColumns)
  let next = 0
  for (const chunk of scores) for (let i = index; i < chunk.length; i += divergenceColumns) values[next++] = chunk[i]!
  return values
}

/** Sorts the values. */
function percentiles(values: Float64Array): Percentiles {
  values.sort()
  const found = Object.entries(percentileShares).map(([name, share]) => [name, quantile(values, share)])
  return Object.fromEntries(found) as Percentiles
}

/** Linear interpolation between the two nearest order statistics. */
export function quantile(sorted: Float64Array, share: number): number {
  const position = share * (sorted.length - 1)
  const below = Math.floor(position)
  const above = Math.min(below + 1, sorted.length - 1)
  return sorted[below]! + (sorted[above]! - sorted[below]!) * (position - below)
}
