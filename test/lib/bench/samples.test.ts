// Random weights and activations, and the error of a result.
import t from "tap"
import {
  quantizedRow,
  randomActivations,
  randomWeight,
  relativeError,
  spread,
  toFloats,
} from "../../../lib/bench/samples.ts"
import { dequantize } from "../../../lib/kernels/dequantize.ts"

t.test("weights use all codes and have scales of f16", async t => {
  for (const bits of [2, 3, 4, 8] as const) {
    const q = randomWeight(64, 256, bits, 128, 7)
    t.equal(new Set(q.codes).size, 2 ** bits)
    t.ok(q.scales.every(scale => scale > 0))
    const weights = dequantize(q).data as Float32Array
    const row = new Float64Array(256)
    quantizedRow(q)(5, row)
    t.strictSame([...row].map(Math.fround), [...weights.subarray(5 * 256, 6 * 256)])
  }
  t.equal(randomWeight(4, 20, 4, 128, 1).scheme.groupSize, 20, "a group is no longer than a row")
  t.strictSame(randomWeight(8, 32, 4, 16, 3).codes, randomWeight(8, 32, 4, 16, 3).codes)
})

t.test("activations are normal, and exactly what their type holds", async t => {
  for (const dtype of ["f32", "f16", "bf16"] as const) {
    const x = randomActivations(40, 100, dtype, 3)
    t.equal(x.tensor.dtype, dtype)
    t.strictSame([...toFloats(x.tensor.data, dtype)], [...x.floats])
    const mean = x.floats.reduce((sum, value) => sum + value, 0) / x.floats.length
    const squares = x.floats.reduce((sum, value) => sum + value * value, 0) / x.floats.length
    t.ok(Math.abs(mean) < 0.08, `mean ${mean}`)
    t.ok(Math.abs(squares - 1) < 0.1, `variance ${squares}`)
  }
})

t.test("the relative error of a result", async t => {
  const q = randomWeight(90, 64, 4, 32, 1)
  const x = randomActivations(20, 64, "f32", 2)
  const row = quantizedRow(q)
  const weights = new Float64Array(64)
  const exact = new Float32Array(20 * 90)
  for (let i = 0; i < 90; i++) {
    row(i, weights)
    for (let m = 0; m < 20; m++)
      exact[m * 90 + i] = weights.reduce((sum, weight, j) => sum + weight * x.floats[m * 64 + j]!, 0)
  }
  t.ok(relativeError(exact, x, 90, row) < 1e-7)
  const off = exact.map(value => value * 1.01)
  t.ok(Math.abs(relativeError(off, x, 90, row) - 0.01) < 1e-5)
  t.equal(relativeError(new Float32Array(20 * 90), x, 90, row), 1)
  t.ok(Number.isNaN(relativeError(exact.fill(Number.NaN), x, 90, row)))
})

t.test("indices spread over a range", async t => {
  t.strictSame(spread(3, 64), [0, 1, 2])
  t.strictSame(spread(101, 3), [0, 50, 100])
  t.equal(new Set(spread(1000, 64)).size, 64)
})
