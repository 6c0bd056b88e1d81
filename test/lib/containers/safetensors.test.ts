import { writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { SafetensorsFile } from "../../../lib/containers/safetensors.ts"
import { tensorBytes } from "../../../lib/containers/safetensors-header.ts"
import { TsqError } from "../../../lib/core/errors.ts"
import { native } from "../../../lib/native.ts"
import { folder, random, rawFile, tsqError, type Vector, vector } from "./support.ts"

const bytesOf = (file: SafetensorsFile, name: string) => {
  const entry = file.entries.get(name)
  if (!entry) throw new Error(`no ${name}`)
  const out = new Uint8Array(entry.bytes)
  if (entry.bytes > 0) native.readMapping(entry.file.mapping.value, entry.offset, out)
  return Buffer.from(out).toString("hex")
}

t.test("reads the reference writer's file", async t => {
  const path = join(folder(t), "x.safetensors")
  const { file: hex, tensors, metadata } = vector("safetensors-file")
  writeFileSync(path, Buffer.from(hex, "hex"))
  const file = await SafetensorsFile.open(path)
  t.same(file.metadata, metadata)
  t.equal(file.entries.size, tensors.length)
  for (const { name, dtype, shape, data } of tensors) {
    t.match(file.entries.get(name), { name, dtype, shape, bytes: data.length / 2 })
    t.equal(bytesOf(file, name), data, name)
  }
  file.dispose()
  t.throws(() => file.mapping.value, tsqError("ERR_OPTION", /disposed/))
})

t.test("verdicts on hostile files", async t => {
  const directory = folder(t)
  const { cases } = vector("safetensors-accept-reject")
  t.equal(cases.length, 33)
  const handles = native.handleCount()
  for (const { case: name, recommended, file: hex } of cases as Vector[]) {
    const path = join(directory, `${name}.safetensors`)
    writeFileSync(path, Buffer.from(hex, "hex"))
    if (recommended === "accept") {
      const file = await SafetensorsFile.open(path)
      file.dispose()
      t.pass(name)
    } else
      await t.rejects(
        SafetensorsFile.open(path),
        { name: "TsqError", message: new RegExp(`${name}\\.safetensors`) },
        name,
      )
  }
  t.equal(native.handleCount(), handles, "a refused file is not left mapped")
})

t.test("errors name the file, the tensor and what is wrong", async t => {
  const directory = folder(t)
  const refused = async (bytes: Uint8Array, code: string, message: RegExp) => {
    const path = join(directory, "bad.safetensors")
    writeFileSync(path, bytes)
    await t.rejects(SafetensorsFile.open(path), tsqError(code, message), String(message))
  }
  const header = (fields: object) => rawFile(JSON.stringify(fields), new Uint8Array(4))
  await refused(new Uint8Array(0), "ERR_CORRUPT", /has 0 bytes/)
  await refused(new Uint8Array(7), "ERR_CORRUPT", /has 7 bytes/)
  await refused(rawFile("{}", undefined, 3n), "ERR_CORRUPT", /claims 3 bytes, the file has 2/)
  await refused(rawFile("{}", undefined, 1n << 63n), "ERR_CORRUPT", /at most 100000000/)
  await refused(rawFile("[]"), "ERR_CORRUPT", /an array, expected a JSON object/)
  await refused(
    header({ a: { dtype: "F32", shape: [2], data_offsets: [0, 4] } }),
    "ERR_CORRUPT",
    /"a".*span 4 bytes, F32 \[2\] needs 8/,
  )
  await refused(header({ a: { dtype: "f32", shape: [1], data_offsets: [0, 4] } }), "ERR_FORMAT", /"a": dtype "f32"/)
  await refused(header({ a: { shape: [1], data_offsets: [0, 4] } }), "ERR_CORRUPT", /"a": dtype is nothing/)
  await refused(header({ a: { dtype: "F32", data_offsets: [0, 4] } }), "ERR_CORRUPT", /"a": shape is nothing/)
  await refused(header({ a: { dtype: "F32", shape: [1] } }), "ERR_CORRUPT", /data_offsets/)
  await refused(header({ a: { dtype: "F32", shape: [1], data_offsets: [4, 0] } }), "ERR_CORRUPT", /run backwards/)
  await refused(header({ a: { dtype: "U8", shape: [3], data_offsets: [0, 3] } }), "ERR_CORRUPT", /trailing bytes/)
  await refused(header({ a: { dtype: "U8", shape: [5], data_offsets: [0, 5] } }), "ERR_CORRUPT", /truncated/)
  await refused(header({ a: { dtype: "U8", shape: [3], data_offsets: [1, 4] } }), "ERR_CORRUPT", /a hole before it/)
  const overlap = {
    a: { dtype: "U8", shape: [3], data_offsets: [0, 3] },
    b: { dtype: "U8", shape: [2], data_offsets: [2, 4] },
  }
  await refused(header(overlap), "ERR_CORRUPT", /"b" begins at byte 2.*overlaps/)
  await t.rejects(SafetensorsFile.open(join(directory, "none.safetensors")), tsqError("ERR_IO", /none\.safetensors/))
  await t.rejects(SafetensorsFile.open(directory), { name: "TsqError" })
})

t.test("sizes in bytes", async t => {
  t.equal(tensorBytes("F4", [3, 2], "x"), 3)
  t.equal(tensorBytes("F6_E2M3", [4], "x"), 3)
  t.equal(tensorBytes("BF16", [], "x"), 2)
  t.equal(tensorBytes("F32", [0, 4294967296], "x"), 0)
  t.throws(() => tensorBytes("F4", [3], "x"), tsqError("ERR_CORRUPT", /whole bytes/))
  t.throws(() => tensorBytes("F6_E3M2", [6], "x"), tsqError("ERR_CORRUPT", /whole bytes/))
  t.throws(() => tensorBytes("F64", [2 ** 52], "x"), tsqError("ERR_CORRUPT", /too many bytes/))
})

/** Files that are valid, to be damaged. */
function seeds(): Buffer[] {
  const entry = (dtype: string, shape: number[], begin: number, end: number) => ({
    dtype,
    shape,
    data_offsets: [begin, end],
  })
  const several = {
    __metadata__: { format: "pt" },
    a: entry("F32", [2, 2], 0, 16),
    b: entry("BF16", [3], 16, 22),
    c: entry("F4", [4], 22, 24),
    d: entry("U8", [0], 24, 24),
  }
  return [
    Buffer.from(vector("safetensors-file").file, "hex"),
    rawFile(JSON.stringify(several), new Uint8Array(24)),
    rawFile(JSON.stringify({ "é\n": entry("I64", [], 0, 8) }), new Uint8Array(8)),
  ]
}

const fragments = [
  "{",
  "}",
  "[",
  "]",
  '"',
  ",",
  ":",
  "-1",
  "1e9",
  "9007199254740993",
  "null",
  '"__metadata__"',
  '"dtype"',
  '"\\ud800"',
  "[0,0]",
  "\\",
  "é",
  "\0",
]

function mutate(original: Buffer, { below, pick }: ReturnType<typeof random>): Buffer {
  let bytes = Buffer.from(original)
  for (let edits = 1 + below(3); edits > 0; edits--) {
    const at = below(bytes.length)
    const kind = below(7)
    if (kind === 0) bytes[at] = below(256)
    else if (kind === 1) bytes = bytes.subarray(0, at)
    else if (kind === 2) bytes = Buffer.concat([bytes, Buffer.alloc(below(20), below(256))])
    else if (kind === 3)
      bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from(pick(fragments)), bytes.subarray(at)])
    else if (kind === 4)
      bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(Math.min(bytes.length, at + below(16)))])
    else if (kind === 5 && bytes.length >= 8)
      bytes.writeBigUInt64LE(pick([0n, 1n, BigInt(below(400)), 1n << 32n, (1n << 64n) - 1n]), 0)
    else bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(below(bytes.length)), bytes.subarray(at)])
    if (bytes.length === 0) break
  }
  // Half of the time the length is made to fit again, so that the damage reaches the JSON and what it says.
  if (bytes.length > 8 && below(2) === 0) {
    const end = bytes.lastIndexOf("}")
    if (end > 8) bytes.writeBigUInt64LE(BigInt(end + 1 - 8), 0)
  }
  return bytes
}

