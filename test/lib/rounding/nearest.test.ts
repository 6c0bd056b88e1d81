import t from "tap"
import type { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import { nearest } from "../../../lib/rounding/nearest.ts"
import { weightOf } from "../kernels/support.ts"
import { outputError, randomInputs, randomWeight, roundingInput, scheme, statisticsOf } from "./support.ts"

const n = 24
const k = 100
const weight = randomWeight(n, k, 1)

/** Scales and codes by the textbook formulas; a code may differ by one where w / scale lies half way between two. */
function plainError(w: Float32Array, q: QuantizedTensor): string | null {
  const { bits, symmetric, granularity, groupSize } = q.scheme
  const maxCode = 2 ** bits - 1
  for (let row = 0; row < n; row++)
    for (let group = 0; group < q.groups; group++) {
      const columns = w.subarray(row * k + group * groupSize, row * k + Math.min(k, (group + 1) * groupSize))
      const range = granularity === "tensor" ? w : columns
      const low = range.reduce((least, value) => Math.min(least, value), 0)
      const high = range.reduce((most, value) => Math.max(most, value), 0)
      const scale = symmetric ? (2 * Math.max(-low, high)) / maxCode : (high - low) / maxCode
      const zero = symmetric ? 2 ** (bits - 1) : Math.round(-low / scale)
      const index = row * q.groups + group
      if (Math.abs(q.scales[index]! / scale - 1) > 1e-6) return `scale ${index}: ${q.scales[index]}, formula ${scale}`
      if (q.zeros && q.zeros[index] !== zero) return `zero ${index}: ${q.zeros[index]}, formula ${zero}`
      for (const [j, value] of columns.entries()) {
        const exact = Math.min(Math.max(value / scale + zero, 0), maxCode)
        const code = q.codes[row * k + group * groupSize + j]!
        if (Math.abs(code - exact) > 0.5 + 1e-4) return `code of ${value}: ${code}, formula ${exact}`
      }
    }
  return null
}

t.test("is the plain formula", async t => {
  for (const bits of [8, 6, 5, 4, 3, 2] as const)
    for (const symmetric of [true, false])
      for (const [granularity, groupSize] of [
        ["group", 32],
        ["group", 7],
        ["channel", k],
        ["tensor", k],
      ] as const) {
        const { tensor } = await nearest.round(
          roundingInput(weight, n, k, { scheme: scheme({ bits, symmetric, granularity, groupSize }) }),
        )
        t.equal(
          plainError(weight, tensor),
          null,
          `${bits} bits ${symmetric ? "symmetric" : "asymmetric"} ${granularity} ${groupSize}`,
        )
        t.ok(tensor.codes.buffer instanceof SharedArrayBuffer)
        if (granularity === "tensor")
          t.ok(
            tensor.scales.every(scale => scale === tensor.scales[0]),
            "one scale for all",
          )
      }
})

t.test("scales are values of their type", async t => {
  const bits = new Uint32Array(1)
  const float = new Float32Array(bits.buffer)
  for (const [scaleType, dropped] of [
    ["bf16", 16],
    ["f16", 13],
  ] as const) {
    const { tensor } = await nearest.round(roundingInput(weight, n, k, { scheme: scheme({ scaleType }) }))
    t.ok(
      tensor.scales.every(scale => {
        float[0] = scale
        return (bits[0]! & (2 ** dropped - 1)) === 0
      }),
      scaleType,
    )
  }
})

t.test("minZero keeps zero points from 0", async t => {
  const positive = weight.map(Math.abs)
  const shared = new Float32Array(new SharedArrayBuffer(positive.byteLength))
  shared.set(positive)
  const asymmetric = { scheme: scheme({ symmetric: false }) }
  const plain = await nearest.round(roundingInput(shared, n, k, asymmetric))
  t.ok(plain.tensor.zeros!.every(zero => zero === 0))
  const shifted = await nearest.round(roundingInput(shared, n, k, { ...asymmetric, minZero: 1 }))
  t.ok(shifted.tensor.zeros!.every(zero => zero === 1))
  const symmetric = await nearest.round(roundingInput(shared, n, k, { minZero: 1 }))
  t.equal(symmetric.tensor.zeros, null)
})

t.test("clip limits the range", async t => {
  const groups = Math.ceil(k / 32)
  const clip = new Float32Array(new SharedArrayBuffer(4 * n * groups)).fill(0.03)
  const { tensor } = await nearest.round(roundingInput(weight, n, k, { clip }))
  t.ok(tensor.scales.every(scale => scale <= 0.06 / 15 + 1e-7))
})

t.test("reports the weight's error, or the output's where there are statistics", async t => {
  const { tensor, report } = await nearest.round(roundingInput(weight, n, k))
  const approx = weightOf(tensor)
  const mean = approx.reduce((sum, value, i) => sum + (value - weight[i]!) ** 2, 0) / (n * k)
  t.equal(report.rounding, "nearest")
  t.ok(Math.abs(report.error / mean - 1) < 1e-4, `${report.error} ${mean}`)
  const x = randomInputs(200, k, 2)
  const calibrated = await nearest.round(roundingInput(weight, n, k, { statistics: await statisticsOf(t, x, k) }))
  const expected = outputError(x, weight, tensor)
  t.ok(Math.abs(calibrated.report.error / expected - 1) < 1e-3, `${calibrated.report.error} ${expected}`)
  t.same(calibrated.tensor.codes, tensor.codes)
})

t.test("aborts", async t => {
  const reason = new Error("enough")
  const signal = AbortSignal.abort(reason)
  await t.rejects(nearest.round(roundingInput(weight, n, k, { signal })), {
    code: "ERR_ABORTED",
    name: "AbortError",
    cause: reason,
  })
})
