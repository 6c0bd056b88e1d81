import { native } from "../../../lib/native.ts"
import { accumulatorOf, floats, random, randomFloats, refused, test } from "./helpers.ts"

const width = 5
const rows = 9
const x = randomFloats(rows * width, random(51))
const columns = Array.from({ length: width }, (_, j) => Array.from({ length: rows }, (_, i) => x[i * width + j]!))
const near = (a: number, b: number) => Math.abs(a - b) < 1e-5

test("each kind reduces its columns", async t => {
  for (const [kind, reduce] of [
    [0, (values: number[]) => values.reduce((sum, value) => sum + value * value, 0)],
    [1, (values: number[]) => values.reduce((sum, value) => sum + value * value, 0)],
    [2, (values: number[]) => Math.max(...values.map(Math.abs))],
    [5, (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length],
  ] as const) {
    const handle = await accumulatorOf(kind, x, width)
    t.equal(native.accumulatorRows(handle), rows)
    for (const out of [new Float32Array(width), new Float64Array(width)]) {
      native.readAccumulator(handle, out)
      t.ok(
        columns.every((values, j) => near(out[j]!, reduce(values))),
        `kind ${kind}`,
      )
    }
    t.ok(native.handleBytes(handle) >= width * 4)
    native.release(handle)
  }
})

test("feeding in parts is feeding at once", async t => {
  const whole = await accumulatorOf(1, x, width)
  const parts = await accumulatorOf(1, x.subarray(0, 2 * width), width)
  await native.accumulate(parts, x.subarray(2 * width), rows - 2)
  await native.accumulate(parts, x, 0)
  const [a, b] = [new Float32Array(width), new Float32Array(width)]
  native.readAccumulator(whole, a)
  native.readAccumulator(parts, b)
  t.ok(a.every((value, j) => near(value, b[j]!)))
  native.release(whole)
  native.release(parts)
})

test("a reservoir keeps rows", async t => {
  const handle = await accumulatorOf(6, x, width)
  const out = new Float32Array(4 * width)
  native.readAccumulator(handle, out)
  for (let i = 0; i < 4; ++i) {
    const row = Array.from(out.subarray(i * width, (i + 1) * width))
    t.ok(
      Array.from({ length: rows }, (_, j) => Array.from(x.subarray(j * width, (j + 1) * width))).some(
        candidate => candidate.join() === row.join(),
      ),
    )
  }
  native.release(handle)
})

test("an accumulator without rows reads as zeros", async t => {
  for (const kind of [0, 1, 2, 5] as const) {
    const handle = native.createAccumulator(kind, 3, 0, 0)
    const out = new Float32Array(3).fill(9)
    native.readAccumulator(handle, out)
    t.same(Array.from(out), [0, 0, 0])
    native.release(handle)
  }
})

test("calls at the same time add up", async t => {
  const handle = native.createAccumulator(0, width, 0, 0)
  await Promise.all(Array.from({ length: 50 }, () => native.accumulate(handle, x, rows)))
  t.equal(native.accumulatorRows(handle), 50 * rows)
  const out = new Float64Array(width)
  native.readAccumulator(handle, out)
  t.ok(
    columns.every((values, j) => Math.abs(out[j]! / 50 - values.reduce((sum, value) => sum + value * value, 0)) < 1e-4),
  )
  native.release(handle)
})

test("bad arguments", async t => {
  await refused(t, () => native.createAccumulator(10 as never, 4, 4, 0), "ERR_OPTION", /kind is 10/)
  await refused(t, () => native.createAccumulator(3, 4, 4, 0), "ERR_OPTION", /a copy .* needs no accumulator/)
  await refused(t, () => native.createAccumulator(1, 0, 4, 0), "ERR_OPTION", /width is 0/)
  await refused(t, () => native.createAccumulator(6, 4, 0, 0), "ERR_OPTION", /capacity/)
  await refused(t, () => native.createAccumulator(1, 2 ** 40, 0, 0), "ERR_SHAPE", /wide/)
  const handle = native.createAccumulator(1, width, 0, 0)
  const errors = native.createAccumulator(4, width, 0, 0)
  await refused(t, () => native.accumulate(handle, x, rows + 1), "ERR_SHAPE", /x has 45 elements, expected at least 50/)
  await refused(t, () => native.accumulate(handle, new Float32Array(5), 1), "ERR_OPTION", /ordinary ArrayBuffer/)
  await refused(t, () => native.accumulate(errors, x, rows), "ERR_OPTION", /reference/)
  await refused(
    t,
    () => native.readAccumulator(handle, floats([1])),
    "ERR_SHAPE",
    /out has 1 elements, expected at least 5/,
  )
  native.release(handle)
  native.release(errors)
})
