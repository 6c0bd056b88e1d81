import { readFileSync } from "node:fs"
import t, { type Test } from "tap"
import { type GgmlType, ggmlTypeNamed, ggmlTypes } from "../../../lib/containers/gguf-types.ts"
import { sharedFloats } from "../../../lib/core/tensor.ts"
import { decodeBlocks, encodeBlocks } from "../../../lib/formats/gguf-blocks.ts"
import { native } from "../../../lib/native.ts"
import { random, tsqError, type Vector, vector, vectorsOf } from "../containers/support.ts"

const floats = (values: ArrayLike<number>) => {
  const out = sharedFloats(values.length)
  out.set(values)
  return out
}
const hex = (bytes: ArrayBufferView) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex")
const fromHex = (text: string) => {
  const out = new Uint8Array(new SharedArrayBuffer(text.length / 2))
  out.set(Buffer.from(text, "hex"))
  return out
}
const floatsOf = (text: string) => floats(new Float32Array(Uint8Array.from(Buffer.from(text, "hex")).buffer))
const typeNamed = (name: string) => ggmlTypeNamed(name)!
const tensor = (type: GgmlType, rows: number, k: number) => ({ name: "w", type, shape: [rows, k] })

/** The fields of a vector of one block, which are written as numbers or as bytes. */
const values = (v: Vector) => (v.x_f32le === undefined ? floats(v.x) : floatsOf(v.x_f32le))
const decoded = (v: Vector) => (v.dequant_f32le === undefined ? floats(v.dequant) : floatsOf(v.dequant_f32le))

async function checkVector(t: Test, v: Vector) {
  const type = typeNamed(v.type)
  const one = tensor(type, 1, type.blockSize)
  t.equal(hex(await decodeBlocks(one, fromHex(v.block))), hex(decoded(v)), `${v.id} decoded`)
  if (v.x === undefined && v.x_f32le === undefined) return
  t.equal(hex(await encodeBlocks(one, values(v))), v.block, `${v.id} encoded`)
  if (v.block_with_imatrix === undefined) return
  // As the vectors define their weights.
  t.equal(v.imatrix_weights, "w[i]=((5*i) mod 9 + 1)/4")
  const importance = floats(Array.from({ length: type.blockSize }, (_, i) => (((5 * i) % 9) + 1) / 4))
  t.equal(hex(await encodeBlocks(one, values(v), { importance })), v.block_with_imatrix, `${v.id} with importance`)
}

const isBlock = (v: Vector) => v.block !== undefined

t.test("blocks of the reference encoder, read and made", async t => {
  const found = vectorsOf("gguf-").filter(isBlock)
  t.equal(found.length, 17)
  for (const v of found) await checkVector(t, v)
})

t.test("scales in the bytes of K types", async t => {
  const rows = (bytes: Uint8Array, name: string) =>
    decodeBlocks(tensor(typeNamed(name), 1, 256), fromHex(Buffer.from(bytes).toString("hex")))
  const one = [0x00, 0x3c]
  const packed = (id: string) => [...fromHex(vector(id).bytes)]
  // Codes of 0 leave the minima, codes of 1 their difference to the scales.
  const q4 = vector("gguf-k4-scales")
  const q4k = (code: number) =>
    rows(Uint8Array.from([...one, ...one, ...packed(q4.id), ...new Array(128).fill(code)]), "Q4_K")
  const [zero, first] = [await q4k(0), await q4k(0x11)]
  t.strictSame(
    q4.mins.map((_: number, i: number) => 0 - zero[32 * i]!),
    q4.mins,
  )
  t.strictSame(
    q4.scales.map((_: number, i: number) => first[32 * i]! - zero[32 * i]!),
    q4.scales,
  )
  // Three bits of 0 stand for -4.
  const q3 = vector("gguf-q3k-scales")
  const q3k = await rows(Uint8Array.from([...new Array(96).fill(0), ...packed(q3.id), ...one]), "Q3_K")
  t.strictSame(
    q3.scales_plus_32.map((_: number, i: number) => q3k[16 * i]! / -4 + 32),
    q3.scales_plus_32,
  )
})

