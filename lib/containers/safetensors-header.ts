// The header of a safetensors file: text <-> entries, every rule of the container checked. No file is touched here.
// Rules and the reference writer's order: huggingface/safetensors, README and safetensors/src/tensor.rs.
import { TsqError } from "../core/errors.ts"
import { describe, isObject, parseJsonObject } from "./json.ts"

/** Largest header that is read, the reference's own limit. */
export const maxHeaderBytes = 100_000_000

/** Bits of an element, in the order in which the reference writer lays tensors out (then by name). */
const dtypeBits: ReadonlyMap<string, number> = new Map(
  Object.entries({
    U64: 64,
    I64: 64,
    F64: 64,
    C64: 64,
    F32: 32,
    U32: 32,
    I32: 32,
    BF16: 16,
    F16: 16,
    U16: 16,
    I16: 16,
    F8_E5M2FNUZ: 8,
    F8_E4M3FNUZ: 8,
    F8_E8M0: 8,
    F8_E4M3: 8,
    F8_E5M2: 8,
    I8: 8,
    U8: 8,
    F6_E3M2: 6,
    F6_E2M3: 6,
    F4: 4,
    BOOL: 8,
  }),
)
const dtypeRank = new Map([...dtypeBits.keys()].map((dtype, rank) => [dtype, rank]))

/** A tensor's place. Offsets count from the first byte after the header. */
export interface HeaderEntry {
  name: string
  dtype: string
  shape: number[]
  begin: number
  end: number
}

export interface Header {
  metadata: Record<string, string>
  /** In the order of the data. */
  entries: HeaderEntry[]
}

const corrupt = (text: string) => new TsqError("ERR_CORRUPT", text)

/**
 * Bytes of a tensor of `dtype` and `shape`; `what` names it. ERR_FORMAT for an unknown dtype, ERR_CORRUPT for sizes that
 * are not non-negative integers, that overflow, or that do not fill whole bytes.
 */
export function tensorBytes(dtype: string, shape: readonly unknown[], what: string): number {
  const bits = dtypeBits.get(dtype)
  if (bits === undefined)
    throw new TsqError(
      "ERR_FORMAT",
      `${what}: dtype ${JSON.stringify(dtype)}, expected one of ${[...dtypeBits.keys()].join(", ")}`,
    )
  let count = 1
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || (size as number) < 0)
      throw corrupt(`${what}: shape holds a size that is not a non-negative integer`)
    count *= size as number
    if (!Number.isSafeInteger(count))
      throw corrupt(`${what}: shape [${shape.join(", ")}] has too many elements to count`)
  }
  // Elements of 4 and 6 bits have to fill whole bytes; count * bits may exceed what a double holds exactly, so divide first.
  const [perUnit, unitBytes] = bits === 4 ? [2, 1] : bits === 6 ? [4, 3] : [1, bits / 8]
  if (count % perUnit !== 0) throw corrupt(`${what}: ${count} elements of ${bits} bits do not fill whole bytes`)
  const bytes = (count / perUnit) * unitBytes
  if (!Number.isSafeInteger(bytes))
    throw corrupt(`${what}: shape [${shape.join(", ")}] of ${dtype} has too many bytes to count`)
  return bytes
}

/** Validates the header text of `file`, whose data section has `dataBytes` bytes. */
export function parseHeader(text: Uint8Array, dataBytes: number, file: string): Header {
  let decoded: string
  try {
    decoded = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(text)
  } catch (cause) {
    throw new TsqError("ERR_CORRUPT", `${file}: the header is not valid UTF-8`, { cause })
  }
  // A lexeme such as 4.0 or 1e2 is no integer here, although its value is one.
  const fields = parseJsonObject(decoded, `${file}: header`, lexeme =>
    /^\d+$/.test(lexeme) ? Number(lexeme) : Number.NaN,
  )
  let metadata: Record<string, string> = {}
  const entries: HeaderEntry[] = []
  for (const [name, value] of Object.entries(fields)) {
    if (name === "__metadata__") metadata = parseMetadata(value, file)
    else entries.push(parseEntry(name, value, file))
  }
  checkLayout(entries, dataBytes, file)
  return { metadata, entries }
}

