import t from "tap"
import { quantile, summarizeDivergence } from "../../../lib/evaluate/divergence.ts"

t.test("statistics over chunks", async t => {
  // Rows of KL, nll, reference nll, agreement.
  const scores = [Float64Array.of(3, 0, 0, 1, 1, 0, 0, 0), Float64Array.of(2, 0, 0, 1, 4, 0, 0, 1, 10, 0, 0, 0)]
  const found = summarizeDivergence(scores)
  t.match(found, { klMean: 4, klMedian: 3, klMax: 10, klMin: 1, topAgreement: 0.6 })
  t.ok(Math.abs(found.klStdError - Math.sqrt((1 + 9 + 4 + 0 + 36) / 4 / 5)) < 1e-12)
  t.ok(Math.abs(found.klP99 - (4 + 6 * 0.96)) < 1e-12)
  t.ok(Math.abs(found.topAgreementStdError - Math.sqrt((0.6 * 0.4) / 4)) < 1e-12)
  const { p999, p95, p90, p75, p25, p10, p5, p1, p01 } = found.klPercentiles
  const expected = [4 + 6 * 0.996, 4 + 6 * 0.8, 4 + 6 * 0.6, 4, 2, 1.4, 1.2, 1.04, 1.004]
  for (const [i, value] of [p999, p95, p90, p75, p25, p10, p5, p1, p01].entries())
    t.ok(Math.abs(value - expected[i]!) < 1e-12, `${value}`)
})

t.test("perplexities with propagated errors and changes of probability, by hand", async t => {
  const [own, reference] = [
    [0.5, 1.5, 1, 3],
    [0.4, 1.1, 1.2, 2.9],
  ]
  const rows = own.flatMap((nll, i) => [0, nll, reference[i]!, 1])
  const found = summarizeDivergence([Float64Array.from(rows)])
  const close = (value: number, expected: number, what: string) =>
    t.ok(Math.abs(value - expected) < 1e-12, `${what}: ${value} is ${expected}`)
  // Means 1.5 and 1.4; squared deviations 1 + 0 + 0.25 + 2.25 and 1 + 0.09 + 0.04 + 2.25; their products 1 + 0 + 0.1 + 2.25.
  const [varX, varY, cov] = [3.5 / 12, 3.38 / 12, 3.35 / 12]
  close(found.logPerplexityRatio, 0.1, "log ratio")
  close(found.logPerplexityRatioStdError, Math.sqrt(varX + varY - 2 * cov), "its error")
  // The same from the differences 0.1, 0.4, -0.2, 0.1 themselves.
  close(found.logPerplexityRatioStdError, Math.sqrt((0 + 0.09 + 0.09 + 0) / 12), "its error, from differences")
  close(found.logPerplexityCorrelation, cov / Math.sqrt(varX * varY), "correlation")
  close(found.perplexityRatio, Math.exp(0.1), "ratio")
  close(found.perplexityRatioStdError, Math.exp(0.1) * Math.sqrt(0.18 / 12), "its error")
  close(found.perplexityStdError, Math.exp(1.4) * Math.sqrt(varY), "error of the reference")
  close(found.perplexityDifference, Math.exp(1.5) - Math.exp(1.4), "difference")
  const [a, b] = [Math.exp(1.5), Math.exp(1.4)]
  close(found.perplexityDifferenceStdError, Math.sqrt(a * a * varX + b * b * varY - 2 * a * b * cov), "its error")

  const changes = own.map((nll, i) => Math.exp(-nll) - Math.exp(-reference[i]!))
  const mean = changes.reduce((sum, value) => sum + value) / 4
  const squares = changes.map(value => value * value)
  const meanSquare = squares.reduce((sum, value) => sum + value) / 4
  const errorOf = (values: number[], center: number) =>
    Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / 12)
  const { probabilityChange } = found
  close(probabilityChange.mean, mean, "mean change")
  close(probabilityChange.stdError, errorOf(changes, mean), "its error")
  close(probabilityChange.rms, Math.sqrt(meanSquare), "root of mean square")
  close(probabilityChange.rmsStdError, errorOf(squares, meanSquare) / (2 * Math.sqrt(meanSquare)), "its error")
  t.equal(probabilityChange.percentiles.max, Math.max(...changes))
  t.equal(probabilityChange.percentiles.min, Math.min(...changes))
})

t.test("equal models have no error of a difference", async t => {
  const found = summarizeDivergence([Float64Array.of(0, 0.1, 0.1, 1, 0, 2.3, 2.3, 1, 0, 0.7, 0.7, 1)])
  t.match(found, {
    perplexityRatio: 1,
    perplexityDifference: 0,
    topAgreementStdError: 0,
    probabilityChange: { mean: 0, stdError: 0, rms: 0, rmsStdError: 0 },
  })
  t.ok(found.logPerplexityRatioStdError < 1e-8)
  t.ok(Math.abs(found.logPerplexityCorrelation - 1) < 1e-12)
  // One position, or values that do not vary, have no error at all.
  t.match(summarizeDivergence([Float64Array.of(0.5, 1, 2, 0)]), {
    ...{ klMean: 0.5, klStdError: 0, topAgreement: 0, topAgreementStdError: 0, logPerplexityRatio: -1 },
    ...{ logPerplexityRatioStdError: 0, logPerplexityCorrelation: 1 },
  })
})

t.test("quantiles", async t => {
  const sorted = Float64Array.of(1, 2, 4)
  t.same(
    [0, 0.25, 0.5, 0.75, 1].map(share => quantile(sorted, share)),
    [1, 1.5, 2, 3, 4],
  )
  t.equal(quantile(Float64Array.of(7), 0.99), 7)
})
