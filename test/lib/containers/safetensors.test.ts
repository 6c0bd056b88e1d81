import { writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { SafetensorsFile } from "../../../lib/containers/safetensors.ts"
import { tensorBytes } from "../../../lib/containers/safetensors-header.ts"
import { native } from "../../../lib/native.ts"
import { folder, rawFile, tsqError, type Vector, vector } from "./support.ts"

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