interface GgmlBlocks {
  shape: [number, number]
  x: string
  importance: string
  types: { type: number; name: string; blocks: string; values: string; weighted: string }[]
}

t.test("blocks of llama.cpp's own library, read and made, with and without importance", async t => {
  const file = new URL("../../fixtures/ggml-blocks.json", import.meta.url)
  const found: GgmlBlocks = JSON.parse(readFileSync(file, "utf8"))
  const inHex = (text: string) => Buffer.from(text, "base64").toString("hex")
  const [x, importance] = [floatsOf(inHex(found.x)), floatsOf(inHex(found.importance))]
  t.equal(found.types.length, 17)
  for (const { type: id, name, blocks, values, weighted } of found.types) {
    const type = ggmlTypes.find(entry => entry.id === id)!
    const row = { name, type, shape: found.shape }
    t.equal(hex(await decodeBlocks(row, fromHex(inHex(blocks)))), inHex(values), `${type.name} decoded`)
    t.equal(hex(await encodeBlocks(row, x)), inHex(blocks), `${type.name} encoded`)
    t.equal(hex(await encodeBlocks(row, x, { importance })), inHex(weighted), `${type.name} with importance`)
  }
})

/** ggml's simplest block once more, from the definition: d · (code − 8). */
t.test("Q4_0 by hand, at an odd address", async t => {
  const bytes = new Uint8Array(new SharedArrayBuffer(1 + 2 * 18))
  bytes.set([0x00, 0x38, ...Array.from({ length: 16 }, (_, j) => j | ((15 - j) << 4))], 1)
  bytes.set([0x00, 0xbc, ...new Uint8Array(16).fill(0x19)], 19)
  const out = await decodeBlocks(tensor(typeNamed("Q4_0"), 2, 32), bytes.subarray(1))
  const first = Array.from({ length: 16 }, (_, j) => (j - 8) / 2)
  const second = Array.from({ length: 16 }, (_, j) => (7 - j) / 2)
  t.same(Array.from(out), [...first, ...second, ...new Array(16).fill(-1), ...new Array(16).fill(7)])
})

/** Largest |error| over largest |value| of a block. Half a step of the widest group, and the rounding of scales. */
const bounds: Record<string, number> = {
  ...{ F32: 0, F16: 2 ** -11, BF16: 2 ** -8, Q8_0: 0.6 / 127, Q8_K: 0.6 / 127 },
  ...{ Q4_0: 1 / 8 + 0.001, Q5_0: 1 / 16 + 0.001, Q4_1: 1 / 15 + 0.001, Q5_1: 1 / 31 + 0.001 },
  ...{ Q2_K: 0.6, Q3_K: 0.3, Q4_K: 0.11, Q5_K: 0.06, Q6_K: 0.04, IQ4_NL: 0.16, IQ4_XS: 0.2, MXFP4: 0.26 },
  ...{ TQ1_0: 0.51, TQ2_0: 0.51 },
}

function randomMatrix(rows: number, k: number, seed: number): Float32Array {
  const { next } = random(seed)
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())
  const out = sharedFloats(rows * k)
  for (let i = 0; i < out.length; i++) out[i] = normal() * 2 ** ((i >> 8) % 7)
  return out
}

