import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Gguf } from "../../../lib/containers/gguf.ts"
import { ggufHeader } from "../../../lib/containers/gguf-bytes.ts"
import { type GgmlType, type GgufMetadata, type GgufValue, ggmlTypeNamed } from "../../../lib/containers/gguf-types.ts"
import { type GgufTensorPlan, GgufWriter, type GgufWriterOptions } from "../../../lib/containers/gguf-writer.ts"
import { NativeHandle, native } from "../../../lib/native.ts"
import { everyValue } from "./gguf-support.ts"
import { folder, tsqError, type Vector, vector } from "./support.ts"

const type = (name: string): GgmlType => ggmlTypeNamed(name)!
const noMetadata: GgufMetadata = new Map()

t.test("writes the reference writer's file", async t => {
  const path = join(folder(t), "new", "x.gguf")
  const { file: hex, kv, tensors } = vector("gguf-file")
  const arrays: Record<string, (value: never) => unknown> = { i32: Int32Array.from.bind(Int32Array), str: v => v }
  const value = (v: Vector): GgufValue => {
    const [kind, of] = v.type.split(":")
    const name = (text: string) => (text === "str" ? "string" : text)
    if (kind === "arr") return { type: "array", of: name(of), value: arrays[of]!(v.value as never) } as GgufValue
    return { type: name(kind), value: v.value } as GgufValue
  }
  const byId = new Map(["F32", "Q4_0"].map(name => [type(name).id, type(name)]))
  const writer = await GgufWriter.create(path, {
    metadata: new Map(kv.map((v: Vector) => [v.key, value(v)])),
    tensors: tensors.map(({ name, ne, type }: Vector) => ({ name, type: byId.get(type)!, shape: [...ne].reverse() })),
  })
  for (const { name, data } of tensors) await writer.write(name, Buffer.from(data, "hex"))
  t.notOk(existsSync(path), "nothing under the final name before the end")
  t.same(await writer.finish(), { files: [path], totalBytes: 16 + 36 })
  t.equal(readFileSync(path).toString("hex"), hex)
  t.same(readdirSync(join(path, "..")), ["x.gguf"])
  await t.rejects(writer.finish(), tsqError("ERR_OPTION", /has finished/))
  await writer.discard()
  t.ok(existsSync(path), "discarding a finished file keeps it")
})

const plan = (count: number): GgufTensorPlan[] =>
  Array.from({ length: count }, (_, i) => ({ name: `t${i}`, type: type("Q8_0"), shape: [2, 32 * (i + 1)] }))

async function write(path: string, options: Partial<GgufWriterOptions> & { tensors: GgufTensorPlan[] }) {
  const writer = await GgufWriter.create(path, { metadata: noMetadata, ...options })
  for (const [i, { name, shape }] of options.tensors.entries())
    await writer.write(name, new Uint8Array((shape[0]! * shape[1]! * 34) / 32).fill(i + 1))
  return writer.finish()
}

t.test("parts, and back to one file", async t => {
  const directory = folder(t)
  const path = join(directory, "m.gguf")
  const tensors = plan(5)
  const { files, totalBytes } = await write(path, { tensors, metadata: everyValue, maxPartBytes: 300 })
  // 68 + 136, 204, 272, 340: the last one is larger than a part.
  t.same(
    files,
    [1, 2, 3, 4].map(part => join(directory, `m-0000${part}-of-00004.gguf`)),
  )
  t.equal(totalBytes, 68 * 15)
  t.same(readdirSync(directory).length, 4)
  const model = await Gguf.open(files[2]!)
  t.same([...model.entries.keys()], ["t0", "t1", "t2", "t3", "t4"])
  t.same(
    model.files.map(({ metadata }) => metadata.size),
    [everyValue.size + 3, 3, 3, 3],
  )
  const whole = join(directory, "whole.gguf")
  const writer = await GgufWriter.create(whole, {
    metadata: model.metadata,
    tensors: [...model.entries.values()],
  })
  for (const { name } of tensors) await writer.write(name, model.mapped(name))
  await writer.finish()
  model.dispose()
  await write(path, { tensors, metadata: everyValue })
  t.ok(readFileSync(whole).equals(readFileSync(path)), "the same as written at once")
})

