// What the tests of containers and formats share.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { SafetensorsWriter } from "../../../lib/containers/safetensors-writer.ts"
import type { NamedTensor } from "../../../lib/formats/format.ts"

export interface Vector {
  id: string
  group: string
  // biome-ignore lint/suspicious/noExplicitAny: each vector has its own fields
  [field: string]: any
}

const { vectors } = JSON.parse(readFileSync(new URL("../../fixtures/vectors.json", import.meta.url), "utf8")) as {
  vectors: Vector[]
}

export const vector = (id: string): Vector => {
  const found = vectors.find(entry => entry.id === id)
  if (!found) throw new Error(`test/fixtures/vectors.json has no ${id}`)
  return found
}

export const vectorsOf = (prefix: string): Vector[] => vectors.filter(entry => entry.id.startsWith(prefix))

/** A folder that goes away with the test. */
export function folder(t: { teardown(handler: () => void): unknown }): string {
  const path = mkdtempSync(join(tmpdir(), "tsq-test-"))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** Whether an error is a TsqError of this code whose message matches. */
export const tsqError = (code: string, message: RegExp = /./) => ({ name: "TsqError", code, message })

/** Writes a checkpoint folder: config.json and one safetensors file. */
export async function writeCheckpoint(directory: string, config: object, tensors: NamedTensor[]): Promise<void> {
  writeFileSync(join(directory, "config.json"), JSON.stringify(config, null, 2))
  const writer = new SafetensorsWriter(directory)
  for (const tensor of tensors) await writer.add(tensor)
  await writer.finish()
}

/** A raw safetensors file: length, header text, data. */
export function rawFile(header: string | Uint8Array, data: Uint8Array = new Uint8Array(0), length?: bigint): Buffer {
  const text = Buffer.from(header)
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(length ?? BigInt(text.length))
  return Buffer.concat([prefix, text, data])
}

/** Reproducible numbers (mulberry32): below(n) gives an integer in [0, n). */
export function random(seed: number) {
  let state = seed
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  return {
    next,
    below: (n: number) => Math.floor(next() * n),
    pick: <T>(items: readonly T[]) => items[Math.floor(next() * items.length)] as T,
  }
}
