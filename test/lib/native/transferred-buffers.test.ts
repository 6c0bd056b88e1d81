import t from "tap"
import { native } from "../../../lib/native.ts"
import { floats, refused, test } from "./helpers.ts"

const transferred = <T extends ArrayBufferView>(array: T): T => {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] })
  return array
}

// TypeScript 6 knows these from es2024 on; Node 20 has them.
type Resizable = ArrayBuffer & { resize(bytes: number): void }
type Growable = SharedArrayBuffer & { grow(bytes: number): void }
const resizable = (bytes: number, maxByteLength: number) =>
  Reflect.construct(ArrayBuffer, [bytes, { maxByteLength }]) as Resizable
const growable = (bytes: number, maxByteLength: number) =>
  Reflect.construct(SharedArrayBuffer, [bytes, { maxByteLength }]) as Growable

test("asynchronous calls take no memory that could be transferred", async t => {
  const weight = native.packDenseSync(floats([1, 2]), 0, 1, 2, 0)
  const y = floats([0])
  for (const x of [new Float32Array(2), new Float32Array(resizable(8, 16)), transferred(new Float32Array(2))])
    await refused(
      t,
      () => native.matmulAsync(weight, x, 0, 1, y, 0, null, 0),
      "ERR_OPTION",
      /memory that cannot be detached/,
    )
  native.release(weight)
})

test("synchronous calls see a transferred array as empty", async t => {
  const weight = native.packDenseSync(floats([1, 2]), 0, 1, 2, 0)
  const y = new Float32Array(1)
  await refused(
    t,
    () => native.matmul(weight, transferred(new Float32Array(2)), 0, 1, y, 0, null, 0),
    "ERR_SHAPE",
    /x has 0 bytes, expected at least 8/,
  )
  await refused(
    t,
    () => native.convert(transferred(new Float32Array(2)), 0, y, 0, 1),
    "ERR_SHAPE",
    /0 bytes, expected at least 4/,
  )
  native.release(weight)
})

test("a getter that transfers the output is noticed", async t => {
  const mapping = native.mapFile(process.execPath)
  const out = new Float32Array(1024)
  const hostile = {
    mapping,
    offset: 0,
    get bytes() {
      transferred(out)
      return 4096
    },
  }
  await refused(
    t,
    () => native.convert(hostile, 0, out, 0, 1024),
    "ERR_SHAPE",
    /out has 0 bytes, expected at least 4096/,
  )
  native.release(mapping)
})

test("resizable buffers: an array that was cut off is empty, one that grew is not", async t => {
  const weight = native.packDenseSync(floats([1, 2]), 0, 1, 2, 0)
  const buffer = resizable(8, 64)
  const x = new Float32Array(buffer)
  x.set([3, 4])
  const y = new Float32Array(1)
  native.matmul(weight, x, 0, 1, y, 0, null, 0)
  t.equal(y[0], 11)
  buffer.resize(4)
  await refused(
    t,
    () => native.matmul(weight, x, 0, 1, y, 0, null, 0),
    "ERR_SHAPE",
    /x has 4 bytes, expected at least 8/,
  )
  buffer.resize(64)
  native.matmul(weight, x, 0, 1, y, 0, null, 0)
  t.equal(y[0], 3)
  native.release(weight)
})

test("growing a SharedArrayBuffer during a call changes nothing", async t => {
  const [n, k] = [256, 512]
  const buffer = growable(4 * n * k, 2 ** 26)
  const w = new Float32Array(buffer).fill(1)
  const packing = native.packDense(w, 0, n, k, 0)
  buffer.grow(2 ** 26)
  const weight = await packing
  const y = floats(new Float32Array(n))
  native.matmul(weight, floats(new Float32Array(k).fill(1)), 0, 1, y, 0, null, 0)
  t.ok(y.every(value => value === k))
  native.release(weight)
})

t.test("views of running calls are not collected", async t => {
  const results = Array.from({ length: 200 }, (_, i) => {
    const x = floats(new Float32Array(20_000).fill(i))
    return native.scan(x, 0, x.length)
  })
  // Garbage between the calls and their results.
  for (let i = 0; i < 50; ++i) new Float32Array(new SharedArrayBuffer(2 ** 20)).fill(i)
  const peaks = (await Promise.all(results)).map(result => result[2])
  t.same(
    peaks,
    Array.from({ length: 200 }, (_, i) => i),
  )
})
