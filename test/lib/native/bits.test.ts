import t from "tap"
import { native } from "../../../lib/native.ts"
import { bytes, ints, random, refused } from "./helpers.ts"

const hex = (words: Int32Array) => Array.from(words, word => (word >>> 0).toString(16).padStart(8, "0"))

t.test("4-bit codes 0 to 7 in both orders", async t => {
  const codes = bytes([0, 1, 2, 3, 4, 5, 6, 7])
  const out = ints([0])
  await native.packBits(codes, 1, 8, 4, false, 0, out)
  t.same(hex(out), ["76543210"])
  await native.packBits(codes, 1, 8, 4, true, 0, out)
  t.same(hex(out), ["75316420"])
})

t.test("3-bit codes straddle words", async t => {
  const codes = bytes(Array.from({ length: 32 }, (_, i) => i % 8))
  const out = ints([0, 0, 0])
  await native.packBits(codes, 1, 32, 3, false, 0, out)
  let stream = 0n
  codes.forEach((code, i) => {
    stream |= BigInt(code) << BigInt(3 * i)
  })
  t.same(
    hex(out),
    [0n, 32n, 64n].map(shift => ((stream >> shift) & 0xffffffffn).toString(16).padStart(8, "0")),
  )
})

t.test("any width and length against a stream of big integers, and back", async t => {
  const next = random(11)
  for (let bits = 2; bits <= 8; ++bits)
    for (const cols of [1, 7, 8, 31, 32, 33, 63, 100]) {
      const rows = 5
      const add = Math.floor(next() * 2 ** bits)
      const words = Math.ceil((cols * bits) / 32)
      const codes = bytes(Array.from({ length: rows * cols }, () => Math.floor(next() * 2 ** bits)))
      const out = ints(new Int32Array(rows * words).fill(-1))
      await native.packBits(codes, rows, cols, bits, false, add, out)
      const expected = ints({ length: rows * words })
      for (let row = 0; row < rows; ++row) {
        let stream = 0n
        for (let j = 0; j < cols; ++j) stream |= BigInt((codes[row * cols + j]! + add) % 2 ** bits) << BigInt(j * bits)
        for (let word = 0; word < words; ++word)
          expected[row * words + word] = Number((stream >> BigInt(32 * word)) & 0xffffffffn)
      }
      t.same(hex(out), hex(expected), `${bits} bits, ${cols} columns`)
      const back = bytes(new Uint8Array(rows * cols))
      await native.unpackBits(out, rows, cols, bits, false, -add, back)
      t.same(back, codes)
    }
})

t.test("interleaved words come back, in many rows", async t => {
  const next = random(12)
  const rows = 3000
  const cols = 64
  const codes = bytes(Array.from({ length: rows * cols }, () => Math.floor(next() * 16)))
  const words = ints(new Int32Array(rows * 8))
  await native.packBits(codes, rows, cols, 4, true, 1, words)
  const back = bytes(new Uint8Array(rows * cols))
  await native.unpackBits(words, rows, cols, 4, true, 15, back)
  t.equal(Buffer.compare(back, codes), 0)
})

t.test("codes that do not fit are refused by row and column", async t => {
  const codes = bytes(new Uint8Array(100 * 40))
  codes[57 * 40 + 3] = 16
  codes[80 * 40] = 255
  const out = ints(new Int32Array(100 * 5))
  await refused(
    t,
    () => native.packBits(codes, 100, 40, 4, false, 0, out),
    "ERR_FORMAT",
    /code 16 at row 57, column 3 does not fit 4 bits/,
  )
})

t.test("bad arguments", async t => {
  const codes = bytes(new Uint8Array(64))
  const out = ints(new Int32Array(8))
  await refused(
    t,
    () => native.packBits(codes, 8, 8, 9, false, 0, out),
    "ERR_OPTION",
    /bits is 9, expected an integer from 2 to 8/,
  )
  await refused(t, () => native.packBits(codes, 8, 8, 3, true, 0, out), "ERR_OPTION", /interleaving needs 4 bits/)
  await refused(t, () => native.packBits(codes, 8, 7, 4, true, 0, out), "ERR_OPTION", /multiples of 8/)
  await refused(
    t,
    () => native.packBits(codes, 9, 8, 4, false, 0, out),
    "ERR_SHAPE",
    /codes has 64 elements, expected at least 72/,
  )
  await refused(
    t,
    () => native.packBits(codes, 8, 8, 8, false, 0, out),
    "ERR_SHAPE",
    /out has 8 elements, expected at least 16/,
  )
  await refused(
    t,
    () => native.packBits(codes, 8, 8, 4, 1 as never, 0, out),
    "ERR_OPTION",
    /interleave is 1, expected true or false/,
  )
  await refused(
    t,
    () => native.unpackBits(out, 8, 8, 8, false, 0, codes),
    "ERR_SHAPE",
    /words has 8 elements, expected at least 16/,
  )
  await refused(t, () => native.unpackBits(out, 2 ** 52, 4, 8, false, 0, codes), "ERR_SHAPE", /too large/)
  await refused(t, () => native.transpose(codes, 8, 8, 3 as never, out), "ERR_OPTION", /elementBytes is 3/)
  await refused(
    t,
    () => native.transpose(codes, 8, 9, 1, out),
    "ERR_SHAPE",
    /source has 64 bytes, expected at least 72/,
  )
  await refused(t, () => native.transpose(codes.subarray(1), 2, 2, 4, out), "ERR_OPTION", /multiple of elementBytes/)
})

t.test("transpose", async t => {
  for (const [rows, cols] of [
    [1, 1],
    [3, 200],
    [130, 67],
    [64, 64],
  ] as const)
    for (const type of [Uint8Array, Uint16Array, Float32Array] as (new (
      buffer: SharedArrayBuffer,
    ) => Uint8Array)[]) {
      const elementBytes = new type(new SharedArrayBuffer(0)).BYTES_PER_ELEMENT as 1 | 2 | 4
      const source = new type(new SharedArrayBuffer(rows * cols * elementBytes))
      for (let i = 0; i < source.length; ++i) source[i] = i % 251
      const out = new type(new SharedArrayBuffer(rows * cols * elementBytes))
      await native.transpose(source, rows, cols, elementBytes, out)
      t.ok(Array.from(out).every((value, i) => value === source[(i % rows) * cols + Math.floor(i / rows)]))
    }
})
