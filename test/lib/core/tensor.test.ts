import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import t, { type Test } from "tap"
import { dtypes } from "../../../lib/core/dtype.ts"
import { Tensor } from "../../../lib/core/tensor.ts"
import { NativeHandle, native } from "../../../lib/native.ts"
import { vector } from "../containers/support.ts"

const refuses = (t: Test, work: () => unknown, code: string, message: string | RegExp) =>
  t.throws(work, { name: "TsqError", code, message })

const rejects = (t: Test, work: Promise<unknown>, code: string, message: string | RegExp) =>
  t.rejects(work, { name: "TsqError", code, message })

/** A tensor [count] over a file that holds the bytes of `values`. */
function mapped(t: Test, values: Float32Array | Uint16Array, dtype: "f32" | "bf16", shape: number[]): Tensor {
  const directory = mkdtempSync(join(tmpdir(), "tsq-tensor-"))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const path = join(directory, "values.bin")
  // One leading byte: nothing in a file is aligned.
  writeFileSync(path, Buffer.concat([Buffer.from([7]), new Uint8Array(values.buffer)]))
  const mapping = new NativeHandle(native.mapFile(path), "mapping")
  t.teardown(() => mapping.dispose())
  return Tensor.fromMapping(mapping, 1, shape, dtype)
}

t.test("from keeps the caller's memory and names its dtype", async t => {
  for (const [array, dtype] of [
    [new Float32Array(6), "f32"],
    [new Int8Array(6), "i8"],
    [new Uint8Array(6), "u8"],
    [new Int32Array(6), "i32"],
  ] as const) {
    const tensor = Tensor.from(array, [2, 3])
    t.equal(tensor.dtype, dtype)
    t.equal(tensor.data, array)
    t.same(tensor.shape, [2, 3])
    t.equal(tensor.size, 6)
    t.equal(tensor.bytes, array.byteLength)
    t.equal(tensor.device, "cpu")
  }
  const bits = new Uint16Array(4)
  t.equal(Tensor.from(bits, [4], "bf16").dtype, "bf16")
  t.equal(Tensor.from(bits, [4], "f16").data, bits)
  const scalar = Tensor.from(new Float32Array(1), [])
  t.equal(scalar.size, 1)
  t.equal(Tensor.from(new Float32Array(0), [0, 5]).size, 0)
  const shape = [2]
  const frozen = Tensor.from(new Float32Array(2), shape)
  shape[0] = 9
  t.same(frozen.shape, [2])
  t.throws(() => (frozen.shape as number[]).push(1), TypeError)
})

t.test("from takes a Buffer as bytes, and numbers by value", async t => {
  const buffer = Buffer.from([1, 2, 3])
  const tensor = Tensor.from(buffer, [3])
  t.equal(tensor.dtype, "u8")
  t.equal(tensor.data.buffer, buffer.buffer)
  t.same([...tensor.data], [1, 2, 3])
  t.equal(Tensor.from([1, 2.5], [2]).dtype, "f32")
  t.same([...Tensor.from([-1, 7], [2], "i8").data], [-1, 7])
  refuses(
    t,
    () => Tensor.from([1], [1], "f16"),
    "ERR_DTYPE",
    "Tensor.from: numbers cannot be taken as f16; make them f32 and cast",
  )
  refuses(
    t,
    () => Tensor.from([1, 1.5], [2], "i32"),
    "ERR_DTYPE",
    "Tensor.from: data[1] is 1.5, which is not a value of i32",
  )
  refuses(
    t,
    () => Tensor.from([256], [1], "u8"),
    "ERR_DTYPE",
    "Tensor.from: data[0] is 256, which is not a value of u8",
  )
  refuses(
    t,
    () => Tensor.from(["1"] as never, [1]),
    "ERR_DTYPE",
    'Tensor.from: data[0] is "1", which is not a value of f32',
  )
})