function parseMetadata(value: unknown, file: string): Record<string, string> {
  if (!isObject(value)) throw corrupt(`${file}: __metadata__ is ${describe(value)}, expected an object of strings`)
  for (const [key, text] of Object.entries(value))
    if (typeof text !== "string") throw corrupt(`${file}: __metadata__.${key} is ${describe(text)}, expected a string`)
  return value as Record<string, string>
}

function parseEntry(name: string, value: unknown, file: string): HeaderEntry {
  const what = `${file}: tensor ${JSON.stringify(name)}`
  if (!isObject(value)) throw corrupt(`${what}: is ${describe(value)}, expected an object`)
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>
  if (typeof dtype !== "string") throw corrupt(`${what}: dtype is ${describe(dtype)}, expected a string`)
  if (!Array.isArray(shape)) throw corrupt(`${what}: shape is ${describe(shape)}, expected an array`)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(offset => Number.isSafeInteger(offset)))
    throw corrupt(`${what}: data_offsets is not a pair of integers`)
  const [begin, end] = offsets as [number, number]
  if (begin > end) throw corrupt(`${what}: data_offsets [${begin}, ${end}] run backwards`)
  const bytes = tensorBytes(dtype, shape, what)
  if (bytes !== end - begin)
    throw corrupt(`${what}: data_offsets span ${end - begin} bytes, ${dtype} [${shape.join(", ")}] needs ${bytes}`)
  return { name, dtype, shape: shape as number[], begin, end }
}

/** Tensors have to follow each other without a hole or an overlap and end where the file does. */
function checkLayout(entries: HeaderEntry[], dataBytes: number, file: string): void {
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end)
  let expected = 0
  for (const { name, begin, end } of entries) {
    if (begin !== expected)
      throw corrupt(
        `${file}: tensor ${JSON.stringify(name)} begins at byte ${begin} of the data, expected ${expected} ` +
          `(${begin > expected ? "a hole before it" : "it overlaps the tensor before it"})`,
      )
    expected = end
  }
  if (expected !== dataBytes)
    throw corrupt(
      `${file}: the tensors end at byte ${expected} of the data, the file has ${dataBytes} ` +
        `(${expected > dataBytes ? "it is truncated: download or copy it again" : "trailing bytes"})`,
    )
}

/** Sorts as the reference writer does: dtype rank, then name (by code point). */
export function writingOrder(a: { dtype: string; name: string }, b: { dtype: string; name: string }): number {
  const rank = (dtypeRank.get(a.dtype) ?? 0) - (dtypeRank.get(b.dtype) ?? 0)
  return rank || compareNames(a.name, b.name)
}

/** By UTF-8 bytes, i.e. by code point; JavaScript's own order is by UTF-16 unit. */
export const compareNames = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))

/** Length prefix and header, padded with spaces to a multiple of 8, for entries in writing order. */
export function serializeHeader(entries: readonly HeaderEntry[], metadata: Record<string, string>): Uint8Array {
  const fields: string[] = []
  if (Object.keys(metadata).length > 0) fields.push(`"__metadata__":${JSON.stringify(metadata)}`)
  for (const { name, dtype, shape, begin, end } of entries)
    fields.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`)
  const json = Buffer.from(`{${fields.join(",")}}`)
  const padded = Math.ceil(json.length / 8) * 8
  if (padded > maxHeaderBytes)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `the header of ${entries.length} tensors takes ${padded} bytes, at most ${maxHeaderBytes} are allowed; use smaller shards`,
    )
  const out = Buffer.alloc(8 + padded, " ")
  out.writeBigUInt64LE(BigInt(padded), 0)
  json.copy(out, 8)
  return out
}