t.test("alignment", async t => {
  const path = join(folder(t), "m.gguf")
  const metadata: GgufMetadata = new Map([["general.alignment", { type: "u32", value: 128 }]])
  const { files } = await write(path, { tensors: plan(3), metadata, maxPartBytes: 250 })
  t.equal(files.length, 2)
  const model = await Gguf.open(files[0]!)
  for (const { offset } of model.entries.values()) t.equal(offset % 128, 0)
  model.dispose()
  for (const value of [
    { type: "u32", value: 24 },
    { type: "i32", value: 32 },
    { type: "u32", value: 131_072 },
  ] as const)
    await t.rejects(
      GgufWriter.create(path, { metadata: new Map([["general.alignment", value]]), tensors: [] }),
      tsqError("ERR_OPTION", /power of two/),
    )
})

t.test("pieces of any size, from memory and from mapped files", async t => {
  const directory = folder(t)
  const path = join(directory, "m.gguf")
  const source = join(directory, "source")
  writeFileSync(source, Buffer.alloc(500, 9))
  const mapping = new NativeHandle(native.mapFile(source), "source")
  const tensors = [
    { name: "a", type: type("I8"), shape: [1000] },
    { name: "none", type: type("F32"), shape: [0, 3] },
    { name: "b", type: type("I8"), shape: [40] },
  ]
  const writer = await GgufWriter.create(path, { metadata: noMetadata, tensors })
  // Not awaited in between: calls are carried out in turn.
  const writes = [
    writer.write("a", new Uint8Array(1).fill(8)),
    writer.write("a", { mapping: mapping.value, offset: 0, bytes: 500 }),
    writer.write("a", new Uint8Array(0)),
    writer.write("a", new Uint8Array(499).fill(7)),
    writer.write("b", new Uint8Array(40).fill(6)),
  ]
  await Promise.all(writes)
  await writer.finish()
  mapping.dispose()
  const model = await Gguf.open(path)
  const read = (name: string) => {
    const { mapping, offset, bytes } = model.mapped(name)
    const out = new Uint8Array(bytes)
    if (bytes > 0) native.readMapping(mapping, offset, out)
    return [...new Set(out)]
  }
  t.same([read("a"), read("none"), read("b")], [[8, 9, 7], [], [6]])
  model.dispose()
})

t.test("what does not fit the declaration", async t => {
  const directory = folder(t)
  const attempt = async (message: RegExp, use: (writer: GgufWriter) => Promise<unknown>) => {
    const writer = await GgufWriter.create(join(directory, "m.gguf"), { metadata: noMetadata, tensors: plan(2) })
    await t.rejects(use(writer), { name: "TsqError", message }, String(message))
    await t.rejects(writer.finish(), tsqError("ERR_OPTION", /has failed/))
    await writer.discard()
    t.same(readdirSync(directory), [])
  }
  const all = (writer: GgufWriter) => writer.write("t0", new Uint8Array(68))
  await attempt(/"t0" needs 68 bytes: 0 have come, then 69 of "t0"/, w => w.write("t0", new Uint8Array(69)))
  await attempt(/"t0" needs 68 bytes: 0 have come, then 4 of "t1"/, w => w.write("t1", new Uint8Array(4)))
  await attempt(/"t0" needs 68 bytes: 68 have come, then 1 of "t0"/, async w => {
    await all(w)
    await w.write("t0", new Uint8Array(1))
  })
  await attempt(/"t1" needs 136 bytes: 0 have come, then the end/, async w => {
    await all(w)
    await w.finish()
  })
  await attempt(/"x": bytes came after/, async w => {
    await all(w)
    await w.write("t1", new Uint8Array(136))
    await w.write("x", new Uint8Array(1))
  })
})

