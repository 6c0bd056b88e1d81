// GGUF files for benchmarks: metadata and tensors of which size and type are known beforehand, streamed in one pass.
import { type FileHandle, open } from "node:fs/promises"
import { writeError, writeFully } from "../containers/disk.ts"
import { TsqError } from "../core/errors.ts"

/** A value with the type that the file gives it. */
export type GgufValue =
  | { type: "u32" | "i32" | "f32"; value: number }
  | { type: "bool"; value: boolean }
  | { type: "string"; value: string }
  | { type: "strings"; value: readonly string[] }
  | { type: "i32s"; value: readonly number[] }

export interface GgufTensor {
  name: string
  /** Fastest dimension first: a matrix [n, k] is [k, n]. */
  dimensions: readonly number[]
  /** ggml's number. */
  type: number
  bytes: number
  /** Called in turn, when the tensor's bytes are written. */
  data: () => Uint8Array
}

const alignment = 32
const typeCodes = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8 } as const
const arrayCode = 9
const padded = (bytes: number) => Math.ceil(bytes / alignment) * alignment

/** Grows as it is written to. */
class Bytes {
  #buffer = Buffer.alloc(1 << 16)
  #length = 0

  #room(count: number): number {
    if (this.#length + count > this.#buffer.length) {
      const larger = Buffer.alloc(Math.max(2 * this.#buffer.length, this.#length + count))
      this.#buffer.copy(larger, 0, 0, this.#length)
      this.#buffer = larger
    }
    const at = this.#length
    this.#length += count
    return at
  }

  u32(value: number): void {
    const at = this.#room(4)
    this.#buffer.writeUInt32LE(value, at)
  }

  i32(value: number): void {
    const at = this.#room(4)
    this.#buffer.writeInt32LE(value, at)
  }

  f32(value: number): void {
    const at = this.#room(4)
    this.#buffer.writeFloatLE(value, at)
  }

  u8(value: number): void {
    const at = this.#room(1)
    this.#buffer.writeUInt8(value, at)
  }

  u64(value: number): void {
    const at = this.#room(8)
    this.#buffer.writeBigUInt64LE(BigInt(value), at)
  }

  string(text: string): void {
    const bytes = Buffer.from(text)
    this.u64(bytes.length)
    const at = this.#room(bytes.length)
    bytes.copy(this.#buffer, at)
  }

  pad(): void {
    this.#room(padded(this.#length) - this.#length)
  }

  get written(): Uint8Array {
    return this.#buffer.subarray(0, this.#length)
  }
}

function addValue(out: Bytes, { type, value }: GgufValue): void {
  switch (type) {
    case "strings":
      out.u32(arrayCode)
      out.u32(typeCodes.string)
      out.u64(value.length)
      for (const text of value) out.string(text)
      return
    case "i32s":
      out.u32(arrayCode)
      out.u32(typeCodes.i32)
      out.u64(value.length)
      for (const each of value) out.i32(each)
      return
    case "bool":
      out.u32(typeCodes.bool)
      out.u8(value ? 1 : 0)
      return
    case "string":
      out.u32(typeCodes.string)
      out.string(value)
      return
    default:
      out.u32(typeCodes[type])
      out[type](value)
  }
}

/** Everything before the data. */
export function ggufHeader(metadata: Readonly<Record<string, GgufValue>>, tensors: readonly GgufTensor[]): Uint8Array {
  const out = new Bytes()
  out.u32(0x46554747) // "GGUF"
  out.u32(3)
  out.u64(tensors.length)
  out.u64(Object.keys(metadata).length)
  for (const [key, value] of Object.entries(metadata)) {
    out.string(key)
    addValue(out, value)
  }
  let offset = 0
  for (const { name, dimensions, type, bytes } of tensors) {
    out.string(name)
    out.u32(dimensions.length)
    for (const size of dimensions) out.u64(size)
    out.u32(type)
    out.u64(offset)
    offset += padded(bytes)
  }
  out.pad()
  return out.written
}

/** Creates a file that must not exist yet. Memory: one tensor. */
export async function writeGguf(
  path: string,
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: readonly GgufTensor[],
): Promise<void> {
  let file: FileHandle | null = null
  try {
    file = await open(path, "wx")
    await writeFully(file, ggufHeader(metadata, tensors))
    for (const { name, bytes, data } of tensors) {
      const values = data()
      if (values.byteLength !== bytes)
        throw new TsqError("ERR_SHAPE", `${path}: tensor ${name} has ${values.byteLength} bytes, expected ${bytes}`)
      await writeFully(file, values)
      if (padded(bytes) > bytes) await writeFully(file, new Uint8Array(padded(bytes) - bytes))
    }
  } catch (cause) {
    throw writeError("write", path, cause)
  } finally {
    await file?.close()
  }
}
