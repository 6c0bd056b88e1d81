import type { DtypeCode } from "../../../lib/native.ts"
import { native } from "../../../lib/native.ts"
import { bytes, floats, ints, random, randomFloats, refused, test } from "./helpers.ts"

const product = (x: Float32Array, w: Float32Array, m: number, n: number, k: number, bias?: Float32Array) =>
  Float64Array.from({ length: m * n }, (_, i) => {
    const row = Math.floor(i / n)
    const column = i % n
    let sum = bias ? bias[column]! : 0
    for (let j = 0; j < k; ++j) sum += x[row * k + j]! * w[column * k + j]!
    return sum
  })

const close = (y: ArrayLike<number>, expected: Float64Array, tolerance: number) =>
  expected.every((value, i) => Math.abs(value - y[i]!) <= tolerance)

test("dense weights multiply", async t => {
  const [m, n, k] = [3, 37, 75]
  const w = randomFloats(n * k, random(21))
  const x = randomFloats(m * k, random(22))
  const bias = randomFloats(n, random(23))
  const weight = native.packDenseSync(w, 0, n, k, 0)
  t.ok(native.handleBytes(weight) >= n * k * 4)
  const y = floats(new Float32Array(m * n))
  native.matmul(weight, x, 0, m, y, 0, null, 0)
  t.ok(close(y, product(x, w, m, n, k), 1e-5))
  await native.matmulAsync(weight, x, 0, m, y, 0, bias, 0)
  t.ok(close(y, product(x, w, m, n, k, bias), 1e-5))
  const bf16 = (await native.packDense(w, 0, n, k, 2)) as number
  native.matmul(bf16, x, 0, m, y, 0, null, 0)
  t.ok(close(y, product(x, w, m, n, k), 0.1))
  const halves = new Uint16Array(m * k)
  native.convert(x, 0, halves, 1, m * k)
  const out = new Uint16Array(m * n)
  native.matmul(weight, halves, 1, m, out, 1, bias, 0)
  native.convert(out, 1, y, 0, m * n)
  t.ok(close(y, product(x, w, m, n, k, bias), 0.02))
  native.matmul(weight, x, 0, 0, y, 0, null, 0)
  native.release(weight)
  native.release(bf16)
})

test("codes multiply like what they stand for", async t => {
  const [m, n, k, groupSize] = [2, 20, 50, 16]
  const groups = Math.ceil(k / groupSize)
  const next = random(31)
  for (const bits of [2, 3, 4, 5, 8])
    for (const symmetric of [true, false]) {
      const codes = bytes(Array.from({ length: n * k }, () => Math.floor(next() * 2 ** bits)))
      const scales = randomFloats(n * groups, next)
      const zeros = symmetric ? null : bytes(Array.from({ length: n * groups }, () => Math.floor(next() * 2 ** bits)))
      const inputScale = floats(Array.from({ length: k }, () => 0.5 + next()))
      const groupIndex = ints(Array.from({ length: k }, (_, j) => Math.floor((k - 1 - j) / groupSize)))
      const w = floats(new Float32Array(n * k))
      native.dequantizeSync(codes, scales, zeros, null, null, n, k, bits, groupSize, groupIndex, inputScale, w)
      t.ok(
        w.every((value, i) => {
          const row = Math.floor(i / k)
          const j = i % k
          const at = row * groups + groupIndex[j]!
          const zero = zeros ? zeros[at]! : 2 ** (bits - 1)
          return Math.abs(value - scales[at]! * (codes[i]! - zero) * inputScale[j]!) <= 1e-6 * 2 ** bits
        }),
        `dequantized ${bits} bits`,
      )
      const again = floats(new Float32Array(n * k))
      await native.dequantize(codes, scales, zeros, null, null, n, k, bits, groupSize, groupIndex, inputScale, again)
      t.same(again, w)
      const x = randomFloats(m * k, next)
      const y = floats(new Float32Array(m * n))
      const packed = await native.packCodes(
        codes,
        0,
        n,
        k,
        bits,
        groupSize,
        scales,
        zeros,
        null,
        null,
        groupIndex,
        inputScale,
        null,
      )
      await native.matmulAsync(packed, x, 0, m, y, 0, null, 0)
      t.ok(close(y, product(x, w, m, n, k), 2e-6 * 2 ** bits * k), `multiplied ${bits} bits`)
      const atOnce = native.packCodesSync(
        codes,
        0,
        n,
        k,
        bits,
        groupSize,
        scales,
        zeros,
        null,
        null,
        groupIndex,
        inputScale,
        null,
      )
      const y2 = floats(new Float32Array(m * n))
      native.matmul(atOnce, x, 0, m, y2, 0, null, 0)
      t.same(y2, y)
      native.release(packed)
      native.release(atOnce)
    }
})

