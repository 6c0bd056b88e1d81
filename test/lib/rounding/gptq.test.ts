import t from "tap"
import { native } from "../../../lib/native.ts"
import { gptq } from "../../../lib/rounding/gptq.ts"
import { roundingByName, roundingNames } from "../../../lib/rounding/registry.ts"
import type { RoundingOptions } from "../../../lib/rounding/rounding.ts"
import { outputError, randomInputs, randomWeight, roundingInput, scheme, statisticsOf } from "./support.ts"

const n = 32
const k = 128
const weight = randomWeight(n, k, 5)
const x = randomInputs(500, k, 6)

t.test("reports the objective that it lowers", async t => {
  const statistics = await statisticsOf(t, x, k)
  for (const bits of [4, 3, 2] as const)
    for (const symmetric of [true, false])
      for (const order of ["static", "group-aware", "none", "dynamic"] as const) {
        const { tensor, report } = await gptq.round(
          roundingInput(weight, n, k, { statistics, scheme: scheme({ bits, symmetric }), options: { order } }),
        )
        const what = `${bits} bits ${symmetric ? "symmetric" : "asymmetric"} ${order}`
        const error = outputError(x, weight, tensor)
        t.ok(Math.abs(report.error / error - 1) < 1e-3, `${what}: reported ${report.error}, float64 ${error}`)
        t.ok(report.error <= report.nearestError!, what)
        t.ok(report.error < 0.8 * report.nearestError!, `${what}: clearly better on correlated inputs`)
        t.equal(report.rounding, "gptq")
        t.equal(report.damp, 0.01)
        t.equal(report.degraded, false)
        t.equal(report.keptNearest, false)
        t.equal(report.deadColumns, 0)
        t.equal(tensor.groupIndex !== null, order === "dynamic", what)
      }
})

t.test("a group index assigns every group its columns", async t => {
  const statistics = await statisticsOf(t, x, k)
  const ragged = scheme({ groupSize: 48 })
  const { tensor } = await gptq.round(
    roundingInput(weight, n, k, { statistics, scheme: ragged, options: { order: "dynamic" } }),
  )
  const counts = [0, 0, 0]
  for (const group of tensor.groupIndex!) counts[group]!++
  t.same(counts, [48, 48, 32])
  const channel = scheme({ granularity: "channel", groupSize: k })
  const whole = await gptq.round(
    roundingInput(weight, n, k, { statistics, scheme: channel, options: { order: "dynamic" } }),
  )
  t.equal(whole.tensor.groupIndex, null, "one group needs none")
})

t.test("the same bytes for any number of threads", async t => {
  const threads = native.threads()
  t.teardown(() => native.setThreads(threads))
  const results = []
  for (const count of [1, 2, 5]) {
    native.setThreads(count)
    const statistics = await statisticsOf(t, x, k)
    const { tensor, report } = await gptq.round(roundingInput(weight, n, k, { statistics }))
    results.push({ codes: tensor.codes, scales: tensor.scales, error: report.error })
  }
  t.same(results[1], results[0])
  t.same(results[2], results[0])
})

t.test("degenerate inputs never abort it", async t => {
  const rankOne = new Float32Array(new SharedArrayBuffer(4 * k)).map((_, j) => Math.cos(j))
  const shared = (values: Float32Array) => {
    const array = new Float32Array(new SharedArrayBuffer(values.byteLength))
    array.set(values)
    return array
  }
  const zero = shared(new Float32Array(10 * k))
  const deadColumn = shared(x.slice(0, 20 * k).map((value, i) => (i % k === 3 ? 0 : value)))
  for (const [what, rows, dead] of [
    ["rank one", shared(rankOne), 0],
    ["zero", zero, k],
    ["a dead column", deadColumn, 1],
  ] as const) {
    const { tensor, report } = await gptq.round(
      roundingInput(weight, n, k, { statistics: await statisticsOf(t, rows, k) }),
    )
    t.equal(report.deadColumns, dead, what)
    t.ok(tensor.scales.every(Number.isFinite), what)
    t.ok(report.error <= report.nearestError! || report.nearestError === 0, what)
  }
})

t.test("refuses", async t => {
  await t.rejects(gptq.round(roundingInput(weight, n, k)), {
    code: "ERR_OPTION",
    message: /rounding "gptq" needs calibration/,
  })
  const statistics = await statisticsOf(t, x, k)
  const refuse = (options: object, message: string) =>
    t.rejects(gptq.round(roundingInput(weight, n, k, { statistics, options: options as RoundingOptions })), {
      code: "ERR_OPTION",
      message,
    })
  await refuse({ damp: 0 }, 'option "damp" is 0, expected a number above 0 and at most 1')
  await refuse({ damp: Number.NaN }, 'option "damp" is NaN')
  await refuse({ block: 0 }, 'option "block" is 0, expected an integer of at least 1')
  await refuse(
    { order: "descending" },
    'option "order" is "descending", expected "none", "static", "group-aware" or "dynamic"',
  )
  await t.rejects(gptq.round(roundingInput(weight, n, k, { statistics, signal: AbortSignal.abort() })), {
    code: "ERR_ABORTED",
  })
})

t.test("roundings by name", async t => {
  t.same(roundingNames, ["nearest", "mse", "gptq", "hqq", "auto-round", "lsq", "qronos"])
  for (const name of roundingNames) t.equal(roundingByName(name).name, name)
  t.throws(() => roundingByName("gtpq"), {
    code: "ERR_OPTION",
    message: /rounding is "gtpq", expected .*; did you mean "gptq"\?/,
  })
  t.throws(() => roundingByName(undefined as never), { code: "ERR_OPTION", message: /rounding is undefined/ })
})
