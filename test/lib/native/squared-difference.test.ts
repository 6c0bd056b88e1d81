import t from "tap"
import { native } from "../../../lib/native.ts"
import { floats, random, randomFloats, refused } from "./helpers.ts"

t.test("the sum of squared differences, over every length around a block", async t => {
  const block = 2 ** 16
  const a = randomFloats(3 * block + 20, random(21))
  const b = randomFloats(a.length, random(22))
  for (const count of [0, 1, 7, 8, 9, 1000, block - 1, block, block + 1, 2 * block + 13, a.length]) {
    let expected = 0
    for (let i = 0; i < count; ++i) expected += (a[i]! - b[i]!) ** 2
    const sum = await native.squaredDifference(a, b, count)
    t.ok(Math.abs(sum - expected) <= 1e-12 * expected, `${count} elements: ${sum} against ${expected}`)
  }
  t.equal(await native.squaredDifference(a, a, a.length), 0)
})

t.test("differences are taken in double", async t => {
  t.equal(await native.squaredDifference(floats([1e30]), floats([-1e30]), 1), (2 * Math.fround(1e30)) ** 2)
  t.equal(await native.squaredDifference(floats([1]), floats([-(2 ** -30)]), 1), (1 + 2 ** -30) ** 2)
  t.ok(Number.isNaN(await native.squaredDifference(floats([0, NaN]), floats([0, 0]), 2)))
})

t.test("the same bits for any number of threads", async t => {
  const threads = native.threads()
  t.teardown(() => native.setThreads(threads))
  const a = randomFloats(500_001, random(23))
  const b = randomFloats(a.length, random(24))
  native.setThreads(1)
  const expected = await native.squaredDifference(a, b, a.length)
  for (const count of [2, 3, 8]) {
    native.setThreads(count)
    for (let i = 0; i < 5; ++i) t.equal(await native.squaredDifference(a, b, a.length), expected)
  }
})

t.test("bad arguments", async t => {
  const a = floats([1, 2, 3])
  await refused(
    t,
    () => native.squaredDifference(a, floats([1]), 3),
    "ERR_SHAPE",
    /b has 1 elements, expected at least 3/,
  )
  await refused(t, () => native.squaredDifference(a, a, -1), "ERR_OPTION", /count is -1, expected an integer from 0/)
  await refused(
    t,
    () => native.squaredDifference(a, new Float32Array(3), 3),
    "ERR_OPTION",
    /memory that cannot be detached/,
  )
  const doubles = new Float64Array(new SharedArrayBuffer(24))
  await refused(
    t,
    () => native.squaredDifference(a, doubles as never, 3),
    "ERR_DTYPE",
    /b is a Float64Array, expected a Float32Array/,
  )
})
