import t from "tap"
import { native } from "../../../lib/native.ts"
import { hqq } from "../../../lib/rounding/hqq.ts"
import { nearest } from "../../../lib/rounding/nearest.ts"
import { randomWeight, roundingInput, scheme, weightedError } from "./support.ts"

const n = 70
const k = 100
const weight = randomWeight(n, k, 15)

t.test("never a larger sum of |error|^0.7 than nearest codes, mostly a smaller one", async t => {
  for (const bits of [8, 4, 3, 2] as const)
    for (const symmetric of [true, false])
      for (const change of [
        { groupSize: 64 },
        { groupSize: 9 },
        { groupSize: k, granularity: "channel" },
        { groupSize: k, granularity: "tensor" },
      ] as const) {
        const form = scheme({ bits, symmetric, ...change, scaleType: "f16" })
        const what = JSON.stringify(form)
        const plain = await nearest.round(roundingInput(weight, n, k, { scheme: form }))
        const { tensor, report } = await hqq.round(roundingInput(weight, n, k, { scheme: form }))
        const error = weightedError(weight, tensor, null, 0.7)
        t.ok(error <= weightedError(weight, plain.tensor, null, 0.7) * (1 + 1e-5), what)
        if (bits < 4 && change.groupSize > 9)
          t.ok(error < 0.99 * weightedError(weight, plain.tensor, null, 0.7), `${what}: clearly smaller`)
        t.equal(report.rounding, "hqq")
        t.ok(Math.abs(report.error / (weightedError(weight, tensor, null, 2) / (n * k)) - 1) < 1e-4, what)
        t.ok(
          tensor.codes.every(code => code < 2 ** bits),
          what,
        )
      }
})

t.test("does not depend on the size of weights, nor on threads", async t => {
  const threads = native.threads()
  t.teardown(() => native.setThreads(threads))
  const round = (values: Float32Array) =>
    hqq.round(roundingInput(values, n, k, { scheme: scheme({ symmetric: false, bits: 3 }) }))
  const small = randomWeight(n, k, 15).map(value => value * 2 ** -20)
  const shared = new Float32Array(new SharedArrayBuffer(small.byteLength))
  shared.set(small)
  native.setThreads(1)
  const one = await round(weight)
  native.setThreads(3)
  t.same((await round(weight)).tensor.scales, one.tensor.scales)
  t.same((await round(shared)).tensor.codes, one.tensor.codes)
})

t.test("zeros, minZero and NaN", async t => {
  const zeros = new Float32Array(new SharedArrayBuffer(4 * n * k))
  const asymmetric = scheme({ symmetric: false, bits: 2 })
  const { tensor } = await hqq.round(roundingInput(zeros, n, k, { scheme: asymmetric, minZero: 1 }))
  t.ok(tensor.scales.every(scale => scale === 1))
  const some = await hqq.round(roundingInput(weight, n, k, { scheme: asymmetric, minZero: 1 }))
  t.ok(some.tensor.zeros!.every(zero => zero >= 1 && zero <= 3))
  zeros[5] = Number.NaN
  await t.rejects(hqq.round(roundingInput(zeros, n, k)), { code: "ERR_NUMERIC", message: /weight\[0, 5\] is NaN/ })
  await t.rejects(hqq.round(roundingInput(weight, n, k, { signal: AbortSignal.abort() })), { code: "ERR_ABORTED" })
})
