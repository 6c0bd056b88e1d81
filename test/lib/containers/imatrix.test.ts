// Files of importance matrices: both kinds there and back, and what is refused.
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { type ImportanceMatrix, meanSquares } from "../../../lib/containers/imatrix.ts"
import { readImportance, writeImportance } from "../../../lib/containers/imatrix-files.ts"
import { entry, rawGguf, text, u32, u64 } from "./gguf-support.ts"
import { folder, tsqError } from "./support.ts"

const matrix: ImportanceMatrix = {
  entries: new Map([
    ["blk.0.ffn_down.weight", { sums: Float32Array.of(3, 0, 1.5, 7, 8, 9), counts: Float32Array.of(6) }],
    ["blk.0.attn_q.weight", { sums: Float32Array.of(1, 2), counts: Float32Array.of(6) }],
    ["blk.0.ffn_up_exps.weight", { sums: Float32Array.of(4, 2, 5, 5, 9, 6), counts: Float32Array.of(2, 0, 3) }],
  ]),
  datasets: ["first.txt", "tales.txt"],
  chunks: 2,
  chunkSize: 3,
}

t.test("GGUF there and back, in the order of names", async t => {
  const path = join(folder(t), "imatrix.gguf")
  await writeImportance(path, matrix)
  const found = await readImportance(path)
  t.strictSame([...found.entries.keys()], ["blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.0.ffn_up_exps.weight"])
  for (const [name, wanted] of matrix.entries) t.strictSame({ ...found.entries.get(name) }, wanted, name)
  t.match(found, { datasets: matrix.datasets, chunks: 2, chunkSize: 3 })
  await t.rejects(writeImportance(path, matrix), tsqError("ERR_OPTION", /exists already/))
  await writeImportance(path, { ...matrix, chunks: 5 }, { force: true })
  t.equal((await readImportance(path)).chunks, 5)
})

t.test("the old kind there and back", async t => {
  const at = folder(t)
  const path = join(at, "imatrix.dat")
  await writeImportance(path, matrix)
  const found = await readImportance(path)
  t.match(found, { datasets: ["tales.txt"], chunks: 2, chunkSize: 0 })
  // Six rows of chunks of three are two calls, and the floats mean squares times that.
  t.strictSame(
    { ...found.entries.get("blk.0.attn_q.weight") },
    {
      sums: Float32Array.from([1, 2], sum => Math.fround(sum / 6) * 2),
      counts: Float32Array.of(2),
    },
  )
  for (const name of matrix.entries.keys())
    t.strictSame(meanSquares(found.entries.get(name)!), meanSquares(matrix.entries.get(name)!), name)
  await t.rejects(writeImportance(path, matrix), tsqError("ERR_OPTION", /exists already/))
  t.strictSame(readdirSync(at), ["imatrix.dat"], "nothing is left behind")
})

t.test("byte for byte", async t => {
  const path = join(folder(t), "imatrix.dat")
  const entries = new Map([["w", { sums: Float32Array.of(8), counts: Float32Array.of(4) }]])
  await writeImportance(path, { entries, datasets: ["d"], chunks: 1, chunkSize: 4 })
  const f32 = Buffer.from(Float32Array.of(2).buffer)
  t.equal(
    readFileSync(path).toString("hex"),
    Buffer.concat([u32(1), u32(1), Buffer.from("w"), u32(1), u32(1), f32, u32(1), u32(1), Buffer.from("d")]).toString(
      "hex",
    ),
  )
})

t.test("means", t => {
  t.strictSame(
    Array.from(meanSquares(matrix.entries.get("blk.0.ffn_up_exps.weight")!)),
    [2, 1, 1, 1, 3, 2],
    "1 where no row came",
  )
  t.equal(meanSquares(matrix.entries.get("blk.0.attn_q.weight")!)[0], Math.fround(1 / 6))
  t.end()
})

const name = (value: string) => Buffer.concat([u32(value.length), Buffer.from(value)])
const floats = (...values: number[]) => Buffer.from(Float32Array.from(values).buffer)
const oldEntry = (called = "w", calls = 1, values = floats(1, 2), count = values.length / 4) =>
  Buffer.concat([name(called), u32(calls), u32(count), values])

