import t from "tap"
import type { GptqOptions, RoundedArrays } from "../../../lib/native.ts"
import { native } from "../../../lib/native.ts"
import { accumulatorOf, bytes, floats, grid, ints, random, randomFloats, refused, test } from "./helpers.ts"

const [n, k, groupSize] = [6, 64, 32] as const
const groups = k / groupSize
const w = randomFloats(n * k, random(41))
const x = randomFloats(200 * k, random(42))

const arrays = (symmetric: boolean): RoundedArrays => ({
  codes: bytes(new Uint8Array(n * k)),
  scales: floats(new Float32Array(n * groups)),
  zeros: symmetric ? null : bytes(new Uint8Array(n * groups)),
})

async function dequantized(out: RoundedArrays, groupIndex: Int32Array | null = null): Promise<Float32Array> {
  const values = floats(new Float32Array(n * k))
  await native.dequantize(out.codes, out.scales, out.zeros, null, null, n, k, 4, groupSize, groupIndex, null, values)
  return values
}

const gptqOptions = (options: Partial<GptqOptions> = {}): GptqOptions => ({
  grid: grid({ groupSize }),
  search: null,
  clip: null,
  damp: 0.01,
  dampStep: 0.01,
  block: 32,
  order: 1,
  ...options,
})

t.test("nearest codes are within half a step", async t => {
  for (const symmetric of [true, false]) {
    const out = arrays(symmetric)
    await native.roundNearest(w, n, k, grid({ groupSize, symmetric }), null, null, out, null)
    const values = await dequantized(out)
    t.ok(out.codes.every(code => code < 16))
    t.ok(
      values.every((value, i) => {
        const scale = out.scales[Math.floor(i / groupSize)]!
        return Math.abs(value - w[i]!) <= 1.01 * scale
      }),
    )
    const searched = arrays(symmetric)
    const search = { steps: 50, maxShrink: 0.8, norm: 2, importance: floats(new Float32Array(k).fill(1)) }
    await native.roundNearest(w, n, k, grid({ groupSize, symmetric }), search, null, searched, null)
    const error = (approximation: Float32Array) =>
      approximation.reduce((sum, value, i) => sum + (value - w[i]!) ** 2, 0)
    t.ok(error(await dequantized(searched)) <= error(values) * 1.0001, "the search never makes it worse")
  }
})

t.test("one scale for the whole tensor", async t => {
  const out = { codes: bytes(new Uint8Array(n * k)), scales: floats(new Float32Array(n)), zeros: null }
  await native.roundNearest(w, n, k, grid({ groupSize: k, perTensor: true }), null, null, out, null)
  t.ok(out.scales[0]! > 0)
  t.ok(out.scales.every(scale => scale === out.scales[0]))
})

test("packRounded is rounding, dequantizing and packing", async t => {
  const columnScale = floats(Array.from({ length: k }, (_, j) => 0.5 + (j % 5)))
  const scaled = floats(w.map((value, i) => value * columnScale[i % k]!))
  const out = arrays(false)
  await native.roundNearest(scaled, n, k, grid({ groupSize, symmetric: false }), null, null, out, null)
  const values = (await dequantized(out)).map((value, i) => value / columnScale[i % k]!)
  const expected = native.packDenseSync(floats(values), 0, n, k, 0)
  const packed = await native.packRounded(w, n, k, grid({ groupSize, symmetric: false }), columnScale, null)
  const [y1, y2] = [new Float32Array(2 * n), new Float32Array(2 * n)]
  native.matmul(expected, x, 0, 2, y1, 0, null, 0)
  native.matmul(packed, x, 0, 2, y2, 0, null, 0)
  t.same(y2, y1)
  native.release(expected)
  native.release(packed)
  for (const bad of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
    columnScale[3] = bad
    await refused(
      t,
      () => native.packRounded(w, n, k, grid({ groupSize }), columnScale, null),
      "ERR_NUMERIC",
      /columnScale\[3\]/,
    )
  }
})