t.test("damaged files are read or refused, never anything else", async t => {
  const directory = folder(t)
  const numbers = random(20261122)
  const originals = seeds()
  const handles = native.handleCount()
  let accepted = 0
  let refused = 0
  for (let i = 0; i < 3000; i++) {
    const bytes = mutate(numbers.pick(originals), numbers)
    // A file of its own each time: overwriting one is far slower.
    const path = join(directory, String(i))
    writeFileSync(path, bytes)
    try {
      const file = await SafetensorsFile.open(path)
      let total = 0
      for (const entry of file.entries.values()) {
        if (entry.offset + entry.bytes > bytes.length) t.fail(`mutation ${i}: ${entry.name} lies outside the file`)
        bytesOf(file, entry.name)
        total += entry.bytes
      }
      if (total > bytes.length) t.fail(`mutation ${i}: the tensors are larger than the file`)
      file.dispose()
      accepted++
    } catch (error) {
      if (!(error instanceof TsqError) || !["ERR_CORRUPT", "ERR_FORMAT"].includes(error.code))
        t.fail(`mutation ${i}: ${String(error)}`, { file: bytes.toString("hex") })
      refused++
    }
  }
  t.comment(`${accepted} accepted, ${refused} refused`)
  t.ok(accepted > 20 && refused > 1000, "both verdicts occurred")
  t.equal(native.handleCount(), handles)
})
