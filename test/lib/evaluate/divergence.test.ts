import t from "tap"
import { quantile, summarizeDivergence } from "../../../lib/evaluate/divergence.ts"

t.test("statistics over chunks", async t => {
  // Rows of KL, nll, reference nll, agreement.
  const scores = [Float64Array.of(3, 0, 0, 1, 1, 0, 0, 0), Float64Array.of(2, 0, 0, 1, 4, 0, 0, 1, 10, 0, 0, 0)]
  const found = summarizeDivergence(scores)
  t.match(found, { klMean: 4, klMedian: 3, klMax: 10, topAgreement: 0.6 })
  t.ok(Math.abs(found.klStdError - Math.sqrt((1 + 9 + 4 + 0 + 36) / 4 / 5)) < 1e-12)
  t.ok(Math.abs(found.klP99 - (4 + 6 * 0.96)) < 1e-12)
})

t.test("quantiles", async t => {
  const sorted = Float64Array.of(1, 2, 4)
  t.same(
    [0, 0.25, 0.5, 0.75, 1].map(share => quantile(sorted, share)),
    [1, 1.5, 2, 3, 4],
  )
  t.equal(quantile(Float64Array.of(7), 0.99), 7)
})
