import t from "tap"
import { native } from "../../../lib/native.ts"
import { bytes, floats, ints, random, randomFloats, refused } from "./helpers.ts"

t.test("floats convert, nearest even", async t => {
  const values = [
    0,
    -0,
    1,
    -1,
    65504,
    65520,
    2 ** -24,
    2 ** -25,
    1 + 2 ** -11,
    1 + 3 * 2 ** -11,
    Number.POSITIVE_INFINITY,
  ]
  const halves = new Uint16Array(values.length)
  native.convert(floats(values), 0, halves, 1, values.length)
  t.same(Array.from(halves), [0, 0x8000, 0x3c00, 0xbc00, 0x7bff, 0x7c00, 1, 0, 0x3c00, 0x3c02, 0x7c00])
  native.convert(floats([1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -3.5]), 0, halves, 2, 4)
  t.same(Array.from(halves.subarray(0, 4)), [0x3f80, 0x3f80, 0x3f82, 0xc060])
  const back = new Float32Array(4)
  native.convert(halves, 2, back, 0, 4)
  t.same(Array.from(back), [1, 1, 1 + 2 ** -6, -3.5])
  native.convert(Uint16Array.of(0x3f80, 0xc060), 2, halves, 1, 2)
  t.same(Array.from(halves.subarray(0, 2)), [0x3c00, 0xc300])
})

t.test("large conversions give the same for any thread count", async t => {
  const threads = native.threads()
  t.teardown(() => native.setThreads(threads))
  const source = randomFloats(200_001, random(1))
  const outputs = []
  for (const count of [1, 4]) {
    native.setThreads(count)
    const out = new Uint16Array(new SharedArrayBuffer(2 * source.length))
    await native.convertAsync(source, 0, out, 1, source.length)
    outputs.push(out)
  }
  t.equal(Buffer.compare(new Uint8Array(outputs[0]!.buffer), new Uint8Array(outputs[1]!.buffer)), 0)
  const back = floats(new Float32Array(source.length))
  await native.convertAsync(outputs[0]!, 1, back, 0, source.length)
  t.ok(source.every((value, i) => Math.abs(value - back[i]!) <= 2 ** -12))
})

t.test("conversions that are refused", async t => {
  const source = floats([1, 2])
  const out = new Uint16Array(2)
  await refused(t, () => native.convert(source, 0, out, 1, 3), "ERR_SHAPE", /source has 8 bytes, expected at least 12/)
  await refused(
    t,
    () => native.convert(source, 0, new Uint16Array(1), 1, 2),
    "ERR_SHAPE",
    /out has 2 bytes, expected at least 4/,
  )
  await refused(t, () => native.convert(source, 3, out, 1, 2), "ERR_DTYPE", /integer types/)
  await refused(t, () => native.convert(source, 6 as never, out, 1, 2), "ERR_OPTION", /from is 6/)
  await refused(t, () => native.convert(source, 1, out, 1, 2), "ERR_DTYPE", /Float32Array, expected a Uint16Array/)
  await refused(
    t,
    () => native.convert(new DataView(new ArrayBuffer(8)), 0, out, 1, 2),
    "ERR_OPTION",
    /mapped slice is undefined/,
  )
  await refused(t, () => native.convert(source, 0, out, 1, 2 ** 53), "ERR_SHAPE", /too large|expected/)
  await refused(t, () => native.convertAsync(source, 0, out, 1, 2), "ERR_OPTION", /out lies on an ordinary ArrayBuffer/)
})

t.test("scan counts what is no number", async t => {
  const count = 150_000
  const values = randomFloats(count, random(2))
  values[70_000] = -3.25
  t.same(Array.from(await native.scan(values, 0, count)), [0, 0, 3.25, -1])
  values[140_001] = Number.NaN
  values[66_666] = Number.NEGATIVE_INFINITY
  values[66_667] = Number.POSITIVE_INFINITY
  t.same(Array.from(await native.scan(values, 0, count)), [1, 2, 3.25, 66_666])
  const halves = new Uint16Array(new SharedArrayBuffer(8))
  halves.set([0x3c00, 0x7c01, 0xfc00, 0xc400])
  t.same(Array.from(await native.scan(halves, 1, 4)), [1, 1, 4, 1])
  t.same(Array.from(await native.scan(ints([-7, 3]), 5, 2)), [0, 0, 7, -1])
  t.same(Array.from(await native.scan(new Int8Array(bytes([0x80, 1]).buffer), 3, 2)), [0, 0, 128, -1])
  t.same(Array.from(await native.scan(bytes([255, 1]), 4, 2)), [0, 0, 255, -1])
  t.same(Array.from(await native.scan(values, 0, 0)), [0, 0, 0, -1])
  await refused(t, () => native.scan(values, 0, count + 1), "ERR_SHAPE", /bytes, expected/)
})

