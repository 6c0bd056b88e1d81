import { execFileSync } from "node:child_process"
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { type FileHandle, open } from "node:fs/promises"
import { join } from "node:path"
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { OutputDirectory } from "../../../lib/containers/output.ts"
import { SafetensorsFile } from "../../../lib/containers/safetensors.ts"
import { type NamedTensor, SafetensorsWriter } from "../../../lib/containers/safetensors-writer.ts"
import { Tensor } from "../../../lib/core/tensor.ts"
import { folder, random, tsqError, vector } from "./support.ts"

const tensor = (name: string, bytes: Uint8Array): NamedTensor => ({
  name,
  dtype: "U8",
  shape: [bytes.length],
  data: bytes,
})

t.test("the reference writer's file, byte for byte, whatever the order of the calls", async t => {
  const { tensors, file } = vector("safetensors-file")
  for (const order of [tensors, [...tensors].reverse()]) {
    const directory = folder(t)
    const writer = new SafetensorsWriter(directory)
    for (const { name, dtype, shape, data } of order)
      await writer.add({ name, dtype, shape, data: Buffer.from(data, "hex") })
    t.same(await writer.finish(), { files: ["model.safetensors"], totalBytes: 29 })
    t.equal(readFileSync(join(directory, "model.safetensors")).toString("hex"), file)
    t.same(readdirSync(directory), ["model.safetensors"], "nothing else is left")
  }
})

t.test("announced tensors are written once, into the same files", async t => {
  const { below, pick } = random(9)
  for (let round = 0; round < 20; round++) {
    const maxShardBytes = pick([64, 1000, 10_000])
    const list = Array.from({ length: 1 + below(12) }, (_, i): NamedTensor => {
      const bytes = below(200) * 4
      const data = Uint8Array.from({ length: bytes }, () => below(256))
      return {
        name: `t${(i * 7) % 13}.${i}`,
        ...pick([
          { dtype: "U8", shape: [bytes] },
          { dtype: "F32", shape: [bytes / 4] },
        ]),
        data,
      }
    })
    const files = await Promise.all(
      [{}, { tensors: list.map(({ data: _, ...tensor }) => tensor) }].map(async announced => {
        const directory = folder(t)
        const writer = new SafetensorsWriter(directory, { maxShardBytes, ...announced })
        for (const tensor of list) await writer.add(tensor)
        await writer.finish()
        return readdirSync(directory).map(name => [name, readFileSync(join(directory, name)).toString("base64")])
      }),
    )
    t.strictSame(files[1], files[0])
  }
  const one = { name: "a", dtype: "U8", shape: [2] }
  const data = new Uint8Array(2)
  const announced = (tensors: Omit<NamedTensor, "data">[]) => {
    const directory = folder(t)
    return { directory, writer: new SafetensorsWriter(directory, { tensors }) }
  }
  const unknown = announced([one])
  await t.rejects(unknown.writer.add({ ...one, name: "b", data }), tsqError("ERR_FORMAT", /"b": other tensors/))
  await unknown.writer.discard()
  t.strictSame(readdirSync(unknown.directory), [])
  for (const other of [{ dtype: "I8" }, { shape: [2, 1] }]) {
    const { writer } = announced([one])
    await t.rejects(writer.add({ ...one, ...other, data }), tsqError("ERR_FORMAT", /"a": other tensors have come/))
    await writer.discard()
  }
  const { writer } = announced([one])
  await t.rejects(writer.finish(), tsqError("ERR_FORMAT", /other tensors have come/))
  await writer.discard()
})

t.test("without a tensor: a file that reads back empty", async t => {
  const directory = folder(t)
  t.same(await new SafetensorsWriter(directory).finish(), { files: ["model.safetensors"], totalBytes: 0 })
  const file = await SafetensorsFile.open(join(directory, "model.safetensors"))
  t.equal(file.entries.size, 0)
  file.dispose()
})

