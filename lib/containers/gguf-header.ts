// The header of a GGUF file: metadata and the list of tensors, with every rule of ggml's own reader checked.
// Source: ggml-org/ggml, docs/gguf.md and src/gguf.cpp.
import { setImmediate as turn } from "node:timers/promises"
import { TsqError } from "../core/errors.ts"
import type { Cursor } from "./cursor.ts"
import {
  alignmentKey,
  defaultAlignment,
  type GgmlType,
  type GgufArray,
  type GgufMetadata,
  type GgufNumericArray,
  type GgufValue,
  ggmlType,
  isNumericType,
  magic,
  maxDimensions,
  maxNameBytes,
  numericArray,
  padded,
  removedTypes,
  valueTypes,
} from "./gguf-types.ts"

/** A tensor's place. `begin` counts from the first byte of the data. */
export interface GgufHeaderEntry {
  name: string
  type: GgmlType
  /** Slowest dimension first, as elsewhere in this library; the file has them the other way round. */
  shape: number[]
  begin: number
  bytes: number
}

export interface GgufHeader {
  version: number
  alignment: number
  metadata: GgufMetadata
  entries: GgufHeaderEntry[]
  /** Of the first byte of the data, from the beginning of the file. */
  dataOffset: number
}

/** Bytes of the shortest metadata entry (a key of one letter and a byte) and tensor entry (no name, no dimension). */
const leastValue = 8 + 1 + 4 + 1
const leastTensor = 8 + 4 + 4 + 8

/** An array in an array costs much more memory here than in the file, so there may not be many. No known file has one. */
const maxInnerArrays = 65_536
const maxDepth = 8

/** Strings that are read before other work gets a turn: well below a millisecond. */
const stringsPerTurn = 2048

/** ERR_CORRUPT or ERR_FORMAT, naming the file and what in it, when a rule is broken; ERR_UNSUPPORTED for other versions. */
export async function readGgufHeader(cursor: Cursor, fileBytes: number): Promise<GgufHeader> {
  const version = readVersion(cursor)
  const tensors = cursor.count("the number of tensors", leastTensor)
  const values = cursor.count("the number of metadata entries", leastValue)
  const metadata = await new MetadataReader(cursor).read(values)
  const alignment = alignmentOf(metadata, cursor)
  const entries = readTensors(cursor, tensors, alignment)
  const dataOffset = padded(cursor.position, alignment)
  checkEnd(entries, dataOffset, alignment, fileBytes, cursor)
  return { version, alignment, metadata, entries, dataOffset }
}

