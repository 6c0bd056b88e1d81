// Medians, spreads, means of ratios.
import t from "tap"
import { geometricMean, median, scaled, summarize } from "../../../lib/bench/statistics.ts"

t.test("summaries", async t => {
  t.strictSame(summarize([3, 1, 2]), { median: 2, min: 1, max: 3, count: 3 })
  t.strictSame(summarize([4, 1, 10, 2]), { median: 3, min: 1, max: 10, count: 4 })
  t.strictSame(summarize([7]), { median: 7, min: 7, max: 7, count: 1 })
  const values = [10, 9, 100]
  t.equal(median(values), 10)
  t.strictSame(values, [10, 9, 100], "the values keep their order")
  t.equal(median([1e-9, 5e-9]), 3e-9)
  t.strictSame(scaled(summarize([1, 2, 4]), 10), { median: 20, min: 10, max: 40, count: 3 })
})

t.test("geometric means", async t => {
  t.ok(Math.abs(geometricMean([2, 8]) - 4) < 1e-12)
  t.ok(Math.abs(geometricMean([0.5, 2, 1]) - 1) < 1e-12)
})

t.test("nothing has no median", async t => {
  for (const call of [summarize, median, geometricMean]) t.throws(() => call([]), { code: "ERR_OPTION" })
})