t.test("random tensors in shards read back", async t => {
  const { below, pick } = random(5)
  for (let round = 0; round < 20; round++) {
    const directory = folder(t)
    const maxShardBytes = pick([1, 64, 1000, 10_000])
    const writer = new SafetensorsWriter(directory, { maxShardBytes })
    const written = new Map<string, NamedTensor & { data: Uint8Array }>()
    const pending: Promise<void>[] = []
    for (let i = 0; i < 1 + below(12); i++) {
      const dtype = pick(["U8", "I32", "BF16", "I64"])
      const shape = Array.from({ length: below(3) }, () => below(9))
      const size = shape.reduce((a, b) => a * b, 1) * { U8: 1, I32: 4, BF16: 2, I64: 8 }[dtype]!
      const data = Uint8Array.from({ length: size }, () => below(256))
      const named = { name: pick(["é", "a.", "Z", "model.layers."]) + i, dtype, shape, data }
      written.set(named.name, named)
      pending.push(writer.add(named))
    }
    await Promise.all(pending)
    const { files, totalBytes } = await writer.finish()
    t.equal(
      totalBytes,
      [...written.values()].reduce((sum, { data }) => sum + data.length, 0),
    )
    t.same(readdirSync(directory).sort(), [...files].sort())
    writeFileSync(join(directory, "config.json"), "{}")
    const checkpoint = await Checkpoint.open(directory)
    t.same([...checkpoint.names].sort(), [...written.keys()].sort())
    for (const { name, dtype, shape, data } of written.values()) {
      t.match(checkpoint.entry(name), { dtype, shape })
      t.same(Buffer.from(await checkpoint.readBytes(name)), Buffer.from(data))
    }
    if (files.length > 1) {
      const index = JSON.parse(readFileSync(join(directory, "model.safetensors.index.json"), "utf8"))
      t.equal(index.metadata.total_size, totalBytes)
      t.ok(
        files
          .slice(0, -1)
          .every(
            (file, i) =>
              file ===
              `model-${String(i + 1).padStart(5, "0")}-of-${String(files.length - 1).padStart(5, "0")}.safetensors`,
          ),
      )
    }
    checkpoint.dispose()
  }
})

t.test("takes tensors, also mapped ones larger than its copy buffer", async t => {
  const [first, second] = [folder(t), folder(t)]
  const values = Tensor.empty([9_000_001], "u8")
  const data = values.data as Uint8Array
  for (let i = 0; i < data.length; i += 997) data[i] = i % 251
  const writer = new SafetensorsWriter(first)
  await writer.add({ name: "large", dtype: "U8", shape: values.shape, data: values })
  await writer.add({ name: "half", dtype: "F16", shape: [2], data: Tensor.from(Uint16Array.of(1, 0x3c00), [2], "f16") })
  await writer.finish()
  writeFileSync(join(first, "config.json"), "{}")
  const source = await Checkpoint.open(first)
  const copy = new SafetensorsWriter(second)
  for (const name of source.names) {
    const { dtype, shape } = source.entry(name)
    await copy.add({ name, dtype, shape, data: source.tensor(name) })
  }
  await copy.finish()
  source.dispose()
  t.ok(
    readFileSync(join(first, "model.safetensors")).equals(readFileSync(join(second, "model.safetensors"))),
    "a copy is identical",
  )
})

t.test("refuses wrong tensors and stays closed afterwards", async t => {
  const directory = folder(t)
  const one = () => new SafetensorsWriter(directory)
  const four = new Uint8Array(4)
  await t.rejects(
    one().add({ name: "a", dtype: "F32", shape: [2], data: four }),
    tsqError("ERR_SHAPE", /"a": has 4 bytes, F32 \[2\] needs 8/),
  )
  await t.rejects(one().add({ name: "a", dtype: "F33", shape: [1], data: four }), tsqError("ERR_FORMAT", /F33/))
  await t.rejects(
    one().add({ name: "__metadata__", dtype: "U8", shape: [4], data: four }),
    tsqError("ERR_FORMAT", /reserved/),
  )
  const writer = one()
  await writer.add(tensor("a", four))
  await t.rejects(writer.add(tensor("a", four)), tsqError("ERR_FORMAT", /twice/))
  await t.rejects(writer.add(tensor("b", four)), tsqError("ERR_OPTION", /has failed/))
  await t.rejects(writer.finish(), tsqError("ERR_OPTION", /has failed/))
  await writer.discard()
  t.same(readdirSync(directory), [])
  t.throws(() => new SafetensorsWriter(directory, { maxShardBytes: 0 }), tsqError("ERR_OPTION", /maxShardBytes/))
  const finished = one()
  await finished.finish()
  await t.rejects(finished.finish(), tsqError("ERR_OPTION", /has finished/))
  await finished.discard()
  t.same(readdirSync(directory), ["model.safetensors"], "what was finished is kept")
})

