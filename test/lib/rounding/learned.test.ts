import t from "tap"
import { sharedFloats } from "../../../lib/core/shared-array.ts"
import { Accumulator } from "../../../lib/models/accumulator.ts"
import { native } from "../../../lib/native.ts"
import { roundingByName } from "../../../lib/rounding/registry.ts"
import type { RoundingInput } from "../../../lib/rounding/rounding.ts"
import { weightOf } from "../kernels/support.ts"
import { outputError, randomInputs, randomWeight, roundingInput, scheme, statisticsOf } from "./support.ts"

const n = 37
const k = 90
const weight = randomWeight(n, k, 5)
const x = randomInputs(400, k, 6)
const learned = ["auto-round", "lsq", "qronos"] as const
const round = (name: string, change: Partial<RoundingInput>) =>
  roundingByName(name as "gptq").round(roundingInput(weight, n, k, change))

const schemes = [
  scheme({ groupSize: 32 }),
  scheme({ groupSize: 7, bits: 3 }),
  scheme({ groupSize: 32, symmetric: false, bits: 2 }),
  scheme({ groupSize: 32, symmetric: false, scaleType: "f16" }),
  scheme({ granularity: "channel", groupSize: k, scaleType: "bf16" }),
  scheme({ granularity: "channel", groupSize: k, symmetric: false, bits: 3 }),
  scheme({ granularity: "tensor", groupSize: k }),
  scheme({ granularity: "tensor", groupSize: k, symmetric: false, bits: 8 }),
]

t.test("learned codes lie on the grid and are never worse than where they start", async t => {
  const statistics = await statisticsOf(t, x, k)
  for (const form of schemes) {
    const what = JSON.stringify(form)
    const options = { steps: 20 }
    const gptq = await round("gptq", { statistics, scheme: form })
    for (const name of learned) {
      const { tensor, report } = await round(name, { statistics, scheme: form, options })
      const error = outputError(x, weight, tensor)
      t.equal(report.rounding, name)
      t.ok(Math.abs(report.error / error - 1) < 1e-3, `${name} ${what}: reported ${report.error}, float64 ${error}`)
      if (name !== "lsq") t.ok(report.error <= gptq.report.error * (1 + 1e-6), `${name} ${what}: GPTQ's error or less`)
      else t.ok(report.error <= report.nearestError!, `lsq ${what}`)
      t.ok(
        tensor.codes.every(code => code < 2 ** form.bits),
        what,
      )
      t.ok(
        tensor.scales.every(scale => scale > 0 && Number.isFinite(scale)),
        what,
      )
      if (form.granularity === "tensor")
        t.ok(
          tensor.scales.every(scale => scale === tensor.scales[0]),
          "one scale for all",
        )
      if (form.scaleType === "bf16")
        t.ok(
          new Uint32Array(tensor.scales.slice().buffer).every(bits => (bits & 0xffff) === 0),
          "scales are as they will be stored",
        )
    }
  }
})

t.test("refining lowers GPTQ's error, also where groups are not neighbours", async t => {
  const statistics = await statisticsOf(t, x, k)
  for (const order of ["static", "group-aware", "none", "dynamic"] as const)
    for (const symmetric of [true, false]) {
      const form = scheme({ bits: 3, symmetric, groupSize: 20 })
      const plain = await round("gptq", { statistics, scheme: form, options: { order } })
      const refined = await round("gptq", { statistics, scheme: form, options: { order, refine: 20 } })
      t.ok(refined.report.error < plain.report.error, `${order}: ${refined.report.error} < ${plain.report.error}`)
      const error = outputError(x, weight, refined.tensor)
      t.ok(Math.abs(refined.report.error / error - 1) < 1e-3, order)
    }
})