t.test("scaleMatrix", async t => {
  const n = 37
  const k = 1000
  const source = randomFloats(n * k, random(3))
  const rowScale = randomFloats(n, random(4))
  const columnScale = randomFloats(k, random(5))
  const out = floats(new Float32Array(n * k))
  await native.scaleMatrix(source, n, k, rowScale, columnScale, out)
  t.ok(
    out.every((value, i) => {
      const scaled = Math.fround(source[i]! * rowScale[Math.floor(i / k)]!)
      return value === Math.fround(scaled * columnScale[i % k]!)
    }),
  )
  await native.scaleMatrix(source, n, k, null, null, out)
  t.equal(Buffer.compare(new Uint8Array(out.buffer), new Uint8Array(source.buffer)), 0)
  await native.scaleMatrix(out, n, k, null, columnScale, out)
  t.ok(out.every((value, i) => value === Math.fround(source[i]! * columnScale[i % k]!)))
  await refused(
    t,
    () => native.scaleMatrix(source, n, k, columnScale.subarray(0, 3), null, out),
    "ERR_SHAPE",
    /rowScale has 3 elements, expected at least 37/,
  )
  await refused(t, () => native.scaleMatrix(source, 2 ** 40, 2 ** 40, null, null, out), "ERR_SHAPE", /too large/)
})

t.test("hadamard turns rows and columns alike, and back", async t => {
  t.strictSame(
    [1, 3, 64, 172, 896, 2560, 11008].map(size => native.hadamardOrder(size)),
    [1, 1, 64, 4, 896, 2560, 256],
  )
  const [n, k] = [24, 10]
  const source = randomFloats(n * k, random(6))
  const out = floats(new Float32Array(n * k))
  for (const [axis, block, sizes] of [
    [0, 12, n],
    [1, 2, k],
  ] as const) {
    await native.hadamard(source, n, k, axis, block, null, out)
    const norm = (values: Float32Array) => values.reduce((sum, value) => sum + value ** 2, 0)
    t.ok(Math.abs(norm(out) / norm(source) - 1) < 1e-6)
    t.notSame(out, source)
    await refused(
      t,
      () => native.hadamard(source, n, k, axis, 3, null, out),
      "ERR_OPTION",
      new RegExp(`block is 3, expected the order of a Hadamard matrix that divides ${sizes}`),
    )
  }
  // Sylvester's matrix is its own inverse.
  await native.hadamard(source, n, k, 0, 8, null, out)
  await native.hadamard(out, n, k, 0, 8, null, out)
  t.ok(out.every((value, i) => Math.abs(value - source[i]!) < 1e-6))
})

t.test("columnMagnitude is the mean over rows of |w| over its group's largest", async t => {
  const n = 101
  const k = 10
  const group = 4
  const w = randomFloats(n * k, random(6))
  w.fill(0, 0, 8)
  const expected = new Float64Array(k)
  for (let row = 0; row < n; ++row)
    for (let j = 0; j < k; ++j) {
      const begin = Math.floor(j / group) * group
      const peak = Math.max(...w.subarray(row * k + begin, row * k + Math.min(k, begin + group)).map(Math.abs))
      expected[j]! += Math.abs(w[row * k + j]!) / (peak + 1e-6) / n
    }
  const out = floats(new Float32Array(k))
  await native.columnMagnitude(w, n, k, group, out)
  out.forEach((value, j) => {
    t.ok(Math.abs(value - expected[j]!) < 1e-6, `column ${j}: ${value} against ${expected[j]}`)
  })
  await refused(
    t,
    () => native.columnMagnitude(w, n, k, 11, out),
    "ERR_OPTION",
    /groupSize is 11, expected 1 to k = 10/,
  )
  await refused(t, () => native.columnMagnitude(w, n, k, 0, out), "ERR_OPTION", /groupSize is 0/)
})

t.test("groupMagnitude is the largest |w| of each group", async t => {
  const [n, k, group] = [37, 10, 4]
  const w = randomFloats(n * k, random(7))
  const groups = Math.ceil(k / group)
  const out = floats(new Float32Array(n * groups))
  await native.groupMagnitude(w, n, k, group, out)
  out.forEach((value, i) => {
    const [row, begin] = [Math.floor(i / groups), (i % groups) * group]
    const values = w.subarray(row * k + begin, row * k + Math.min(k, begin + group))
    t.equal(value, Math.max(...values.map(Math.abs)), `row ${row}, column ${begin}`)
  })
  await refused(t, () => native.groupMagnitude(w, n, k, 11, out), "ERR_OPTION", /groupSize is 11/)
  await refused(t, () => native.groupMagnitude(w, n, k, 1, out), "ERR_SHAPE", /out has/)
})

t.test("addLowRank adds the product of two thin matrices", async t => {
  const next = random(8)
  for (const [n, k, rank] of [
    [1, 1, 1],
    [37, 130, 5],
    [301, 64, 16],
  ] as const) {
    const [w, a, b] = [randomFloats(n * k, next), randomFloats(rank * k, next), randomFloats(n * rank, next)]
    const expected = Array.from(w, (x, i) => {
      const [row, column] = [Math.floor(i / k), i % k]
      let sum = 0
      for (let r = 0; r < rank; r++) sum += b[row * rank + r]! * a[r * k + column]!
      return x + 0.75 * sum
    })
    await native.addLowRank(w, n, k, a, b, rank, 0.75, w)
    t.ok(Math.max(...w.map((x, i) => Math.abs(x - expected[i]!))) < 1e-5, `[${n}, ${k}] of rank ${rank}`)
  }
  const w = floats(new Float32Array(6))
  await refused(
    t,
    () => native.addLowRank(w, 2, 3, w, w, 3, 1, w),
    "ERR_SHAPE",
    /a has 6 elements, expected at least 9/,
  )
  await refused(t, () => native.addLowRank(w, 2, 3, w, w, 0, 1, w), "ERR_OPTION", /rank is 0/)
})
