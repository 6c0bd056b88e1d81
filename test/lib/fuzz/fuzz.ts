// Damaged files of every container, again and again: each is read or refused with a TsqError, and never takes more memory than the file
// justifies. Seeded; used by the tests with a small share and by `npm run fuzz` with all.
import { rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { TsqError } from "../../../lib/core/errors.ts"
import { native } from "../../../lib/native.ts"
import { random } from "../containers/support.ts"

export type Numbers = ReturnType<typeof random>

export interface Container {
  name: string
  /** Of the file's name. */
  extension: string
  /** Codes that a damaged file may be refused with. */
  codes: readonly string[]
  /** Valid files. */
  seeds(directory: string): Promise<Buffer[]>
  /** What is put into files, besides random bytes. */
  fragments: readonly Uint8Array[]
  /** Makes damage reach further: lengths that fit again, checksums. In place of the damaged file, or null: as it is. */
  repair?(bytes: Buffer, numbers: Numbers): Buffer | null
  /** Reads everything that the file says it holds; the bytes of that. Disposes of it. */
  read(path: string): Promise<number>
}

export interface FuzzResult {
  container: string
  files: number
  seconds: number
  /** "read", or an error's code, and how often. */
  outcomes: Record<string, number>
  /** The most memory of JavaScript that a file took beyond its size, and how far the process grew, in bytes. */
  mostBeyond: number
  grownBy: number
  /** What must not be, by the number of the file. */
  failures: string[]
}

const longs = [0n, 1n, 31n, 33n, 64n, 2n ** 16n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 60n, 2n ** 63n, 2n ** 64n - 1n]
const words = [0, 1, 2, 4, 8, 9, 13, 32, 255, 65_536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1]

/** One to three wounds. */
function damaged(original: Buffer, { fragments, repair }: Container, numbers: Numbers): Buffer {
  const { below, pick } = numbers
  let bytes: Buffer = Buffer.from(original)
  for (let edits = 1 + below(3); edits > 0 && bytes.length > 0; edits--) {
    const at = below(bytes.length)
    const kind = below(9)
    const insert = (piece: Uint8Array) => Buffer.concat([bytes.subarray(0, at), piece, bytes.subarray(at)])
    if (kind === 0) bytes[at] = below(256)
    else if (kind === 1) bytes = bytes.subarray(0, at)
    else if (kind === 2) bytes = Buffer.concat([bytes, Buffer.alloc(below(64), below(256))])
    else if (kind === 3) bytes = insert(pick(fragments))
    else if (kind === 4)
      bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(Math.min(bytes.length, at + below(16)))])
    else if (kind === 5 && at + 4 <= bytes.length) bytes.writeUInt32LE(pick(words), at)
    else if (kind === 6 && at + 8 <= bytes.length) bytes.writeBigUInt64LE(pick(longs), at)
    else if (kind === 7) bytes = insert(bytes.subarray(below(bytes.length)).subarray(0, 4096))
    // The beginning, which decides about everything else.
    else if (bytes.length >= 24) bytes.writeBigUInt64LE(pick(longs), pick([0, 8, 16]))
  }
  return repair?.(bytes, numbers) ?? bytes
}

/** Memory of JavaScript that a refused file may take: messages, tables, what the collector has not looked at yet. */
const slack = 8 * 2 ** 20

export async function fuzz(
  container: Container,
  { files, seed, directory, onFile }: { files: number; seed: number; directory: string; onFile?: (i: number) => void },
): Promise<FuzzResult> {
  const numbers = random(seed)
  const originals = await container.seeds(directory)
  const handles = native.handleCount()
  const outcomes: Record<string, number> = {}
  const failures: string[] = []
  let mostBeyond = 0
  const before = process.memoryUsage.rss()
  const start = performance.now()
  for (let i = 0; i < files; i++) {
    const bytes = damaged(numbers.pick(originals), container, numbers)
    // A file of its own each time: overwriting a mapped one is far slower. Not too many at once.
    const path = join(directory, `${i % 5000}${container.extension}`)
    rmSync(path, { force: true })
    writeFileSync(path, bytes)
    const used = memory()
    let outcome = "read"
    try {
      const total = await container.read(path)
      if (total > bytes.length) failures.push(`file ${i}: it holds ${total} bytes of its ${bytes.length}`)
    } catch (error) {
      outcome = error instanceof TsqError ? error.code : String(error)
      if (!container.codes.includes(outcome))
        failures.push(`file ${i}: ${String(error)}\n${bytes.toString("base64").slice(0, 4000)}`)
    }
    const beyond = memory() - used - bytes.length
    mostBeyond = Math.max(mostBeyond, beyond)
    if (beyond > slack) failures.push(`file ${i}: ${beyond} bytes of memory beyond the ${bytes.length} of the file`)
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1
    onFile?.(i)
  }
  const seconds = (performance.now() - start) / 1000
  if (native.handleCount() !== handles) failures.push(`${native.handleCount() - handles} native objects are left`)
  const grownBy = process.memoryUsage.rss() - before
  return { container: container.name, files, seconds, outcomes, mostBeyond, grownBy, failures }
}

function memory(): number {
  const { heapUsed, external, arrayBuffers } = process.memoryUsage()
  return heapUsed + Math.max(external, arrayBuffers)
}