t.test("the same bytes for any number of threads", async t => {
  const threads = native.threads()
  t.teardown(() => native.setThreads(threads))
  const rows = 300
  const tall = randomWeight(rows, k, 8)
  const results = []
  for (const count of [1, 2, 5]) {
    native.setThreads(count)
    const statistics = await statisticsOf(t, x, k)
    const input = roundingInput(tall, rows, k, { statistics, options: { steps: 10 }, scheme: scheme({ bits: 3 }) })
    const { tensor, report } = await roundingByName("auto-round").round(input)
    results.push({ codes: tensor.codes, scales: tensor.scales, error: report.error })
  }
  t.same(results[1], results[0])
  t.same(results[2], results[0])
})

t.test("degenerate inputs: zero, rank one, a dead column, NaN", async t => {
  const shared = (values: ArrayLike<number>) => {
    const array = sharedFloats(values.length)
    array.set(values)
    return array
  }
  const rankOne = shared(Float32Array.from({ length: k }, (_, j) => Math.cos(j)))
  const zero = sharedFloats(10 * k)
  const dead = shared(x.slice(0, 20 * k).map((value, i) => (i % k === 3 ? 0 : value)))
  const broken = shared(x.slice(0, 20 * k).map((value, i) => (i === 5 ? Number.NaN : value)))
  for (const [what, rows] of [
    ["rank one", rankOne],
    ["zero", zero],
    ["a dead column", dead],
  ] as const) {
    const statistics = await statisticsOf(t, rows, k)
    for (const name of learned) {
      const { tensor, report } = await round(name, { statistics, options: { steps: 5 } })
      t.ok(tensor.scales.every(Number.isFinite), `${name}, ${what}`)
      t.ok(report.error <= (report.nearestError ?? 0), `${name}, ${what}`)
    }
  }
  const statistics = await statisticsOf(t, broken, k)
  const cross = new Accumulator("cross", k)
  t.teardown(() => cross.dispose())
  await cross.add(broken, 20, x.subarray(0, 20 * k))
  for (const name of learned)
    for (const given of [statistics, { ...statistics, cross: cross.handle }]) {
      const { tensor, report } = await round(name, { statistics: given, options: { steps: 5 } })
      t.equal(report.degraded, true, `${name}: nearest codes where the Hessian is not finite`)
      t.match(report.note, /NaN or infinite/)
      t.ok(tensor.scales.every(Number.isFinite))
    }
  // Only the unquantized model overflowed: no correction, and it is said so.
  const sound = await statisticsOf(t, shared(x.slice(0, 20 * k)), k)
  const overflowed = new Accumulator("cross", k)
  t.teardown(() => overflowed.dispose())
  await overflowed.add(shared(x.slice(0, 20 * k)), 20, broken)
  for (const name of learned) {
    const options = { steps: 5 }
    const { tensor, report } = await round(name, { statistics: { ...sound, cross: overflowed.handle }, options })
    const plain = await round(name, { statistics: sound, options })
    t.match(report.note, /the outputs are not corrected/, name)
    t.same(tensor.codes, plain.tensor.codes)
  }
})

t.test("a corrected target gives the original outputs from other inputs", async t => {
  const drifted = sharedFloats(x.length)
  const noise = randomInputs(400, k, 9)
  for (let i = 0; i < x.length; i++) drifted[i] = 0.9 * x[i]! + 0.1 * noise[i]!
  const statistics = { ...(await statisticsOf(t, drifted, k)) }
  const cross = new Accumulator("cross", k)
  t.teardown(() => cross.dispose())
  await cross.add(drifted, 400, x)
  const plain = await round("gptq", { statistics, scheme: scheme({ bits: 4 }) })
  const aimed = await round("qronos", {
    statistics: { ...statistics, cross: cross.handle },
    scheme: scheme({ bits: 4 }),
  })
  const missed = (tensor: typeof plain.tensor) => {
    const approx = weightOf(tensor)
    let sum = 0
    for (let row = 0; row < 400; row++)
      for (let i = 0; i < n; i++) {
        let y = 0
        for (let j = 0; j < k; j++)
          y += x[row * k + j]! * weight[i * k + j]! - drifted[row * k + j]! * approx[i * k + j]!
        sum += y * y
      }
    return sum
  }
  t.ok(missed(aimed.tensor) < 0.9 * missed(plain.tensor), `${missed(aimed.tensor)} < ${missed(plain.tensor)}`)
})