function readVersion(cursor: Cursor): number {
  const found = cursor.u32("the first four bytes")
  if (found !== magic) {
    const text = Buffer.from(Uint32Array.of(found).buffer).toString("latin1")
    throw new TsqError(
      "ERR_FORMAT",
      `${cursor.path}: begins with ${JSON.stringify(text)}, expected "GGUF"; this is no GGUF file`,
    )
  }
  const version = cursor.u32("the version")
  if (version === 2 || version === 3) return version
  if ((version & 0xffff) === 0)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${cursor.path}: is a big-endian GGUF file; only little-endian files are read: convert it with gguf_convert_endian.py of llama.cpp`,
    )
  throw new TsqError(
    "ERR_UNSUPPORTED",
    `${cursor.path}: is a GGUF file of version ${version}, expected version 2 or 3; convert the model again with a current llama.cpp`,
  )
}

class MetadataReader {
  readonly #cursor: Cursor
  #innerArrays = 0

  constructor(cursor: Cursor) {
    this.#cursor = cursor
  }

  async read(count: number): Promise<GgufMetadata> {
    const cursor = this.#cursor
    const metadata = new Map<string, GgufValue>()
    for (let i = 0; i < count; i++) {
      const key = cursor.string(`the key of metadata entry ${i}`)
      if (key === "") throw cursor.corrupt(`metadata entry ${i} has an empty key`)
      if (metadata.has(key)) throw cursor.corrupt(`metadata key ${JSON.stringify(key)} occurs twice`)
      metadata.set(key, await this.#value(`metadata ${JSON.stringify(key)}`))
    }
    return metadata
  }

  async #value(what: string): Promise<GgufValue> {
    const type = this.#type(what)
    if (type === "array") return this.#array(what, 1)
    if (type === "string") return { type, value: this.#cursor.string(what) }
    const value = this.#numbers(type, 1, what)[0]
    return (type === "bool" ? { type, value: value === 1 } : { type, value }) as GgufValue
  }

  #type(what: string): GgufValue["type"] {
    const code = this.#cursor.u32(`the type of ${what}`)
    const type = valueTypes[code]
    if (type === undefined)
      throw this.#cursor.corrupt(`${what} is of type ${code}, expected 0 to ${valueTypes.length - 1}`)
    return type
  }

  async #array(what: string, depth: number): Promise<GgufArray> {
    const of = this.#type(`the elements of ${what}`)
    if (of === "string") return { type: "array", of, value: await this.#strings(what) }
    if (of === "array") {
      if (depth === maxDepth) throw this.#cursor.corrupt(`${what} nests arrays deeper than ${maxDepth}`)
      // An inner array has a type and a count.
      const count = this.#cursor.count(`the length of ${what}`, 4 + 8)
      this.#innerArrays += count
      if (this.#innerArrays > maxInnerArrays)
        throw this.#cursor.corrupt(`${what} brings the arrays inside arrays to over ${maxInnerArrays}`)
      const value: GgufArray[] = []
      for (let i = 0; i < count; i++) value.push(await this.#array(`${what}[${i}]`, depth + 1))
      return { type: "array", of, value }
    }
    if (!isNumericType(of)) throw this.#cursor.corrupt(`${what} is an array of ${of}`)
    const count = this.#cursor.count(`the length of ${what}`, numericArray(of).BYTES_PER_ELEMENT)
    return { type: "array", of, value: this.#numbers(of, count, what) }
  }

  async #strings(what: string): Promise<string[]> {
    const count = this.#cursor.count(`the length of ${what}`, 8)
    const element = `an element of ${what}`
    const value: string[] = []
    for (let i = 0; i < count; i++) {
      if (i % stringsPerTurn === stringsPerTurn - 1) await turn()
      value.push(this.#cursor.string(element))
    }
    return value
  }

  #numbers(type: Parameters<typeof numericArray>[0], count: number, what: string): GgufNumericArray {
    const array = numericArray(type)
    const bytes = this.#cursor.bytes(count * array.BYTES_PER_ELEMENT, what)
    const wrong = type === "bool" ? bytes.find(byte => byte > 1) : undefined
    if (wrong !== undefined) throw this.#cursor.corrupt(`${what} holds a boolean of ${wrong}, expected 0 or 1`)
    return new array(bytes.buffer)
  }
}

function alignmentOf(metadata: GgufMetadata, cursor: Cursor): number {
  const value = metadata.get(alignmentKey)
  if (value === undefined) return defaultAlignment
  if (value.type !== "u32" || value.value === 0 || (value.value & (value.value - 1)) !== 0)
    throw cursor.corrupt(
      `${alignmentKey} is ${value.type === "array" ? "an array" : `${value.value} (${value.type})`}, expected a power of two as u32`,
    )
  return value.value
}

function readTensors(cursor: Cursor, count: number, alignment: number): GgufHeaderEntry[] {
  const names = new Set<string>()
  const entries: GgufHeaderEntry[] = []
  let expected = 0
  for (let i = 0; i < count; i++) {
    const { offset, ...entry } = readTensor(cursor, i)
    const what = `tensor ${JSON.stringify(entry.name)}`
    if (names.has(entry.name)) throw cursor.corrupt(`${what} occurs twice`)
    names.add(entry.name)
    if (offset !== BigInt(expected))
      throw cursor.corrupt(`${what} begins at byte ${offset} of the data, expected ${expected} (${wrongPlace(offset)})`)
    entries.push({ ...entry, begin: expected })
    expected = padded(expected + entry.bytes, alignment)
    if (!Number.isSafeInteger(expected)) throw cursor.corrupt(`${what} ends beyond 2^53 bytes`)
  }
  return entries

  function wrongPlace(offset: bigint): string {
    if (offset % BigInt(alignment) !== 0n) return `it is no multiple of the alignment, ${alignment}`
    return offset > BigInt(expected) ? "a hole before it" : "it overlaps the tensor before it"
  }
}

function readTensor(cursor: Cursor, index: number) {
  const name = cursor.string(`the name of tensor ${index}`)
  const what = `tensor ${JSON.stringify(name.slice(0, 200))}`
  const nameBytes = Buffer.byteLength(name)
  if (nameBytes > maxNameBytes)
    throw cursor.corrupt(`${what} has a name of ${nameBytes} bytes, at most ${maxNameBytes} are allowed`)
  const dimensions = cursor.u32(`the number of dimensions of ${what}`)
  if (dimensions > maxDimensions)
    throw cursor.corrupt(`${what} has ${dimensions} dimensions, at most ${maxDimensions} are allowed`)
  const sizes = Array.from({ length: dimensions }, () => cursor.u64(`a dimension of ${what}`))
  const type = typeOf(cursor.u32(`the type of ${what}`), what, cursor)
  const offset = cursor.u64(`the offset of ${what}`)
  return { name, type, offset, ...place(sizes, type, what, cursor) }
}

function typeOf(id: number, what: string, cursor: Cursor): GgmlType {
  const type = ggmlType(id)
  if (type) return type
  const removed = removedTypes.get(id)
  if (removed)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${cursor.path}: ${what} is ${removed}, a type that ggml has removed; convert the model again with a current llama.cpp`,
    )
  throw new TsqError("ERR_UNSUPPORTED", `${cursor.path}: ${what} is of type ${id}, which this version does not know`)
}

function place(sizes: readonly bigint[], type: GgmlType, what: string, cursor: Cursor) {
  const row = sizes[0] ?? 1n
  if (row % BigInt(type.blockSize) !== 0n)
    throw cursor.corrupt(`${what} has rows of ${row} elements, ${type.name} needs a multiple of ${type.blockSize}`)
  const elements = sizes.reduce((product, size) => product * size, 1n)
  const bytes = (elements / BigInt(type.blockSize)) * BigInt(type.blockBytes)
  // A size of 0 hides the others from the product.
  if ([elements, bytes, ...sizes].some(each => each > BigInt(Number.MAX_SAFE_INTEGER)))
    throw cursor.corrupt(
      `${what} has ${sizes.length === 0 ? 1 : sizes.join(" × ")} elements of ${type.name}, too many to count`,
    )
  return { shape: sizes.map(Number).reverse(), bytes: Number(bytes) }
}

/** The last tensor is padded too. Bytes after it are tolerated, as ggml does. */
function checkEnd(
  entries: readonly GgufHeaderEntry[],
  dataOffset: number,
  alignment: number,
  fileBytes: number,
  cursor: Cursor,
): void {
  const last = entries.at(-1)
  if (!last) return
  const end = dataOffset + padded(last.begin + last.bytes, alignment)
  if (end > fileBytes)
    throw cursor.corrupt(
      `the tensors end at byte ${end}, the file has ${fileBytes}; it is truncated: download or copy it again`,
    )
}