t.test("refused before anything is written", async t => {
  const directory = folder(t)
  const path = join(directory, "m.gguf")
  const refused = async (code: string, message: RegExp, options: Partial<GgufWriterOptions>, name = path) =>
    t.rejects(
      GgufWriter.create(name, { metadata: noMetadata, tensors: [], ...options }),
      tsqError(code, message),
      String(message),
    )
  const f32 = type("F32")
  const tensor = (fields: object) => ({ tensors: [{ name: "a", type: f32, shape: [4], ...fields }] })
  await refused("ERR_FORMAT", /"a": the name was declared twice/, {
    tensors: [...tensor({}).tensors, ...tensor({}).tensors],
  })
  await refused("ERR_FORMAT", /name of 64 bytes/, tensor({ name: "x".repeat(64) }))
  await refused("ERR_SHAPE", /5 dimensions/, tensor({ shape: [1, 1, 1, 1, 1] }))
  await refused(
    "ERR_SHAPE",
    /rows of 33 elements, Q4_0 needs a multiple of 32/,
    tensor({ type: type("Q4_0"), shape: [32, 33] }),
  )
  for (const shape of [[-1], [1.5], [2 ** 53], [2 ** 30, 2 ** 30]])
    await refused("ERR_SHAPE", /sizes that can be counted/, tensor({ shape }))
  await refused("ERR_OPTION", /maxPartBytes is 0/, { maxPartBytes: 0 })
  await refused("ERR_OPTION", /name of a \.gguf file/, {}, join(directory, "m.bin"))
  const value = async (message: RegExp, key: string, value: unknown) =>
    refused("ERR_OPTION", message, { metadata: new Map([[key, value as GgufValue]]) })
  await value(/key may not be empty/, "", { type: "u8", value: 1 })
  await value(/"k" is 256, expected 0 to 255, being of type u8/, "k", { type: "u8", value: 256 })
  await value(/"k" is 1\.5, expected an integer/, "k", { type: "i32", value: 1.5 })
  await value(/"k" is 1, expected a bigint/, "k", { type: "u64", value: 1 })
  await value(/"k" is -1, expected 0 to 18446744073709551615/, "k", { type: "u64", value: -1n })
  await value(/"k" is 1, expected true or false/, "k", { type: "bool", value: 1 })
  await value(/"k" is x, expected a number/, "k", { type: "f32", value: "x" })
  await value(/"k" .* no valid Unicode/, "k", { type: "string", value: "\ud800" })
  await value(/array of i32, expected its values in a Int32Array/, "k", { type: "array", of: "i32", value: [1] })
  await value(/neither 0 nor 1/, "k", { type: "array", of: "bool", value: Uint8Array.of(2) })
  t.same(readdirSync(directory), [])
  writeFileSync(path, "precious")
  await refused("ERR_OPTION", /m\.gguf exists already/, {})
  t.equal(readFileSync(path, "utf8"), "precious")
  await write(path, { tensors: plan(1), force: true })
  t.equal(readFileSync(path).subarray(0, 4).toString(), "GGUF")
})

t.test("aborting, and what killed runs left", async t => {
  const directory = folder(t)
  const path = join(directory, "m.gguf")
  writeFileSync(`${path}.tsq-partial-999999999-00000000`, "left by a process that is gone")
  const abort = new AbortController()
  const writer = await GgufWriter.create(path, { metadata: noMetadata, tensors: plan(1), signal: abort.signal })
  await writer.write("t0", new Uint8Array(10))
  abort.abort(new Error("enough"))
  await t.rejects(writer.write("t0", new Uint8Array(58)), { name: "AbortError", code: "ERR_ABORTED" })
  await writer.discard()
  t.same(readdirSync(directory), [])
})

t.test("a header of nothing", async t => {
  t.equal(ggufHeader(noMetadata, []).length, 32)
})