t.test("abort", async t => {
  const directory = folder(t)
  const controller = new AbortController()
  const writer = new SafetensorsWriter(directory, { signal: controller.signal, maxShardBytes: 4 })
  await writer.add(tensor("a", new Uint8Array(4)))
  controller.abort(new Error("enough"))
  await t.rejects(writer.add(tensor("b", new Uint8Array(4))), {
    name: "AbortError",
    code: "ERR_ABORTED",
    cause: { message: "enough" },
  })
  await writer.discard()
  t.same(readdirSync(directory), [])
})

/** A file system of `kilobytes`, or null where mounting is not allowed. */
function smallDisk(t: { teardown(handler: () => void): unknown }, directory: string, kilobytes: number): string | null {
  const path = join(directory, "small")
  mkdirSync(path)
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${kilobytes}k`, "none", path], { stdio: "ignore" })
  } catch {
    return null
  }
  t.teardown(() => execFileSync("umount", [path]))
  return path
}

t.test("a full disk: says so, and can be cleaned up", async t => {
  const path = smallDisk(t, folder(t), 64)
  if (path === null) return t.comment("mounting is not allowed here; the next test injects the failure")
  const writer = new SafetensorsWriter(path)
  await writer.add(tensor("small", new Uint8Array(8000)))
  await t.rejects(
    writer.add(tensor("large", new Uint8Array(100_000))),
    tsqError("ERR_IO", /"large".*the disk is full: free some space/),
  )
  await writer.discard()
  t.same(readdirSync(path), [])
  // The data fits, its final layout does not.
  const late = new SafetensorsWriter(path)
  await late.add(tensor("a", new Uint8Array(40_000)))
  await t.rejects(late.finish(), tsqError("ERR_IO", /the disk is full/))
  await late.discard()
  t.same(readdirSync(path), [])
})

t.test("a full disk leaves an earlier output alone", async t => {
  const path = smallDisk(t, folder(t), 64)
  if (path === null)
    return t.comment("mounting is not allowed here; test/lib/containers/output.test.ts has the same without a disk")
  const out = join(path, "out")
  mkdirSync(out)
  writeFileSync(join(out, "model.safetensors"), "earlier")
  const output = await OutputDirectory.create(out, { force: true })
  const writer = new SafetensorsWriter(output.path)
  await t.rejects(writer.add(tensor("large", new Uint8Array(100_000))), tsqError("ERR_IO", /the disk is full/))
  await writer.discard()
  await output.discard()
  t.same(readdirSync(path), ["out"])
  t.equal(readFileSync(join(out, "model.safetensors"), "utf8"), "earlier")
})

t.test("a failing write, injected: the system's error becomes advice", async t => {
  const directory = folder(t)
  const probe = await open(join(directory, "probe"), "w")
  const prototype = Object.getPrototypeOf(probe) as FileHandle
  await probe.close()
  const { write } = prototype
  t.teardown(() => {
    prototype.write = write
  })
  for (const [code, advice] of [
    ["ENOSPC", /the disk is full/],
    ["EDQUOT", /quota/],
    ["EIO", /EIO/],
  ] as const) {
    const writer = new SafetensorsWriter(directory)
    await writer.add(tensor("a", new Uint8Array(10)))
    prototype.write = (async () => {
      throw Object.assign(new Error(`${code}: failed`), { code })
    }) as never
    await t.rejects(writer.add(tensor("b", new Uint8Array(10))), tsqError("ERR_IO", advice))
    prototype.write = write
    await writer.discard()
  }
  prototype.write = (async () => ({ bytesWritten: 0 })) as never
  const stuck = new SafetensorsWriter(directory)
  await t.rejects(stuck.add(tensor("a", new Uint8Array(10))), tsqError("ERR_IO", /wrote 0 bytes/))
  prototype.write = write
  await stuck.discard()
  t.same(readdirSync(directory), ["probe"])
})