t.test("from refuses arrays that are no tensor's storage", async t => {
  refuses(t, () => Tensor.from(new Uint16Array(2), [2]), "ERR_DTYPE", /a Uint16Array may hold f16 or bf16; name one/)
  for (const array of [
    new Float64Array(2),
    new BigInt64Array(2),
    new Uint8ClampedArray(2),
    new Uint32Array(2),
    new Int16Array(2),
  ]) {
    const { name } = array.constructor
    refuses(t, () => Tensor.from(array, [2]), "ERR_DTYPE", `Tensor.from: a ${name} is not a tensor's storage`)
    refuses(
      t,
      () => Tensor.from(array, [2], "u8"),
      "ERR_DTYPE",
      `Tensor.from: a ${name} cannot hold u8, expected a Uint8Array`,
    )
  }
  refuses(
    t,
    () => Tensor.from(new Float32Array(2), [2], "bf16"),
    "ERR_DTYPE",
    "a Float32Array cannot hold bf16, expected a Uint16Array",
  )
  refuses(t, () => Tensor.from(new Float32Array(2), [2], "f64" as never), "ERR_DTYPE", 'dtype is "f64", expected "f32"')
  refuses(
    t,
    () => Tensor.from(new DataView(new ArrayBuffer(8)), [2]),
    "ERR_DTYPE",
    "data is a DataView, expected a typed array",
  )
  for (const data of [null, undefined, 4, "x", {}, new ArrayBuffer(8)])
    refuses(
      t,
      () => Tensor.from(data as never, [2]),
      "ERR_DTYPE",
      /Tensor\.from: data is .*, expected a typed array or an array of numbers/,
    )
})

const Float16 = (globalThis as { Float16Array?: new (values: number[]) => Uint16Array }).Float16Array

t.test("from takes a Float16Array", { skip: Float16 ? false : "this Node has no Float16Array" }, async t => {
  if (!Float16) return
  const values = new Float16([1, -2])
  const tensor = Tensor.from(values, [2])
  t.equal(tensor.dtype, "f16")
  t.same([...tensor.data], [0x3c00, 0xc000])
  t.equal(tensor.data.buffer, values.buffer)
  refuses(t, () => Tensor.from(values, [2], "bf16"), "ERR_DTYPE", "a Float16Array cannot hold bf16")
})

t.test("from refuses wrong lengths and shapes", async t => {
  refuses(
    t,
    () => Tensor.from(new Float32Array(5), [2, 3]),
    "ERR_SHAPE",
    "Tensor.from: data has 5 elements, shape [2, 3] needs 6",
  )
  for (const shape of [[-1], [1.5], [Number.NaN], ["2"], [null], [2n], [Symbol("s")], [[2]]])
    refuses(t, () => Tensor.from(new Float32Array(2), shape as never), "ERR_SHAPE", /expected non-negative integers/)
  for (const shape of [undefined, null, 2, "2", new Int32Array([2])])
    refuses(
      t,
      () => Tensor.from(new Float32Array(2), shape as never),
      "ERR_SHAPE",
      /expected an array of non-negative integers/,
    )
  refuses(
    t,
    () => Tensor.from(new Float32Array(2), [2 ** 30, 2 ** 30]),
    "ERR_SHAPE",
    /more elements than can be counted/,
  )
})

t.test("resizable, growable and transferred buffers", async t => {
  const Resizable = ArrayBuffer as new (bytes: number, options: object) => ArrayBuffer
  const Growable = SharedArrayBuffer as new (bytes: number, options: object) => SharedArrayBuffer
  for (const buffer of [new Resizable(8, { maxByteLength: 16 }), new Growable(8, { maxByteLength: 16 })])
    refuses(t, () => Tensor.from(new Float32Array(buffer, 0, 2), [2]), "ERR_DTYPE", "data lies on a resizable buffer")
  const array = new Float32Array(2)
  const tensor = Tensor.from(array, [2])
  structuredClone(array, { transfer: [array.buffer] })
  refuses(
    t,
    () => Tensor.from(array, [2]),
    "ERR_SHAPE",
    "Tensor.from: data has 0 elements (was its buffer transferred?), shape [2] needs 2",
  )
  refuses(t, () => tensor.data, "ERR_SHAPE", "the buffer of this tensor [2] was transferred after the tensor was made")
  refuses(t, () => tensor.source, "ERR_SHAPE", /was transferred/)
  await rejects(t, tensor.toArray(), "ERR_SHAPE", /was transferred/)
  await rejects(t, tensor.cast("f16"), "ERR_SHAPE", /was transferred/)
  const bytes = new Uint8Array(2)
  structuredClone(bytes, { transfer: [bytes.buffer] })
  refuses(t, () => Tensor.from(bytes, [2]), "ERR_SHAPE", /was its buffer transferred/)
})