t.test("what was encoded decodes within the type's error, in any number of rows and threads", async t => {
  const threads = native.threads()
  t.teardown(() => native.setThreads(threads))
  for (const type of ggmlTypes.filter(({ encode }) => encode)) {
    const bound = bounds[type.name]
    if (bound === undefined) throw new Error(`no bound for ${type.name}`)
    for (const [rows, k] of [
      [1, 256],
      [7, 512],
      [67, 768],
    ] as const) {
      const w = randomMatrix(rows, k, rows)
      native.setThreads(4)
      const blocks = await encodeBlocks(tensor(type, rows, k), w)
      t.equal(blocks.length, ((rows * k) / type.blockSize) * type.blockBytes)
      const back = await decodeBlocks(tensor(type, rows, k), blocks)
      let worst = 0
      const block = Math.max(32, type.blockSize)
      for (let begin = 0; begin < w.length; begin += block) {
        let error = 0
        let peak = 0
        for (let i = begin; i < begin + block; i++) {
          error = Math.max(error, Math.abs(w[i]! - back[i]!))
          peak = Math.max(peak, Math.abs(w[i]!))
        }
        worst = Math.max(worst, error / peak)
      }
      t.ok(worst <= bound, `${type.name} [${rows}, ${k}]: error ${worst.toFixed(4)}, bound ${bound.toFixed(4)}`)
      t.ok(bound === 0 || worst > bound / 4, `${type.name}: the bound is not idle`)
      native.setThreads(1)
      t.equal(hex(await encodeBlocks(tensor(type, rows, k), w)), hex(blocks), `${type.name} on one thread`)
      const row = w.subarray((rows - 1) * k)
      const last = await encodeBlocks(tensor(type, 1, k), row)
      t.equal(hex(last), hex(blocks.subarray(blocks.length - last.length)), `${type.name}, the last row alone`)
    }
  }
})

t.test("codes that a type can hold exactly come back", async t => {
  const { below } = random(5)
  for (const [name, low, high] of [
    ["Q4_0", -8, 7],
    ["Q5_0", -16, 15],
    ["Q8_0", -127, 127],
    ["Q4_1", 0, 15],
    ["Q5_1", 0, 31],
    ["TQ1_0", -1, 1],
    ["TQ2_0", -1, 1],
  ] as const) {
    const type = typeNamed(name)
    const w = sharedFloats(256 * 5)
    for (let i = 0; i < w.length; i++) w[i] = (low + below(high - low + 1)) / 4
    // Every block of 32 reaches both ends of its range.
    for (let i = 0; i < w.length; i += 32) w.set([low / 4, high / 4], i)
    const back = await decodeBlocks(tensor(type, 5, 256), await encodeBlocks(tensor(type, 5, 256), w))
    t.same(Array.from(back), Array.from(w), name)
  }
})

t.test("zeros, tiny and large numbers", async t => {
  for (const type of ggmlTypes.filter(({ encode }) => encode))
    for (const scale of [0, 1e-45, 1e-38, 1e-20, 1e-9, 6e4]) {
      const w = randomMatrix(2, 256, 3)
      const peak = w.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
      for (let i = 0; i < w.length; i++) w[i] = (w[i]! / peak) * scale
      const back = await decodeBlocks(tensor(type, 2, 256), await encodeBlocks(tensor(type, 2, 256), w))
      const bound = 1.01 * scale + 2 ** -24
      if (!back.every(x => Math.abs(x) <= bound))
        t.fail(`${type.name} at ${scale}`, { back: back.find(x => !(Math.abs(x) <= bound)) })
    }
  t.pass("none is made larger")
})

