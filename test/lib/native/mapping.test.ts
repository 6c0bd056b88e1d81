import { writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { native } from "../../../lib/native.ts"
import { bytes, floats, refused, test } from "./helpers.ts"

const directory = t.testdir({ empty: "" })
const path = join(directory, "values")
const content = Uint8Array.from({ length: 100_003 }, (_, i) => (i * 31 + (i >> 8)) % 251)
writeFileSync(path, content)

test("a mapped file reads as its bytes", async t => {
  const mapping = native.mapFile(path)
  t.equal(native.mappingBytes(mapping), content.length)
  t.equal(native.handleBytes(mapping), 0)
  const out = new Uint8Array(777)
  native.readMapping(mapping, 99, out)
  t.same(out, content.slice(99, 99 + 777))
  const all = bytes({ length: content.length })
  await native.readMappingAsync(mapping, 0, all)
  t.equal(Buffer.compare(all, content), 0)
  native.dropMapping(mapping, 0, content.length)
  native.readMapping(mapping, content.length, new Uint8Array(0))
  native.readMapping(mapping, 1, out)
  t.same(out, content.slice(1, 778))

  await refused(
    t,
    () => native.readMapping(mapping, content.length - 3, new Uint8Array(4)),
    "ERR_SHAPE",
    /4 bytes at 100000 lie outside/,
  )
  await refused(
    t,
    () => native.readMapping(mapping, 2 ** 53, out),
    "ERR_SHAPE",
    /outside the mapped file of 100003 bytes/,
  )
  await refused(t, () => native.readMapping(mapping, -1, out), "ERR_OPTION", /offset is -1/)
  await refused(t, () => native.dropMapping(mapping, 1, content.length), "ERR_SHAPE", /outside/)
  await refused(t, () => native.readMappingAsync(mapping, 0, out), "ERR_OPTION", /memory that cannot be detached/)
  await refused(
    t,
    () => native.readMapping(mapping, 0, new Float32Array(4) as never),
    "ERR_DTYPE",
    /Float32Array, expected a Uint8Array/,
  )
  native.release(mapping)
})

test("slices are sources, at any alignment", async t => {
  const values = Float32Array.from({ length: 100 }, (_, i) => i / 8 - 5)
  const unaligned = join(directory, "unaligned")
  writeFileSync(unaligned, Buffer.concat([Buffer.from([1, 2, 3]), Buffer.from(values.buffer)]))
  const mapping = native.mapFile(unaligned)
  const slice = { mapping, offset: 3, bytes: 400 }
  const out = floats(new Float32Array(100))
  native.convert(slice, 0, out, 0, 100)
  t.same(Array.from(out), Array.from(values))
  const halves = new Uint16Array(new SharedArrayBuffer(200))
  await native.convertAsync(slice, 0, halves, 1, 100)
  out.fill(0)
  await native.convertAsync(halves, 1, out, 0, 100)
  t.same(Array.from(out), Array.from(values))
  const scan = await native.scan(slice, 0, 100)
  t.same(Array.from(scan), [0, 0, 99 / 8 - 5, -1])

  for (const [bad, code, message] of [
    [{ mapping, offset: 4, bytes: 400 }, "ERR_SHAPE", /400 bytes at 4 of a mapped file of only 403/],
    [{ mapping, offset: 2 ** 53, bytes: 2 ** 53 }, "ERR_SHAPE", /mapped file of only 403 bytes/],
    [{ mapping, offset: 3, bytes: 396 }, "ERR_SHAPE", /396 bytes, expected at least 400/],
    [{ mapping: 0, offset: 3, bytes: 400 }, "ERR_OPTION", /mapping of the mapped slice is 0/],
    [{ mapping, offset: 3 }, "ERR_OPTION", /bytes of the mapped slice is undefined/],
    [null, "ERR_DTYPE", /source is null/],
  ] as const)
    await refused(t, () => native.convertAsync(bad as never, 0, out, 0, 100), code, message)
  const thrown = new Error("from a getter")
  const hostile = {
    get mapping(): number {
      throw thrown
    },
  }
  await t.rejects(native.scan(hostile as never, 0, 1), thrown)
  t.throws(() => native.convert(hostile as never, 0, out, 0, 1), thrown)
  native.release(mapping)
})

test("files that cannot be mapped", async t => {
  await refused(t, () => native.mapFile(join(directory, "missing")), "ERR_IO", /missing/)
  await refused(t, () => native.mapFile(directory), "ERR_IO", /./)
  await refused(t, () => native.mapFile(`${path}\0`), "ERR_OPTION", /NUL/)
  await refused(t, () => native.mapFile(undefined as never), "ERR_OPTION", /path is undefined, expected a string/)
  const empty = native.mapFile(join(directory, "empty"))
  t.equal(native.mappingBytes(empty), 0)
  native.readMapping(empty, 0, new Uint8Array(0))
  await refused(t, () => native.readMapping(empty, 0, new Uint8Array(1)), "ERR_SHAPE", /outside/)
  native.release(empty)
})