t.test("empty lies on shared memory", async t => {
  for (const dtype of dtypes) {
    const tensor = Tensor.empty([2, 3], dtype)
    t.ok(tensor.data.buffer instanceof SharedArrayBuffer)
    t.equal(tensor.data.length, 6)
    t.ok(tensor.data.every(value => value === 0))
    t.equal(await tensor.pinned(), tensor)
  }
  refuses(t, () => Tensor.empty([2], "f64" as never), "ERR_DTYPE", 'Tensor.empty: dtype is "f64"')
  refuses(t, () => Tensor.empty([-2]), "ERR_SHAPE", /holds -2/)
  refuses(t, () => Tensor.empty([2 ** 50]), "ERR_UNSUPPORTED", /holds at most/)
})

t.test("toArray and pinned copy to shared memory", async t => {
  const values = Float32Array.from({ length: 3_000_000 }, (_, i) => i)
  const tensor = Tensor.from(values, [3, 1_000_000])
  const copy = await tensor.toArray()
  t.ok(copy.buffer instanceof SharedArrayBuffer)
  t.ok(Buffer.from(copy.buffer).equals(Buffer.from(values.buffer)))
  const pinned = await tensor.pinned()
  t.not(pinned, tensor)
  values[5] = -1
  t.equal(pinned.data[5], 5)
})

t.test("a transfer while a copy is under way is refused", async t => {
  const values = new Float32Array(4_000_000)
  const copy = Tensor.from(values, [values.length]).toArray()
  structuredClone(values, { transfer: [values.buffer] })
  await rejects(t, copy, "ERR_SHAPE", /transferred or resized while it was being copied/)
})

t.test("cast gives the words of the vectors", async t => {
  for (const dtype of ["f16", "bf16"] as const) {
    const { inputs, words } = vector(`${dtype}-round`)
    const cast = await Tensor.from(Float32Array.from(inputs), [inputs.length]).cast(dtype)
    t.strictSame([...(cast.data as Uint16Array)], words.map(Number), dtype)
  }
})

t.test("cast rounds to nearest even", async t => {
  const tensor = Tensor.from(Float32Array.of(1, -2.5, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 65520, Number.NaN), [6])
  const half = await tensor.cast("f16")
  t.equal(half.dtype, "f16")
  t.same([...half.data.subarray(0, 5)], [0x3c00, 0xc100, 0x3c00, 0x3c02, 0x7c00])
  const brain = await Tensor.from(Float32Array.of(1, 1 + 2 ** -8, 1 + 3 * 2 ** -8), [3]).cast("bf16")
  t.same([...brain.data], [0x3f80, 0x3f80, 0x3f82])
  const back = await half.cast("f32")
  t.same([...back.data.subarray(0, 4)], [1, -2.5, 1, 1 + 2 ** -9])
  t.ok(Number.isNaN(back.data[5]))
  t.equal((await Tensor.empty([0]).cast("bf16")).size, 0)
  await rejects(
    t,
    Tensor.empty([1], "i8").cast("f32"),
    "ERR_DTYPE",
    "tensor.cast: i8 to f32; only f32, f16 and bf16 convert",
  )
  await rejects(t, tensor.cast("u8"), "ERR_DTYPE", "tensor.cast: f32 to u8")
  await rejects(t, tensor.cast("f64" as never), "ERR_DTYPE", 'dtype is "f64"')
})

t.test("mapped tensors", async t => {
  const values = Float32Array.of(1, 2, 3, 4)
  const tensor = mapped(t, values, "f32", [2, 2])
  t.equal(tensor.device, "mapped")
  refuses(
    t,
    () => tensor.data,
    "ERR_DEVICE",
    "this tensor is a mapped part of a file; `await tensor.toArray()` copies it",
  )
  t.same([...(await tensor.toArray())], [1, 2, 3, 4])
  const there = await tensor.to("cpu")
  t.equal(there.device, "cpu")
  t.equal(await there.to("cpu"), there)
  t.same([...(await tensor.cast("bf16")).data], [0x3f80, 0x4000, 0x4040, 0x4080])
  process.env.TSQ_CUDA_MODULE = "/nonexistent.so"
  await rejects(t, tensor.to("cuda"), "ERR_DEVICE", 'device "cuda:0" is not available: ')
  for (const device of ["gpu", "cuda:", "cuda:-1", "cuda:01", "cuda:1.5", "mapped", "", 0, null, {}])
    await rejects(t, tensor.to(device as never), "ERR_DEVICE", "is not available; devices are ")
  const lying = mapped(t, values, "f32", [2, 3])
  await t.rejects(lying.toArray(), { name: "TsqError" }, "longer than its file")
})