t.test("what is refused names tensor, row and column", async t => {
  const w = randomMatrix(5, 512, 1)
  for (const type of ggmlTypes.filter(({ encode }) => encode))
    for (const [bad, text] of [
      [Number.NaN, "NaN"],
      [Number.POSITIVE_INFINITY, "infinite"],
      [Number.NEGATIVE_INFINITY, "infinite"],
    ] as const) {
      const broken = floats(w)
      broken[3 * 512 + 300] = bad
      const message = new RegExp(`tensor "w" as ${type.name}: row 3, column 300 is ${text}, expected a finite number`)
      await t.rejects(encodeBlocks(tensor(type, 5, 512), broken), tsqError("ERR_NUMERIC", message))
    }
  const large = floats(w)
  large[512] = 2e9
  await t.rejects(
    encodeBlocks(tensor(typeNamed("Q4_K"), 5, 512), large),
    tsqError("ERR_NUMERIC", /row 1, column 0 is 2000000000\.000000, too large for the type/),
  )
  large[512] = 1e8
  await t.rejects(
    encodeBlocks(tensor(typeNamed("Q4_0"), 5, 512), large),
    tsqError("ERR_NUMERIC", /row 1 holds numbers too large for the 16-bit scale of a block/),
  )
  await t.rejects(encodeBlocks(tensor(typeNamed("F16"), 5, 512), large), tsqError("ERR_NUMERIC", /too large/))
  await t.resolves(encodeBlocks(tensor(typeNamed("MXFP4"), 5, 512), large))
  const importance = floats(new Float32Array(512).fill(Number.NaN))
  await t.rejects(
    encodeBlocks(tensor(typeNamed("Q4_K"), 5, 512), w, { importance }),
    tsqError("ERR_NUMERIC", /importance/),
  )
  for (const name of ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "NVFP4", "I32"]) {
    const bytes = new Uint8Array(new SharedArrayBuffer(4096))
    const one = tensor(typeNamed(name), 1, 256)
    await t.rejects(decodeBlocks(one, bytes), tsqError("ERR_UNSUPPORTED", new RegExp(`"w" is ${name}`)))
    await t.rejects(encodeBlocks(one, w), tsqError("ERR_UNSUPPORTED", /neither reads nor writes/))
  }
  await t.rejects(encodeBlocks(tensor(typeNamed("Q8_1"), 1, 32), w), tsqError("ERR_UNSUPPORTED", /only reads/))
  await t.rejects(encodeBlocks(tensor(typeNamed("Q4_K"), 1, 100), w), tsqError("ERR_SHAPE", /multiple of 256/))
  const abort = AbortSignal.abort()
  await t.rejects(encodeBlocks(tensor(typeNamed("Q4_K"), 1, 256), w, { signal: abort }), { name: "AbortError" })
})

t.test("bad arguments of the addon", async t => {
  const w = sharedFloats(512)
  const bytes = new Uint8Array(new SharedArrayBuffer(18 * 16))
  const refused = (call: Promise<unknown>, code: string, message: RegExp) => t.rejects(call, tsqError(code, message))
  await refused(native.decodeBlocks(bytes, 2, 16, 33, w), "ERR_SHAPE", /rows have 33 elements/)
  await refused(native.decodeBlocks(bytes, 2, 17, 32, w), "ERR_SHAPE", /source has 288 bytes, expected at least 306/)
  await refused(native.decodeBlocks(bytes, 2, 16, 32, w.subarray(1)), "ERR_SHAPE", /out has 511 elements/)
  await refused(native.decodeBlocks(bytes, 16, 1, 256, w), "ERR_UNSUPPORTED", /GGUF type 16 has no codec/)
  await refused(native.decodeBlocks(bytes, 256, 1, 256, w), "ERR_OPTION", /type is 256/)
  await refused(native.decodeBlocks(bytes, 2, 2 ** 40, 2 ** 40, w), "ERR_SHAPE", /too large/)
  await refused(native.encodeBlocks(w, 9, 1, 32, null, bytes, null), "ERR_UNSUPPORTED", /only decoded/)
  await refused(native.encodeBlocks(w, 2, 17, 32, null, bytes, null), "ERR_SHAPE", /w has 512 elements/)
  await refused(native.encodeBlocks(w, 2, 1, 32, w.subarray(481), bytes, null), "ERR_SHAPE", /importance has 31/)
  await refused(native.encodeBlocks(new Float32Array(32), 2, 1, 32, null, bytes, null), "ERR_OPTION", /ArrayBuffer/)
  await native.decodeBlocks(bytes, 2, 0, 32, w)
  await native.encodeBlocks(w, 2, 3, 0, null, bytes, null)
})
