// What a packed model was made from, so that a cache file is used with the same files and no others.
import { createHash } from "node:crypto"
import { open, readdir, readFile, stat } from "node:fs/promises"
import { join } from "node:path"
import { maxHeaderBytes } from "../containers/safetensors-header.ts"

/** A file as it was when its contents were read. */
export interface SourceFile {
  name: string
  bytes: number
  /** Of the last modification, in nanoseconds: decimal, since it exceeds what a number holds. */
  modified: string
  /** SHA-256 of a small file's contents, of a safetensors file's header. */
  digest: string
}

const settings = new Set([
  "config.json",
  "quantize_config.json",
  "quant_config.json",
  "hf_quant_config.json",
  "model.safetensors.index.json",
])

/** Configuration and weights of a checkpoint's folder, by name. */
export async function describeSources(directory: string): Promise<SourceFile[]> {
  const names = (await readdir(directory)).filter(name => settings.has(name) || name.endsWith(".safetensors"))
  return Promise.all(names.sort().map(name => describeFile(directory, name)))
}

/** What the tokenizer is made from. */
export async function describeTokenizer(directory: string): Promise<SourceFile[]> {
  const names = (await readdir(directory)).filter(name => /^(tokenizer|tokenizer_config)\.json$/.test(name))
  return Promise.all(names.sort().map(name => describeFile(directory, name, false)))
}

async function describeFile(directory: string, name: string, digested = true): Promise<SourceFile> {
  const path = join(directory, name)
  const { size, mtimeNs } = await stat(path, { bigint: true })
  const digest = digested ? (name.endsWith(".safetensors") ? await headerDigest(path) : await fileDigest(path)) : ""
  return { name, bytes: Number(size), modified: String(mtimeNs), digest }
}

const sha256 = (...parts: Uint8Array[]): string => {
  const hash = createHash("sha256")
  for (const part of parts) hash.update(part)
  return hash.digest("hex")
}

const fileDigest = async (path: string): Promise<string> => sha256(await readFile(path))

/** Of the eight bytes of the header's length and of the header, as far as they are there. */
async function headerDigest(path: string): Promise<string> {
  const file = await open(path)
  try {
    const prefix = await file.read(Buffer.alloc(8), 0, 8, 0)
    const claimed = prefix.bytesRead < 8 ? 0 : Number(prefix.buffer.readBigUInt64LE())
    const header = Buffer.alloc(Math.min(claimed, maxHeaderBytes, Math.max(0, (await file.stat()).size - 8)))
    await file.read(header, 0, header.length, 8)
    return sha256(prefix.buffer, header)
  } finally {
    await file.close()
  }
}

const second = 1_000_000_000n

/** The first file that differs, for a message; null where all are the same. */
export function firstDifference(before: readonly SourceFile[], now: readonly SourceFile[]): string | null {
  const names = new Set([...before, ...now].map(({ name }) => name))
  for (const name of names) {
    const [a, b] = [before, now].map(list => list.find(file => file.name === name))
    if (!a || !b || a.bytes !== b.bytes || a.digest !== b.digest || !sameTime(a.modified, b.modified)) return name
  }
  return null
}

/** Archives and container images keep whole seconds: a time that has no fraction equals any within its second. */
function sameTime(a: string, b: string): boolean {
  const [x, y] = [BigInt(a), BigInt(b)]
  return x === y || ((x % second === 0n || y % second === 0n) && x / second === y / second)
}

/**
 * Whether a change that follows at once might leave the same time of modification: on file systems that keep whole seconds or pairs
 * of them.
 */
export const mayChangeUnseen = (files: readonly SourceFile[], nowMs: number): boolean =>
  files.some(({ modified }) => BigInt(modified) % second === 0n && nowMs - Number(BigInt(modified) / 1_000_000n) < 2000)
