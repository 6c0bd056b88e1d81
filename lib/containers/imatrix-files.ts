// The two kinds of files that hold importance matrices: GGUF files, and those that llama-imatrix wrote before (imatrix-dat.ts).
// Source: ggml-org/llama.cpp, tools/imatrix/imatrix.cpp, common/imatrix-loader.cpp and tools/quantize/quantize.cpp.
import { TsqError } from "../core/errors.ts"
import { bytesOf, sharedBytes } from "../core/shared-array.ts"
import { NativeHandle, native } from "../native.ts"
import { Cursor } from "./cursor.ts"
import { type GgufEntry, GgufFile } from "./gguf.ts"
import { GgufFields, string, strings, u32 } from "./gguf-fields.ts"
import { type GgufMetadata, ggmlTypeNamed, magic } from "./gguf-types.ts"
import { GgufWriter } from "./gguf-writer.ts"
import {
  checkedEntry,
  type ImportanceEntry,
  type ImportanceMatrix,
  sorted,
  type WriteImportanceOptions,
} from "./imatrix.ts"
import { readOldMatrix, writeOldMatrix } from "./imatrix-dat.ts"

const sumsSuffix = ".in_sum2"
const countsSuffix = ".counts"
const keys = { datasets: "imatrix.datasets", chunks: "imatrix.chunk_count", chunkSize: "imatrix.chunk_size" } as const

/**
 * Reads a file of either kind. ERR_IO when it cannot be opened, ERR_CORRUPT when it contradicts itself or ends too soon, ERR_FORMAT
 * for another sort of file, ERR_NUMERIC for sums and counts that are negative or no finite numbers.
 */
export async function readImportance(path: string): Promise<ImportanceMatrix> {
  if (typeof path !== "string" || path === "")
    throw new TsqError("ERR_OPTION", "the path of an importance matrix is expected")
  const mapping = new NativeHandle(native.mapFile(path), `the mapping of ${path}`)
  try {
    const bytes = native.mappingBytes(mapping.value)
    const cursor = new Cursor(mapping.value, bytes, path)
    if (bytes < 4 || new Cursor(mapping.value, bytes, path).u32("the first number") !== magic)
      return await readOldMatrix(cursor)
  } finally {
    mapping.dispose()
  }
  return readGgufMatrix(path)
}

/** Writes a GGUF file or, where the name ends in ".dat", one of the old kind. The file appears when it is complete. */
export async function writeImportance(
  path: string,
  matrix: ImportanceMatrix,
  options: WriteImportanceOptions = {},
): Promise<void> {
  checkImportancePath(path)
  if (path.endsWith(".dat")) return writeOldMatrix(path, matrix, options)
  const metadata: GgufMetadata = new Map([
    ["general.type", string("imatrix")],
    [keys.datasets, strings(matrix.datasets)],
    [keys.chunks, u32(matrix.chunks)],
    [keys.chunkSize, u32(matrix.chunkSize)],
  ])
  const type = ggmlTypeNamed("F32")!
  // ggml leaves out trailing dimensions of 1.
  const shape = (matrices: number, k: number) => (matrices === 1 ? [k] : [matrices, k])
  const tensors = sorted(matrix).flatMap(([name, { sums, counts }]) => [
    { name: name + sumsSuffix, type, shape: shape(counts.length, sums.length / counts.length), values: sums },
    { name: name + countsSuffix, type, shape: shape(counts.length, 1), values: counts },
  ])
  const writer = await GgufWriter.create(path, { metadata, tensors, ...options })
  try {
    for (const { name, values } of tensors) await writer.write(name, bytesOf(values))
    await writer.finish()
  } finally {
    await writer.discard()
  }
}

/** ERR_OPTION for a name that is of neither kind. */
export function checkImportancePath(path: string): void {
  if (typeof path !== "string" || !/\.(gguf|dat)$/.test(path))
    throw new TsqError(
      "ERR_OPTION",
      `the importance matrix is to be written to ${JSON.stringify(path)}, expected the name of a .gguf or .dat file`,
    )
}

async function readGgufMatrix(path: string): Promise<ImportanceMatrix> {
  const file = await GgufFile.open(path)
  try {
    const fields = new GgufFields(file.metadata, path)
    if (fields.string("general.type", null) !== "imatrix")
      fields.fail("general.type", 'that of an importance matrix, "imatrix"')
    const entries = new Map<string, ImportanceEntry>()
    for (const [name, entry] of file.entries) {
      if (name.endsWith(countsSuffix)) {
        const of = name.slice(0, -countsSuffix.length)
        if (!file.entries.has(of + sumsSuffix)) throw lone(path, of, "counts and no sums")
      }
      if (!name.endsWith(sumsSuffix)) continue
      const of = name.slice(0, -sumsSuffix.length)
      const counts = file.entries.get(of + countsSuffix)
      if (!counts) throw lone(path, of, "sums and no counts")
      const [sums, rows] = [await floatsOf(entry), await floatsOf(counts)]
      // Counts are whole numbers in floats; ggml rounds them, too.
      entries.set(of, checkedEntry(path, of, { sums, counts: rows.map(Math.round) }))
    }
    if (entries.size === 0) throw new TsqError("ERR_FORMAT", `${path}: holds no sums; it is an empty importance matrix`)
    return {
      entries,
      datasets: fields.strings(keys.datasets),
      chunks: fields.integer(keys.chunks, { min: 0, max: 2 ** 31 - 1 }),
      chunkSize: fields.integer(keys.chunkSize, { min: 0, max: 2 ** 31 - 1 }),
    }
  } finally {
    file.dispose()
  }
}

const lone = (path: string, name: string, found: string): TsqError =>
  new TsqError("ERR_CORRUPT", `${path}: importance of ${JSON.stringify(name)} has ${found}`)

async function floatsOf({ name, type, file, offset, bytes }: GgufEntry): Promise<Float32Array> {
  if (type.name !== "F32")
    throw new TsqError("ERR_FORMAT", `${file.path}: tensor ${JSON.stringify(name)} is ${type.name}, expected F32`)
  const out = sharedBytes(bytes)
  await native.readMappingAsync(file.mapping.value, offset, out)
  return new Float32Array(out.buffer, 0, bytes / 4)
}
