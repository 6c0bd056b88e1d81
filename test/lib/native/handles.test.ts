import t from "tap"
import { native } from "../../../lib/native.ts"
import { accumulatorOf, floats, refused } from "./helpers.ts"

t.test("a handle lives until it is released, and its number never comes back", async t => {
  const before = native.handleCount()
  const first = native.vector(floats([1, 2, 3]))
  t.equal(native.handleCount(), before + 1)
  t.equal(native.handleBytes(first), 12)
  native.release(first)
  native.release(first)
  t.equal(native.handleCount(), before)
  await refused(t, () => native.handleBytes(first), "ERR_OPTION", /handle \d+ is not a live native object/)
  const second = native.vector(floats([1]))
  t.ok(second > first)
  native.release(second)
})

t.test("a handle of another kind is refused, naming both kinds", async t => {
  const vector = native.vector(floats([1, 2]))
  const weight = native.packDenseSync(floats([1, 2]), 0, 1, 2, 0)
  const y = floats([0])
  await refused(
    t,
    () => native.matmul(vector, y, 0, 1, y, 0, null, 0),
    "ERR_OPTION",
    /is a vector, expected a packed weight/,
  )
  await refused(t, () => native.accumulatorRows(weight), "ERR_OPTION", /is a packed weight, expected an accumulator/)
  await refused(t, () => native.mappingBytes(vector), "ERR_OPTION", /expected a mapped file/)
  for (const bad of [0, -1, 0.5, Number.NaN, 2 ** 60, null, undefined, "1", {}])
    await refused(t, () => native.handleBytes(bad as number), "ERR_OPTION", /handle is/)
  native.release(vector)
  native.release(weight)
})

t.test("an object stays alive while a call uses it", async t => {
  const n = 64
  const k = 4096
  const weight = await native.packDense(floats(new Float32Array(n * k).fill(1)), 0, n, k, 0)
  const x = floats(new Float32Array(32 * k).fill(1))
  const y = floats(new Float32Array(32 * n))
  const work = native.matmulAsync(weight, x, 0, 32, y, 0, null, 0)
  native.release(weight)
  await work
  t.ok(y.every(value => value === k))
  await refused(t, () => native.matmulAsync(weight, x, 0, 32, y, 0, null, 0), "ERR_OPTION", /not a live native object/)
})

t.test("no call leaves a handle behind, refused ones included", async t => {
  const before = native.handleCount()
  for (let i = 0; i < 200; ++i) {
    native.release(native.vector(floats([i])))
    native.release(await native.packDense(floats([1, 2, 3, 4]), 0, 2, 2, 1))
    native.release(await accumulatorOf(1, floats([1, 2]), 2))
    await refused(
      t,
      () => native.packDense(floats([1]), 0, 2, 2, 0),
      "ERR_SHAPE",
      /source has 4 bytes, expected at least 16/,
    )
  }
  t.equal(native.handleCount(), before)
})
