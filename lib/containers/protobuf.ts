// Protocol buffers, as far as a file format needs them: fields written into chunks, and fields read in order from a mapped file.
// A library would want the whole message in memory; here the large fields stay where they are, on either side.
// Source: protobuf.dev, "Encoding".
import { setImmediate as turn } from "node:timers/promises"
import type { Cursor } from "./cursor.ts"

/** Bytes whose place is known before they are: `chunks` has them in order. */
export interface Message<Hole extends { bytes: number } = never> {
  bytes: number
  chunks: (Uint8Array | Hole)[]
}

export const message = <H extends { bytes: number } = never>(...parts: Message<H>[]): Message<H> => ({
  bytes: parts.reduce((sum, part) => sum + part.bytes, 0),
  chunks: parts.flatMap(part => part.chunks),
})

const chunk = (bytes: Uint8Array): Message => ({ bytes: bytes.byteLength, chunks: [bytes] })

/** A base-128 number, low digits first. */
export function varint(value: number): Uint8Array {
  const digits: number[] = []
  let rest = value
  do {
    digits.push((rest % 128) + (rest >= 128 ? 128 : 0))
    rest = Math.floor(rest / 128)
  } while (rest > 0)
  return Uint8Array.from(digits)
}

const wireTypes = { varint: 0, fixed64: 1, length: 2, fixed32: 5 } as const

/** A field of a non-negative integer. */
export const numberField = (field: number, value: number): Message =>
  chunk(Uint8Array.from([...varint(field * 8 + wireTypes.varint), ...varint(value)]))

/** A field of bytes: text, raw data or a message. */
export const nestedField = <H extends { bytes: number } = never>(field: number, content: Message<H>): Message<H> =>
  message<H>(chunk(Uint8Array.from([...varint(field * 8 + wireTypes.length), ...varint(content.bytes)])), content)

export const textField = (field: number, value: string): Message =>
  nestedField(field, chunk(new TextEncoder().encode(value)))

/** A field; of one with a length, its content begins at the cursor's position and ends at `end`. */
export interface Field {
  number: number
  /** Of a varint, as a signed 64-bit number (rounded beyond 2^53); of others 0. */
  value: number
  /** Of fields with a length and of fixed ones: the bytes that follow. null for a varint. */
  bytes: number | null
  /** Position after the field. */
  end: number
}

/** Fields that are read before other work gets a turn: well below a millisecond. */
const fieldsPerTurn = 2048

/** Reads the fields of nested messages in the order of the file. What is nested is entered by reading on, and left by reading to its end. */
export class FieldReader {
  readonly cursor: Cursor
  #count = 0

  constructor(cursor: Cursor) {
    this.cursor = cursor
  }

  /** The next field of a message that ends at position `end`; null there. ERR_CORRUPT, naming `what`, for what is no field or reaches over the end. */
  async next(end: number, what: string): Promise<Field | null> {
    const { cursor } = this
    if (++this.#count % fieldsPerTurn === 0) await turn()
    if (cursor.position >= end) return null
    const key = this.#varint(what)
    const number = Math.floor(key / 8)
    if (key < 0 || number < 1 || number > 2 ** 29 - 1) throw this.#corrupt(`the key ${key}`, what)
    let value = 0
    let bytes: number | null = null
    switch (key % 8) {
      case wireTypes.varint:
        value = this.#varint(what)
        break
      case wireTypes.fixed64:
        bytes = 8
        break
      case wireTypes.length:
        bytes = this.#varint(what)
        if (bytes < 0) throw this.#corrupt(`a field ${number} of ${bytes} bytes`, what)
        break
      case wireTypes.fixed32:
        bytes = 4
        break
      default:
        throw this.#corrupt(`a field ${number} of wire type ${key % 8}`, what)
    }
    const after = cursor.position + (bytes ?? 0)
    if (after > end)
      throw this.#corrupt(`a field ${number} that ends at byte ${after}, behind the end of what holds it, ${end}`, what)
    return { number, value, bytes, end: after }
  }

  /** Leaves out what is left of a field. */
  skip(field: Field, what: string): void {
    if (field.end > this.cursor.position) this.cursor.skip(field.end - this.cursor.position, what)
  }

  /** The text of a field, of at most `most` bytes. */
  text(field: Field, what: string, most: number): string {
    const bytes = this.length(field, what)
    if (bytes > most) throw this.#corrupt(`a text of ${bytes} bytes, more than ${most}`, what)
    return this.cursor.text(bytes, what)
  }

  /** The bytes of a field that has a length. */
  length(field: Field, what: string): number {
    if (field.bytes === null) throw this.#corrupt(`a number in field ${field.number}, which has a length`, what)
    return field.bytes
  }

  /** The numbers of a repeated field of varints, packed or one by one, at most `most`. */
  numbers(field: Field, what: string, most: number): number[] {
    if (field.bytes === null) return [field.value]
    const found: number[] = []
    while (this.cursor.position < field.end) {
      if (found.length === most) throw this.#corrupt(`more than ${most} numbers in field ${field.number}`, what)
      found.push(this.#varint(what))
    }
    if (this.cursor.position > field.end) throw this.#corrupt(`a field ${field.number} that ends in a number`, what)
    return found
  }

  #varint(what: string): number {
    let value = 0
    let scale = 1
    for (let digit = 0; digit < 7; digit++, scale *= 128) {
      const byte = this.cursor.u8(what)
      value += (byte % 128) * scale
      if (byte < 128) return value
    }
    let large = BigInt(value)
    for (let digit = 7n; digit < 10n; digit++) {
      const byte = this.cursor.u8(what)
      large += BigInt(byte % 128) << (7n * digit)
      if (byte < 128) return Number(BigInt.asIntN(64, large))
    }
    throw this.#corrupt("a number of more than ten bytes", what)
  }

  #corrupt(found: string, what: string) {
    return this.cursor.corrupt(
      `${what} has ${found}, before byte ${this.cursor.position}; it is damaged, or of another format`,
    )
  }
}
