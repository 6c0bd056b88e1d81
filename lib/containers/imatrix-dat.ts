// Importance matrices as llama-imatrix wrote them before it took to GGUF:
//   i32 entries | for each: i32 length, name, i32 calls, i32 values, f32[values] | i32 chunks | i32 length, dataset
// The floats are mean squares times `calls`; what follows the entries may be missing.
// Source: ggml-org/llama.cpp, tools/imatrix/imatrix.cpp (save_imatrix_legacy) and common/imatrix-loader.cpp.
import { rename, rm } from "node:fs/promises"
import { resolve } from "node:path"
import { setImmediate as turn } from "node:timers/promises"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import type { Cursor } from "./cursor.ts"
import { writeError, writeNewFile } from "./disk.ts"
import {
  checkedEntry,
  type ImportanceEntry,
  type ImportanceMatrix,
  sorted,
  type WriteImportanceOptions,
} from "./imatrix.ts"
import { exists, partialName } from "./output.ts"

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
/** Of an entry: three numbers, a name and a value of one byte and one float. */
const leastEntryBytes = 17

export async function readOldMatrix(cursor: Cursor): Promise<ImportanceMatrix> {
  const { path } = cursor
  const count = cursor.left < 4 ? 0 : cursor.u32("the number of entries")
  if (count < 1 || count * leastEntryBytes > cursor.left)
    throw new TsqError("ERR_FORMAT", `${path}: is neither a GGUF file nor an importance matrix of the old kind (.dat)`)
  const entries = new Map<string, ImportanceEntry>()
  for (let i = 0; i < count; i++) {
    const name = text(cursor, `the name of entry ${i}`)
    const what = `the entry of ${JSON.stringify(name)}`
    if (name === "" || entries.has(name))
      throw cursor.corrupt(`entry ${i} has ${name === "" ? "no name" : `the name of another, ${JSON.stringify(name)}`}`)
    const calls = cursor.u32(`the calls in ${what}`) | 0
    const values = length(cursor, 4, `the values in ${what}`)
    const sums = new Float32Array(cursor.bytes(4 * values, what).buffer)
    // Without calls the floats are taken as they are.
    entries.set(name, checkedEntry(path, name, { sums, counts: Float32Array.of(calls > 0 ? calls : 1) }))
    await turn()
  }
  const chunks = cursor.left === 0 ? 0 : cursor.u32("the number of chunks") | 0
  const dataset = cursor.left === 0 ? "" : text(cursor, "the name of the text")
  if (cursor.left > 0) throw cursor.corrupt(`has ${cursor.left} bytes after its last field`)
  return { entries, datasets: dataset === "" ? [] : [dataset], chunks: Math.max(0, chunks), chunkSize: 0 }
}

/** A length as i32, of things that the rest of the file can hold. */
function length(cursor: Cursor, each: number, what: string): number {
  const found = cursor.u32(what)
  if (found * each > cursor.left)
    throw cursor.corrupt(
      `${what}: ${found} are claimed at byte ${cursor.position - 4}, more than the remaining ${cursor.left} bytes can hold; the file is truncated or damaged`,
    )
  return found
}

function text(cursor: Cursor, what: string): string {
  const bytes = cursor.bytes(length(cursor, 1, what), what)
  try {
    return decoder.decode(bytes)
  } catch (cause) {
    throw new TsqError("ERR_CORRUPT", `${cursor.path}: ${what} is not valid UTF-8`, { cause })
  }
}

export async function writeOldMatrix(
  path: string,
  matrix: ImportanceMatrix,
  { force = false, signal }: WriteImportanceOptions,
): Promise<void> {
  const target = resolve(path)
  const parts: Uint8Array[] = []
  const number = (value: number) => parts.push(new Uint8Array(Int32Array.of(value).buffer))
  const name = (value: string) => {
    const bytes = Buffer.from(value)
    number(bytes.length)
    parts.push(bytes)
  }
  // What no row has reached is left out.
  const entries = sorted(matrix).filter(([, { counts }]) => counts.some(rows => rows > 0))
  number(entries.length)
  for (const [tensor, { sums, counts }] of entries) {
    throwIfAborted(signal)
    // Rounded up, so that few rows do not become none.
    const calls = Math.ceil(Math.max(...counts) / Math.max(1, matrix.chunkSize))
    const k = sums.length / counts.length
    const values = sums.map((sum, i) => {
      const rows = counts[Math.floor(i / k)]!
      return Math.fround(rows === 0 ? 1 : sum / rows) * calls
    })
    name(tensor)
    number(calls)
    number(values.length)
    parts.push(new Uint8Array(values.buffer))
    await turn()
  }
  number(matrix.chunks)
  name(matrix.datasets.at(-1) ?? "")
  await appear(target, Buffer.concat(parts), force)
}

/** A small file under its final name, all at once. */
async function appear(target: string, bytes: Uint8Array, force: boolean): Promise<void> {
  const path = partialName(target)
  try {
    await writeNewFile(path, bytes)
    if (!force && (await exists(target)))
      throw new TsqError(
        "ERR_OPTION",
        `the output ${target} exists already; choose another name, remove it, or replace it with --force`,
      )
    await rename(path, target)
  } catch (cause) {
    throw writeError("complete", target, cause)
  } finally {
    await rm(path, { force: true })
  }
}
