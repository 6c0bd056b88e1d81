// The header of a GGUF file as bytes: what readGgufHeader reads.
import { TsqError } from "../core/errors.ts"
import { bytesOf } from "../core/shared-array.ts"
import {
  alignmentKey,
  defaultAlignment,
  type GgmlType,
  type GgufArray,
  type GgufMetadata,
  type GgufValue,
  magic,
  maxDimensions,
  maxNameBytes,
  numericArray,
  padded,
  valueTypeCode,
} from "./gguf-types.ts"

/** A tensor as it will be written. */
export interface GgufTensorPlan {
  name: string
  type: GgmlType
  /** Slowest dimension first. */
  shape: readonly number[]
}

const version = 3

/** Ranges of the types whose numbers a DataView would wrap without a word. */
const ranges: Record<string, readonly [bigint, bigint]> = {
  u8: [0n, 0xffn],
  i8: [-0x80n, 0x7fn],
  u16: [0n, 0xffffn],
  i16: [-0x8000n, 0x7fffn],
  u32: [0n, 0xffff_ffffn],
  i32: [-0x8000_0000n, 0x7fff_ffffn],
  u64: [0n, 0xffff_ffff_ffff_ffffn],
  i64: [-0x8000_0000_0000_0000n, 0x7fff_ffff_ffff_ffffn],
}

/** Bytes of a tensor. ERR_SHAPE, naming it, for sizes that are no integers or rows that are not whole blocks. */
export function planBytes({ name, type, shape }: GgufTensorPlan): number {
  const what = `tensor ${JSON.stringify(name)}`
  const nameBytes = Buffer.byteLength(name)
  if (nameBytes > maxNameBytes)
    throw new TsqError("ERR_FORMAT", `${what} has a name of ${nameBytes} bytes, GGUF allows ${maxNameBytes}`)
  if (shape.length > maxDimensions)
    throw new TsqError("ERR_SHAPE", `${what} has ${shape.length} dimensions, GGUF allows ${maxDimensions}`)
  const elements = shape.reduce((product, size) => product * size, 1)
  const bytes = (elements / type.blockSize) * type.blockBytes
  if (!shape.every(size => Number.isSafeInteger(size) && size >= 0) || !Number.isSafeInteger(Math.ceil(bytes)))
    throw new TsqError("ERR_SHAPE", `${what} has the shape [${shape.join(", ")}], expected sizes that can be counted`)
  const row = shape.at(-1) ?? 1
  if (row % type.blockSize !== 0)
    throw new TsqError(
      "ERR_SHAPE",
      `${what} has rows of ${row} elements, ${type.name} needs a multiple of ${type.blockSize}`,
    )
  return bytes
}

/** ERR_OPTION when it is no power of two as u32. */
export function planAlignment(metadata: GgufMetadata): number {
  const found = metadata.get(alignmentKey)
  if (found === undefined) return defaultAlignment
  // The reader's limit is 2^31; beyond a few pages it would only be waste.
  if (found.type === "u32" && Number.isInteger(Math.log2(found.value)) && found.value <= 65_536) return found.value
  throw new TsqError("ERR_OPTION", `metadata ${alignmentKey} is not a power of two up to 65536 as u32`)
}

/** Everything before the data, padded. */
export function ggufHeader(metadata: GgufMetadata, tensors: readonly GgufTensorPlan[]): Uint8Array {
  const alignment = planAlignment(metadata)
  const out = new Bytes()
  out.u32(magic)
  out.u32(version)
  out.u64(tensors.length)
  out.u64(metadata.size)
  for (const [key, value] of metadata) {
    const what = `metadata ${JSON.stringify(key)}`
    if (typeof key !== "string" || key === "") throw new TsqError("ERR_OPTION", `${what}: a key may not be empty`)
    out.string(key, what)
    out.u32(valueTypeCode(value.type))
    addValue(out, value, what)
  }
  let offset = 0
  for (const tensor of tensors) {
    out.string(tensor.name, `tensor ${JSON.stringify(tensor.name)}`)
    out.u32(tensor.shape.length)
    for (const size of [...tensor.shape].reverse()) out.u64(size)
    out.u32(tensor.type.id)
    out.u64(offset)
    offset = padded(offset + planBytes(tensor), alignment)
  }
  out.add(new Uint8Array(padded(out.length, alignment) - out.length))
  return out.written
}

function addValue(out: Bytes, value: GgufValue, what: string): void {
  if (value.type === "array") addArray(out, value, what)
  else if (value.type === "string") out.string(value.value, what)
  else {
    const array = new (numericArray(value.type))(1)
    array[0] = checkedNumber(value, what)
    out.add(bytesOf(array))
  }
}

function checkedNumber({ type, value }: GgufValue, what: string): number | bigint {
  const refuse = (expected: string): never => {
    throw new TsqError("ERR_OPTION", `${what} is ${String(value)}, expected ${expected}`)
  }
  if (type === "bool") return typeof value === "boolean" ? Number(value) : refuse("true or false")
  const range = ranges[type]
  if (!range) return typeof value === "number" ? value : refuse("a number")
  const big = type === "u64" || type === "i64"
  if (big ? typeof value !== "bigint" : !Number.isInteger(value))
    return refuse(`${big ? "a bigint" : "an integer"}, being of type ${type}`)
  const integer = value as number | bigint
  return integer < range[0] || integer > range[1]
    ? refuse(`${range[0]} to ${range[1]}, being of type ${type}`)
    : integer
}

function addArray(out: Bytes, array: GgufArray, what: string): void {
  out.u32(valueTypeCode(array.of))
  out.u64(array.value.length)
  if (array.of === "string") {
    for (const text of array.value) out.string(text, what)
  } else if (array.of === "array") {
    for (const inner of array.value) addArray(out, inner, what)
  } else {
    const expected = numericArray(array.of)
    if (!(array.value instanceof expected))
      throw new TsqError("ERR_OPTION", `${what} is an array of ${array.of}, expected its values in a ${expected.name}`)
    if (array.of === "bool" && array.value.some(byte => byte > 1))
      throw new TsqError("ERR_OPTION", `${what} holds a boolean that is neither 0 nor 1`)
    out.add(bytesOf(array.value))
  }
}

/** Grows as it is written to. */
class Bytes {
  #buffer = Buffer.alloc(1 << 16)
  length = 0

  get written(): Uint8Array {
    return this.#buffer.subarray(0, this.length)
  }

  u32(value: number): void {
    const at = this.#room(4)
    this.#buffer.writeUInt32LE(value, at)
  }

  u64(value: number): void {
    const at = this.#room(8)
    this.#buffer.writeBigUInt64LE(BigInt(value), at)
  }

  string(text: string, what: string): void {
    if (typeof text !== "string" || /\p{Surrogate}/u.test(text))
      throw new TsqError("ERR_OPTION", `${what} is or holds a value that is no valid Unicode text`)
    const bytes = Buffer.from(text)
    this.u64(bytes.length)
    this.add(bytes)
  }

  add(bytes: Uint8Array): void {
    const at = this.#room(bytes.length)
    this.#buffer.set(bytes, at)
  }

  #room(count: number): number {
    const at = this.length
    this.length += count
    if (this.length > this.#buffer.length) {
      const larger = Buffer.alloc(Math.max(2 * this.#buffer.length, this.length))
      this.#buffer.copy(larger, 0, 0, at)
      this.#buffer = larger
    }
    return at
  }
}