test("GPTQ beats nearest on its own objective, and layerError says so", async t => {
  const hessian = await accumulatorOf(0, x, k)
  t.equal(native.accumulatorRows(hessian), 200)
  for (const order of [0, 1, 2, 3] as const) {
    const out = arrays(true)
    const groupIndex = order === 3 ? ints(new Int32Array(k)) : null
    const report = await native.gptq(w, n, k, hessian, gptqOptions({ order }), out, groupIndex, null)
    t.ok(report.error <= report.nearestError * 1.0001, `order ${order}: ${report.error} against ${report.nearestError}`)
    t.equal(report.deadColumns, 0)
    t.type(report.note, "string")
    t.type(report.degraded, "boolean")
    const error = await native.layerError(w, await dequantized(out, groupIndex), n, k, hessian)
    t.ok(Math.abs(error - report.error) <= 1e-3 * report.error, `layerError ${error}, reported ${report.error}`)
  }
  t.equal(await native.layerError(w, w, n, k, hessian), 0)
  const clip = floats(new Float32Array(n * groups))
  await native.searchClip(w, n, k, hessian, grid({ groupSize }), 20, 0.5, clip, null)
  t.ok(
    clip.every(
      (value, i) => value > 0 && value <= Math.max(...w.subarray(i * groupSize, (i + 1) * groupSize).map(Math.abs)),
    ),
  )
  native.release(hessian)
})

test("several calls share one Hessian", async t => {
  const hessian = await accumulatorOf(0, x, k)
  const outs = Array.from({ length: 6 }, () => arrays(true))
  const reports = await Promise.all(outs.map(out => native.gptq(w, n, k, hessian, gptqOptions(), out, null, null)))
  for (const out of outs) t.same(out.codes, outs[0]!.codes)
  t.equal(new Set(reports.map(report => report.error)).size, 1)
  native.release(hessian)
})

test("a raised flag stops long work", async t => {
  const hessian = await accumulatorOf(0, x, k)
  const abort = ints([1])
  await refused(t, () => native.gptq(w, n, k, hessian, gptqOptions(), arrays(true), null, abort), "ERR_ABORTED", /./)
  await refused(
    t,
    () => native.roundNearest(w, n, k, grid({ groupSize }), null, null, arrays(true), abort),
    "ERR_ABORTED",
    /./,
  )
  native.release(hessian)
})

test("bad arguments", async t => {
  const out = arrays(true)
  const round = (options: object, ...rest: unknown[]) =>
    (native.roundNearest as (...args: unknown[]) => Promise<void>)(
      w,
      n,
      k,
      { ...grid({ groupSize }), ...options },
      ...rest,
    )
  await refused(t, () => round({ bits: 9 }, null, null, out, null), "ERR_OPTION", /grid\.bits is 9/)
  await refused(t, () => round({ groupSize: k + 1 }, null, null, out, null), "ERR_OPTION", /grid\.groupSize is 65/)
  await refused(t, () => round({ perTensor: true }, null, null, out, null), "ERR_OPTION", /perTensor needs/)
  await refused(t, () => round({ symmetric: false }, null, null, out, null), "ERR_DTYPE", /out\.zeros is null/)
  await refused(
    t,
    () => round({ groupSize: 8 }, null, null, out, null),
    "ERR_SHAPE",
    /out\.scales has 12 elements, expected at least 48/,
  )
  await refused(t, () => round({}, { steps: 0 }, null, out, null), "ERR_OPTION", /search\.steps is 0/)
  await refused(
    t,
    () => round({}, null, floats([1]), out, null),
    "ERR_SHAPE",
    /clip has 1 elements, expected at least 12/,
  )
  await refused(t, () => round({}, null, null, null, null), "ERR_OPTION", /out is null, expected an object/)
  await refused(t, () => round({}, null, null, out, new Int32Array(1)), "ERR_OPTION", /abort flag lies on an ordinary/)
  const hessian = native.createAccumulator(0, k, 0, 0)
  const sums = native.createAccumulator(1, k, 0, 0)
  await refused(t, () => native.gptq(w, n, k, hessian, gptqOptions(), out, null, null), "ERR_NUMERIC", /seen no rows/)
  await refused(t, () => native.layerError(w, w, n, k, hessian), "ERR_NUMERIC", /seen no rows/)
  await refused(t, () => native.gptq(w, n, k, sums, gptqOptions(), out, null, null), "ERR_OPTION", /another kind/)
  await refused(t, () => native.layerError(w, w, 2 * n, k / 2, hessian), "ERR_SHAPE", /of 64 columns, expected k = 32/)
  await refused(
    t,
    () => native.gptq(w, n, k, hessian, gptqOptions({ order: 3 }), out, null, null),
    "ERR_OPTION",
    /needs groupIndex/,
  )
  await refused(
    t,
    () => native.gptq(w, n, k, hessian, gptqOptions({ damp: Number.NaN }), out, null, null),
    "ERR_OPTION",
    /damp is NaN/,
  )
  native.release(hessian)
  native.release(sums)
})
