import { truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Gguf, GgufFile } from "../../../lib/containers/gguf.ts"
import { ggufHeader } from "../../../lib/containers/gguf-bytes.ts"
import { ggmlTypeNamed } from "../../../lib/containers/gguf-types.ts"
import { TsqError } from "../../../lib/core/errors.ts"
import { native } from "../../../lib/native.ts"
import { entry, everyValue, type RawTensor, rawGguf, text, u32, u64 } from "./gguf-support.ts"
import { folder, tsqError, type Vector, vector } from "./support.ts"

const bytesOf = (file: GgufFile, name: string) => {
  const found = file.entries.get(name)
  if (!found) throw new Error(`no ${name}`)
  const out = new Uint8Array(found.bytes)
  if (found.bytes > 0) native.readMapping(file.mapping.value, found.offset, out)
  return Buffer.from(out).toString("hex")
}

t.test("reads a file of the reference writer", async t => {
  const path = join(folder(t), "x.gguf")
  const { file: hex, kv, tensors } = vector("gguf-file")
  writeFileSync(path, Buffer.from(hex, "hex"))
  const file = await GgufFile.open(path)
  t.equal(file.version, 3)
  t.equal(file.metadata.size, kv.length)
  for (const { key, type, value } of kv) {
    const found = file.metadata.get(key)!
    const kind = found.type === "array" ? `arr:${found.of === "string" ? "str" : found.of}` : found.type
    t.equal(kind === "string" ? "str" : kind, type, key)
    t.same(found.type === "array" ? Array.from(found.value as ArrayLike<unknown>) : found.value, value, key)
  }
  t.same(
    [...file.entries.keys()],
    tensors.map(({ name }: Vector) => name),
  )
  for (const { name, ne, type, data } of tensors) {
    const found = file.entries.get(name)!
    t.match(found, { shape: [...ne].reverse(), bytes: data.length / 2 })
    t.equal(found.type.id, type)
    t.equal(bytesOf(file, name), data, name)
  }
  file.dispose()
  t.throws(() => file.mapping.value, tsqError("ERR_OPTION", /disposed/))
})

t.test("verdicts of the reference reader", async t => {
  const directory = folder(t)
  const { cases } = vector("gguf-accept-reject")
  t.equal(cases.length, 30)
  const handles = native.handleCount()
  for (const [index, { case: name, accepted, file: hex }] of (cases as Vector[]).entries()) {
    const path = join(directory, `case-${index}.gguf`)
    writeFileSync(path, Buffer.from(hex, "hex"))
    if (accepted) {
      const file = await GgufFile.open(path)
      file.dispose()
      t.pass(name)
    } else {
      const error = { name: "TsqError", message: new RegExp(`case-${index}\\.gguf: `) }
      await t.rejects(GgufFile.open(path), error, name)
    }
  }
  t.equal(native.handleCount(), handles, "a refused file is not left mapped")
})

t.test("values of every type come back", async t => {
  const path = join(folder(t), "x.gguf")
  writeFileSync(path, ggufHeader(everyValue, []))
  const file = await GgufFile.open(path)
  t.strictSame([...file.metadata], [...everyValue])
  file.dispose()
})