t.test("old files: what may be missing, and what may not", async t => {
  const path = join(folder(t), "some.dat")
  const read = (...parts: Uint8Array[]) => {
    writeFileSync(path, Buffer.concat(parts))
    return readImportance(path)
  }
  t.match(await read(u32(1), oldEntry()), { datasets: [], chunks: 0 })
  t.match(await read(u32(1), oldEntry(), u32(9)), { datasets: [], chunks: 9 })
  const uncounted = (await read(u32(1), oldEntry("w", 0))).entries.get("w")!
  t.strictSame(Array.from(meanSquares(uncounted)), [1, 2], "without calls the floats are taken as they are")
  const refused = (code: string, message: RegExp, ...parts: Uint8Array[]) =>
    t.rejects(read(...parts), tsqError(code, message))
  await refused("ERR_FORMAT", /neither a GGUF file nor/)
  await refused("ERR_FORMAT", /neither/, u32(0), oldEntry())
  await refused("ERR_FORMAT", /neither/, u32(2 ** 31 - 1), oldEntry())
  await refused("ERR_FORMAT", /neither/, Buffer.from('{"model": 1}'))
  await refused(
    "ERR_CORRUPT",
    /the name of entry 0: 4294967295 are claimed/,
    u32(1),
    u32(2 ** 32 - 1),
    Buffer.alloc(20),
  )
  await refused("ERR_CORRUPT", /the values in the entry of "w"/, u32(1), oldEntry("w", 1, floats(1), 2 ** 30))
  await refused("ERR_CORRUPT", /has 0 sums/, u32(1), oldEntry("long-name", 1, floats()))
  await refused("ERR_CORRUPT", /name of another, "w"/, u32(2), oldEntry(), oldEntry())
  await refused("ERR_CORRUPT", /has no name/, u32(1), oldEntry(""))
  await refused("ERR_CORRUPT", /UTF-8/, u32(1), u32(1), Buffer.of(0xff), u32(1), u32(1), floats(1))
  await refused("ERR_CORRUPT", /ends at byte/, u32(2), oldEntry(), name("wxyz"), u32(1), Buffer.alloc(1))
  await refused("ERR_CORRUPT", /the name of the text/, u32(1), oldEntry(), u32(1), u32(5))
  await refused("ERR_CORRUPT", /2 bytes after/, u32(1), oldEntry(), u32(1), u32(0), Buffer.alloc(2))
  await refused("ERR_NUMERIC", /"w".*sum 1 is NaN/, u32(1), oldEntry("w", 1, floats(1, Number.NaN)))
  await refused("ERR_NUMERIC", /sum 0 is -1/, u32(1), oldEntry("w", 1, floats(-1)))
  await t.rejects(readImportance(join(path, "none")), { code: "ERR_IO" })
  await t.rejects(readImportance(""), { code: "ERR_OPTION" })
})

t.test("every truncation of both kinds is refused or complete", async t => {
  const at = folder(t)
  for (const kind of ["gguf", "dat"]) {
    const path = join(at, `whole.${kind}`)
    await writeImportance(path, matrix)
    const bytes = readFileSync(path)
    for (let length = 0; length < bytes.length; length += 1 + (length >> 5)) {
      const cut = join(at, `cut.${kind}`)
      writeFileSync(cut, bytes.subarray(0, length))
      const found = await readImportance(cut).then(
        ({ entries }) => entries.size,
        error => (/^ERR_(CORRUPT|FORMAT)$/.test(error.code) ? "refused" : error),
      )
      // What follows the entries of the old kind may be missing.
      if (found !== 3) t.equal(found, "refused", `${kind} of ${length} bytes`)
      else if (kind === "gguf") t.ok(length > bytes.length - 32, `only padding is missing from ${length} bytes`)
    }
  }
})

t.test("GGUF files that are no matrices", async t => {
  const path = join(folder(t), "some.gguf")
  const string = (key: string, value: string) => entry(key, 8, text(value))
  const keys = [
    string("general.type", "imatrix"),
    entry("imatrix.datasets", 9, u32(8), u64(0)),
    entry("imatrix.chunk_count", 4, u32(1)),
    entry("imatrix.chunk_size", 4, u32(512)),
  ]
  const tensor = (called: string, offset: number, size = 2, type = 0) => ({
    name: called,
    dimensions: [size],
    type,
    offset,
  })
  const pair = [tensor("w.in_sum2", 0), tensor("w.counts", 32, 1)]
  const refused = async (code: string, message: RegExp, values: Uint8Array[], tensors: object[]) => {
    writeFileSync(path, rawGguf({ values, tensors }))
    await t.rejects(readImportance(path), tsqError(code, message))
  }
  writeFileSync(path, rawGguf({ values: keys, tensors: pair }))
  t.strictSame(Array.from(meanSquares((await readImportance(path)).entries.get("w")!)), [1, 1])
  await refused("ERR_FORMAT", /general.type is "model"/, [string("general.type", "model")], pair)
  await refused("ERR_FORMAT", /imatrix.chunk_count is missing/, keys.toSpliced(2, 1), pair)
  await refused("ERR_FORMAT", /no sums/, keys, [])
  await refused("ERR_CORRUPT", /"w" has sums and no counts/, keys, pair.slice(0, 1))
  await refused("ERR_CORRUPT", /"w" has counts and no sums/, keys, [tensor("w.counts", 0)])
  await refused("ERR_CORRUPT", /2 sums and 3 counts/, keys, [pair[0]!, tensor("w.counts", 32, 3)])
  await refused("ERR_FORMAT", /w.counts" is F16, expected F32/, keys, [pair[0]!, tensor("w.counts", 32, 1, 1)])
  await t.rejects(writeImportance(join(path, "x.txt"), matrix), tsqError("ERR_OPTION", /\.gguf or \.dat/))
  t.notOk(existsSync(join(path, "x.txt")))
})
