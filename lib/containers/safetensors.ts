// Memory-mapped reader of one safetensors file.
import { TsqError } from "../core/errors.ts"
import { NativeHandle, native } from "../native.ts"
import { maxHeaderBytes, parseHeader } from "./safetensors-header.ts"

export interface TensorEntry {
  name: string
  /** As in the file: "BF16", "I32" … */
  dtype: string
  shape: number[]
  file: SafetensorsFile
  /** Of the first byte, from the beginning of the file. */
  offset: number
  bytes: number
}

export class SafetensorsFile {
  readonly path: string
  readonly metadata: Record<string, string>
  /** By name, in the order of the data. */
  readonly entries: ReadonlyMap<string, TensorEntry>
  readonly mapping: NativeHandle

  private constructor(path: string, mapping: NativeHandle) {
    this.path = path
    this.mapping = mapping
    const bytes = native.mappingBytes(mapping.value)
    const dataOffset = 8 + headerLength(mapping, bytes, path)
    const text = new Uint8Array(dataOffset - 8)
    native.readMapping(mapping.value, 8, text)
    const header = parseHeader(text, bytes - dataOffset, path)
    this.metadata = header.metadata
    const entries = new Map<string, TensorEntry>()
    for (const { name, dtype, shape, begin, end } of header.entries)
      entries.set(name, { name, dtype, shape, file: this, offset: dataOffset + begin, bytes: end - begin })
    this.entries = entries
  }

  /** ERR_IO when the file cannot be mapped; ERR_CORRUPT or ERR_FORMAT, naming file and tensor, when a rule is broken. */
  static async open(path: string): Promise<SafetensorsFile> {
    const mapping = new NativeHandle(native.mapFile(path), `the mapping of ${path}`)
    try {
      return new SafetensorsFile(path, mapping)
    } catch (error) {
      mapping.dispose()
      throw error
    }
  }

  dispose(): void {
    this.mapping.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

function headerLength(mapping: NativeHandle, bytes: number, path: string): number {
  if (bytes < 8)
    throw new TsqError(
      "ERR_CORRUPT",
      `${path}: has ${bytes} bytes, a safetensors file begins with 8 bytes of header length`,
    )
  const prefix = new Uint8Array(8)
  native.readMapping(mapping.value, 0, prefix)
  const length = new DataView(prefix.buffer).getBigUint64(0, true)
  if (length > maxHeaderBytes)
    throw new TsqError(
      "ERR_CORRUPT",
      `${path}: the header claims ${length} bytes, at most ${maxHeaderBytes} are allowed; this is no safetensors file`,
    )
  if (length > bytes - 8)
    throw new TsqError(
      "ERR_CORRUPT",
      `${path}: the header claims ${length} bytes, the file has ${bytes - 8} after the length; it is truncated`,
    )
  return Number(length)
}