t.test("errors name the file, the field and what is wrong", async t => {
  const directory = folder(t)
  const refused = async (bytes: Uint8Array, code: string, message: RegExp) => {
    const path = join(directory, "bad.gguf")
    writeFileSync(path, bytes)
    await t.rejects(GgufFile.open(path), tsqError(code, new RegExp(`bad\\.gguf: .*${message.source}`)), String(message))
  }
  const huge = 2n ** 60n
  await refused(Buffer.alloc(0), "ERR_CORRUPT", /ends at byte 0, inside the first four bytes, which needs 4 bytes/)
  await refused(rawGguf({ magic: "GGML" }), "ERR_FORMAT", /begins with "GGML", expected "GGUF"/)
  await refused(rawGguf({ version: 1 }), "ERR_UNSUPPORTED", /version 1, expected version 2 or 3/)
  await refused(rawGguf({ version: 3 << 24 }), "ERR_UNSUPPORTED", /big-endian/)
  await refused(rawGguf({ counts: [huge, 0] }), "ERR_CORRUPT", /number of tensors claims 1152921504606846976 at byte 8/)
  await refused(rawGguf({ counts: [0, huge] }), "ERR_CORRUPT", /number of metadata entries claims 11529/)
  await refused(rawGguf({ counts: [-1, 0] }), "ERR_CORRUPT", /number of tensors claims 18446744073709551615/)
  const values = async (message: RegExp, ...list: Uint8Array[]) =>
    refused(rawGguf({ values: list }), "ERR_CORRUPT", message)
  await values(/key of metadata entry 0 claims/, Buffer.concat([u64(huge), Buffer.alloc(32)]))
  await values(/entry 0 has an empty key/, entry("", 0, Buffer.of(1)))
  await values(/key "k" occurs twice/, entry("k", 0, Buffer.of(1)), entry("k", 0, Buffer.of(1)))
  await values(/metadata "k" is of type 13, expected 0 to 12/, entry("k", 13, u64(0)))
  await values(/metadata "k" claims 1152921504606846976/, entry("k", 8, u64(huge)))
  await values(/metadata "k" is not valid UTF-8/, entry("k", 8, u64(2), Buffer.of(0xc3, 0x28)))
  await values(/metadata "k" holds a boolean of 2/, entry("k", 7, Buffer.of(2)))
  await values(/length of metadata "k" claims 1152921504606846976/, entry("k", 9, u32(5), u64(huge)))
  await values(/length of metadata "k" claims 1152921504606846976/, entry("k", 9, u32(8), u64(huge)))
  await values(/length of metadata "k" claims 1152921504606846976/, entry("k", 9, u32(9), u64(huge)))
  const deep = Array.from({ length: 9 }, () => Buffer.concat([u32(9), u64(1)]))
  await values(/nests arrays deeper than 8/, entry("k", 9, ...deep, u32(0), u64(0)))
  const wide = Array.from({ length: 65_537 }, () => Buffer.concat([u32(0), u64(0)]))
  await values(/arrays inside arrays to over 65536/, entry("k", 9, u32(9), u64(wide.length), ...wide))
  for (const [type, value] of [
    [4, u32(0)],
    [4, u32(24)],
    [5, u32(32)],
    [8, text("32")],
    [9, Buffer.concat([u32(4), u64(0)])],
  ] as const)
    await values(/general\.alignment is .*, expected a power of two as u32/, entry("general.alignment", type, value))
  const tensors = async (code: string, message: RegExp, ...list: RawTensor[]) =>
    refused(rawGguf({ tensors: list }), code, message)
  await tensors("ERR_CORRUPT", /tensor "a" occurs twice/, {}, { offset: 32 })
  await tensors("ERR_CORRUPT", /name of 64 bytes, at most 63/, { name: "é".repeat(32) })
  await tensors("ERR_CORRUPT", /"a" has 5 dimensions, at most 4/, { dimensions: [1, 1, 1, 1, 1] })
  await tensors("ERR_CORRUPT", /"a" has 1152921504606846976 elements of F32, too many/, { dimensions: [huge] })
  await tensors("ERR_CORRUPT", /"a" has 4294967296 × 4294967296 elements/, { dimensions: [2n ** 32n, 2n ** 32n] })
  await tensors("ERR_CORRUPT", /"a" has 0 × 1152921504606846976 elements/, { dimensions: [0, huge] })
  await tensors("ERR_CORRUPT", /"a" has rows of 33 elements, Q4_0 needs a multiple of 32/, {
    dimensions: [33],
    type: 2,
  })
  await tensors("ERR_UNSUPPORTED", /"a" is Q4_2, a type that ggml has removed/, { type: 4 })
  await tensors("ERR_UNSUPPORTED", /"a" is of type 99/, { type: 99 })
  await tensors("ERR_CORRUPT", /"b" begins at byte 64 .* expected 32 \(a hole/, {}, { name: "b", offset: 64 })
  await tensors("ERR_CORRUPT", /"b" begins at byte 0 .* expected 32 \(it overlaps/, {}, { name: "b", offset: 0 })
  await tensors(
    "ERR_CORRUPT",
    /"b" begins at byte 16 .* \(it is no multiple of the alignment, 32\)/,
    {},
    { name: "b", offset: 16 },
  )
  await refused(rawGguf({ tensors: [{}], dataBytes: 16 }), "ERR_CORRUPT", /tensors end at byte 96, the file has 80/)
  await t.rejects(GgufFile.open(join(directory, "none.gguf")), tsqError("ERR_IO", /none\.gguf/))
  await t.rejects(GgufFile.open(directory), { name: "TsqError" })
})

t.test("a header cut anywhere is refused", async t => {
  const path = join(folder(t), "x.gguf")
  const { file: hex } = vector("gguf-file")
  const bytes = Buffer.from(hex, "hex")
  writeFileSync(path, bytes)
  for (let length = bytes.length - 1; length >= 0; length--) {
    truncateSync(path, length)
    const error = await GgufFile.open(path).then(
      () => null,
      error => error,
    )
    if (!(error instanceof TsqError) || !/truncated/.test(error.message)) t.fail(`${length} bytes: ${error}`)
  }
  t.pass(`${bytes.length} lengths`)
})

t.test("parts of a split model", async t => {
  const directory = folder(t)
  const part = (number: number, count: number, name: string, tensors = 3) =>
    Buffer.concat([
      ggufHeader(
        new Map([
          ["split.no", { type: "u16", value: number } as const],
          ["split.count", { type: "u16", value: count } as const],
          ["split.tensors.count", { type: "i32", value: tensors } as const],
        ]),
        [{ name, type: ggmlTypeNamed("F32")!, shape: [2, 4] }],
      ),
      Buffer.alloc(32, number),
    ])
  const path = (number: number, count = 3) => join(directory, `m-0000${number}-of-0000${count}.gguf`)
  for (const index of [0, 1, 2]) writeFileSync(path(index + 1), part(index, 3, `t${index}`))
  const handles = native.handleCount()
  for (const number of [1, 2, 3]) {
    const model = await Gguf.open(path(number))
    t.same([...model.entries.keys()], ["t0", "t1", "t2"])
    t.equal(model.metadata.get("split.no")?.value, 0)
    const out = new Uint8Array(32)
    const { mapping, offset } = model.mapped("t2")
    native.readMapping(mapping, offset, out)
    t.ok(out.every(byte => byte === 2))
    t.throws(() => model.entry("t3"), tsqError("ERR_FORMAT", /"t3" is missing/))
    model.dispose()
  }
  const refused = async (code: string, message: RegExp) =>
    t.rejects(Gguf.open(path(1)), tsqError(code, message), String(message))
  writeFileSync(path(3), part(2, 3, "t1"))
  await refused("ERR_CORRUPT", /"t1" lies in two parts, m-00002-of-00003\.gguf and m-00003-of-00003\.gguf/)
  writeFileSync(path(3), part(1, 3, "t2"))
  await refused("ERR_FORMAT", /m-00003-of-00003\.gguf: metadata split\.no is 1, expected 2/)
  writeFileSync(path(3), ggufHeader(new Map(), []))
  await refused("ERR_FORMAT", /split\.count is missing, expected 3/)
  writeFileSync(path(3), part(2, 3, "t2"))
  writeFileSync(path(1), part(0, 3, "t0", 4))
  await refused("ERR_CORRUPT", /split\.tensors\.count is 4, the 3 parts hold 3 tensors/)
  writeFileSync(path(1), part(0, 4, "t0"))
  await refused("ERR_FORMAT", /is one of 4 parts, expected a name like model-00001-of-00004\.gguf/)
  writeFileSync(path(1, 2), part(0, 2, "t0"))
  await t.rejects(Gguf.open(path(1, 2)), tsqError("ERR_IO", /m-00002-of-00002\.gguf/))
  await t.rejects(Gguf.open(""), tsqError("ERR_OPTION"))
  t.equal(native.handleCount(), handles)
})
