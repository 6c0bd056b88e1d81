// Reads the little-endian fields of a mapped file's header in order. Only a window of the file is in memory, and a field is
// compared with what is left of the file before anything is allocated for it.
import { TsqError } from "../core/errors.ts"
import { type Handle, native } from "../native.ts"

const windowBytes = 1 << 18

/** Longest text that is decoded; V8's strings end soon after. */
const maxStringBytes = 1 << 28

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

export class Cursor {
  readonly path: string
  readonly #mapping: Handle
  readonly #fileBytes: number
  #window: Uint8Array<ArrayBuffer> = new Uint8Array(0)
  #view = new DataView(this.#window.buffer)
  /** Of the window's first byte in the file, and of the next byte in the window. */
  #begin = 0
  #at = 0

  constructor(mapping: Handle, fileBytes: number, path: string) {
    this.#mapping = mapping
    this.#fileBytes = fileBytes
    this.path = path
  }

  get position(): number {
    return this.#begin + this.#at
  }

  get left(): number {
    return this.#fileBytes - this.position
  }

  corrupt(text: string): TsqError {
    return new TsqError("ERR_CORRUPT", `${this.path}: ${text}`)
  }

  u8(what: string): number {
    const at = this.#take(1, what)
    return this.#view.getUint8(at)
  }

  u32(what: string): number {
    const at = this.#take(4, what)
    return this.#view.getUint32(at, true)
  }

  /** Any of the 64 bits' values, those that a signed reader calls negative too. */
  u64(what: string): bigint {
    const at = this.#take(8, what)
    return this.#view.getBigUint64(at, true)
  }

  /** A count of things of at least `least` bytes each: refused when the rest of the file cannot hold them. */
  count(what: string, least: number): number {
    const at = this.#take(8, what)
    // In numbers: most counts are lengths of short strings, and big integers would cost more than the strings.
    const count = this.#view.getUint32(at + 4, true) * 2 ** 32 + this.#view.getUint32(at, true)
    if (count * least > this.left) throw this.#tooMany(this.#view.getBigUint64(at, true), what)
    return count
  }

  string(what: string): string {
    const bytes = this.count(what, 1)
    if (bytes > maxStringBytes)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${this.path}: ${what} is a text of ${bytes} bytes, at most ${maxStringBytes} are read`,
      )
    return this.text(bytes, what)
  }

  /** A text of `bytes` bytes. */
  text(bytes: number, what: string): string {
    const at = this.#take(bytes, what)
    try {
      return decoder.decode(this.#window.subarray(at, at + bytes))
    } catch (cause) {
      throw new TsqError("ERR_CORRUPT", `${this.path}: ${what} is not valid UTF-8`, { cause })
    }
  }

  /** A copy. */
  bytes(count: number, what: string): Uint8Array<ArrayBuffer> {
    this.#checkLeft(count, what)
    const out = new Uint8Array(count)
    native.readMapping(this.#mapping, this.position, out)
    this.#moveTo(this.position + count)
    return out
  }

  /** Leaves out the next `count` bytes. */
  skip(count: number, what: string): void {
    this.#checkLeft(count, what)
    if (this.#at + count <= this.#window.length) this.#at += count
    else this.#moveTo(this.position + count)
  }

  /** Where the next `count` bytes lie in the window, which may be another afterwards. */
  #take(count: number, what: string): number {
    if (this.#at + count > this.#window.length) this.#fill(count, what)
    const at = this.#at
    this.#at += count
    return at
  }

  #fill(count: number, what: string): void {
    this.#checkLeft(count, what)
    this.#begin = this.position
    this.#at = 0
    this.#window = new Uint8Array(Math.min(this.left, Math.max(count, windowBytes)))
    this.#view = new DataView(this.#window.buffer)
    native.readMapping(this.#mapping, this.#begin, this.#window)
  }

  #moveTo(position: number): void {
    this.#begin = position
    this.#at = 0
    this.#window = new Uint8Array(0)
  }

  #checkLeft(count: number, what: string): void {
    if (count > this.left)
      throw this.corrupt(
        `ends at byte ${this.#fileBytes}, inside ${what}, which needs ${count} bytes from byte ${this.position}; ` +
          "it is truncated: download or copy it again",
      )
  }

  #tooMany(count: bigint, what: string): TsqError {
    return this.corrupt(
      `${what} claims ${count} at byte ${this.position - 8}, more than the remaining ${this.left} bytes of the file can hold; ` +
        "it is truncated or damaged",
    )
  }
}