test("weights that are refused", async t => {
  const codes = bytes(new Uint8Array(8))
  const scales = floats([1, 1, 1, 1])
  const pack = (...args: unknown[]) => (native.packCodesSync as (...args: unknown[]) => number)(...args)
  await refused(
    t,
    () => pack(codes, 0, 2, 4, 4, 5, scales, null, null, null, null, null),
    "ERR_OPTION",
    /groupSize is 5, expected 1 to k = 4/,
  )
  await refused(
    t,
    () => pack(codes, 0, 2, 4, 4, 0, scales, null, null, null, null, null),
    "ERR_OPTION",
    /groupSize is 0/,
  )
  await refused(t, () => pack(codes, 0, 2, 4, 1, 4, scales, null, null, null, null, null), "ERR_OPTION", /bits is 1/)
  await refused(
    t,
    () => pack(codes, 0, 2, 4, 4, 1, scales, null, null, null, null, null),
    "ERR_SHAPE",
    /scales has 4 elements, expected at least 8/,
  )
  await refused(
    t,
    () => pack(codes, 0, 2, 4, 4, 2, scales, bytes([1]), null, null, null, null),
    "ERR_SHAPE",
    /zeros has 1 elements, expected at least 4/,
  )
  await refused(
    t,
    () => pack(codes, 0, 2, 4, 4, 2, scales, null, null, null, ints([0, 0, 1]), null),
    "ERR_SHAPE",
    /groupIndex has 3 elements, expected k = 4/,
  )
  await refused(
    t,
    () => pack(codes, 0, 2, 4, 4, 2, scales, null, null, null, ints([0, 0, 1, 2]), null),
    "ERR_FORMAT",
    /group/,
  )
  await refused(
    t,
    () => pack(codes, 0, 2, 4, 4, 2, scales, null, null, null, ints([0, 0, 0, 1]), null),
    "ERR_FORMAT",
    /group/,
  )
  await refused(
    t,
    () => pack(bytes([0, 0, 0, 16]), 0, 1, 4, 4, 2, scales, null, null, null, null, null),
    "ERR_FORMAT",
    /16|code/,
  )
  await refused(
    t,
    () => pack(codes, 0, 2 ** 30, 2 ** 30, 4, 2, scales, null, null, null, null, null),
    "ERR_SHAPE",
    /too large|expected/,
  )
  await refused(t, () => native.packDenseSync(scales, 0, 2, 2, 3), "ERR_UNSUPPORTED", /integer codes/)
  await refused(t, () => native.packDenseSync(scales, 5, 2, 2, 0), "ERR_OPTION", /dtype is 5/)
  await refused(t, () => native.packDenseSync(scales, 0, 0, 2, 0), "ERR_OPTION", /n is 0, expected an integer from 1/)
  await refused(
    t,
    () => native.packDense(new Float32Array(4), 0, 2, 2, 0),
    "ERR_OPTION",
    /memory that cannot be detached/,
  )
  await refused(t, () => native.vector([1, 2] as never), "ERR_DTYPE", /values is an array, expected a typed array/)
})

test("products that are refused", async t => {
  const weight = native.packDenseSync(floats([1, 2, 3, 4, 5, 6]), 0, 2, 3, 0)
  const x = floats([1, 2, 3])
  const y = floats([0, 0])
  const f32: DtypeCode = 0
  await refused(
    t,
    () => native.matmul(weight, x, f32, 2, y, f32, null, 0),
    "ERR_SHAPE",
    /x has 12 bytes, expected at least 24/,
  )
  await refused(
    t,
    () => native.matmul(weight, x, f32, 1, y.subarray(1), f32, null, 0),
    "ERR_SHAPE",
    /y has 4 bytes, expected at least 8/,
  )
  await refused(
    t,
    () => native.matmul(weight, x, f32, 1, y, f32, y.subarray(1), 0),
    "ERR_SHAPE",
    /bias has 1 elements, expected at least 2/,
  )
  await refused(
    t,
    () => native.matmul(weight, x, 1, 1, y, f32, null, 0),
    "ERR_DTYPE",
    /x is a Float32Array, expected a Uint16Array/,
  )
  await refused(t, () => native.matmul(weight, x, 5, 1, y, f32, null, 0), "ERR_OPTION", /xType is 5/)
  await refused(t, () => native.matmul(weight, x, f32, -1, y, f32, null, 0), "ERR_OPTION", /m is -1/)
  await refused(t, () => native.matmul(weight, x, f32, 2 ** 53, y, f32, null, 0), "ERR_SHAPE", /too large/)
  await refused(
    t,
    () => native.matmulAsync(weight, new Float32Array(3), f32, 1, y, f32, null, 0),
    "ERR_OPTION",
    /x lies on an ordinary/,
  )
  native.release(weight)
})