t.test("a corrected target takes on the drift of the stream that its outputs are added to", async t => {
  const drifted = sharedFloats(x.length)
  const noise = randomInputs(400, k, 9)
  for (let i = 0; i < x.length; i++) drifted[i] = 0.9 * x[i]! + 0.1 * noise[i]!
  // What the stream is short of depends on the inputs, as errors of quantized layers do.
  const mix = randomWeight(n, k, 11)
  const drift = sharedFloats(400 * n)
  for (let row = 0; row < 400; row++)
    for (let i = 0; i < n; i++) {
      let sum = 0
      for (let j = 0; j < k; j++) sum += drifted[row * k + j]! * mix[i * k + j]!
      drift[row * n + i] = sum
    }
  const statistics = await statisticsOf(t, drifted, k)
  const cross = new Accumulator("cross", k)
  const residual = new Accumulator("cross", k, { capacity: n })
  t.teardown(() => [cross, residual].forEach(each => void each.dispose()))
  await cross.add(drifted, 400, x)
  await residual.add(drifted, 400, drift)
  const target = sharedFloats(n * k)
  const missed = () => {
    let sum = 0
    for (let row = 0; row < 400; row++)
      for (let i = 0; i < n; i++) {
        let y = drift[row * n + i]!
        for (let j = 0; j < k; j++)
          y += x[row * k + j]! * weight[i * k + j]! - drifted[row * k + j]! * target[i * k + j]!
        sum += y * y
      }
    return sum
  }
  const input = roundingInput(weight, n, k)
  const correct = (handle: typeof residual | null) =>
    native.correctTarget(
      ...([input.weight, n, k, statistics.hessian.value, cross.handle.value, handle?.handle.value ?? null] as const),
      ...([1e-6, target, null] as const),
    )
  await correct(null)
  const without = missed()
  await correct(residual)
  const least = missed()
  t.ok(least < 0.2 * without, `${least} < ${without}`)
  // The least there is: no step of any weight makes it less.
  for (const [i, step] of [
    [3, 1e-3],
    [7 * k + 5, -1e-3],
    [36 * k + 89, 1e-3],
  ] as const) {
    target[i]! += step
    t.ok(missed() > least * (1 - 1e-6), `moved at ${i}`)
    target[i]! -= step
  }
  await t.rejects(async () => correct(cross), {
    code: "ERR_OPTION",
    message: /residual is no accumulator .* 37 columns/,
  })
})

t.test("refuses", async t => {
  for (const name of learned)
    await t.rejects(round(name, {}), { code: "ERR_OPTION", message: `rounding "${name}" needs calibration` })
  const statistics = await statisticsOf(t, x, k)
  await t.rejects(round("auto-round", { statistics, signal: AbortSignal.abort() }), { code: "ERR_ABORTED" })
  const input = roundingInput(weight, n, k)
  const arrays = () => ({
    codes: new Uint8Array(new SharedArrayBuffer(n * k)),
    scales: sharedFloats(n * 3).fill(1),
    zeros: null,
  })
  const grid = { bits: 4, symmetric: true, groupSize: 32, perTensor: false, scaleType: 0 as const, minZero: 0 }
  const options = { grid, steps: 1, offsets: true, sweeps: 1, codes: true }
  const learn = (start: ReturnType<typeof arrays>, groupIndex: Int32Array | null = null) =>
    native.learnRounding(input.weight, n, k, statistics.hessian.value, options, [start], groupIndex, arrays(), null)
  const above = arrays()
  above.codes[7] = 16
  await t.rejects(learn(above), { message: /a start holds a code or zero point above 15/ })
  const still = arrays()
  still.scales[1] = 0
  await t.rejects(learn(still), { message: /scale that is not a positive finite number/ })
  await t.rejects(learn(arrays(), new Int32Array(k).fill(3)), { message: /groupIndex\[0\] is 3, expected 0 to 2/ })
})
