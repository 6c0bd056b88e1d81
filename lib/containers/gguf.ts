// Memory-mapped reader of GGUF files: one, or all parts of a split model.
import { basename } from "node:path"
import { TsqError } from "../core/errors.ts"
import { type Mapped, NativeHandle, native } from "../native.ts"
import { Cursor } from "./cursor.ts"
import { GgufFields } from "./gguf-fields.ts"
import { type GgufHeader, readGgufHeader } from "./gguf-header.ts"
import { partName, splitKeys, splitName } from "./gguf-split.ts"
import type { GgmlType, GgufMetadata } from "./gguf-types.ts"

export interface GgufEntry {
  name: string
  type: GgmlType
  /** Slowest dimension first: [n, k] for a matrix. */
  shape: readonly number[]
  file: GgufFile
  /** Of the first byte, from the beginning of the file. */
  offset: number
  bytes: number
}

/** One file. */
export class GgufFile {
  readonly path: string
  readonly version: number
  readonly metadata: GgufMetadata
  /** By name, in the order of the data. */
  readonly entries: ReadonlyMap<string, GgufEntry>
  readonly mapping: NativeHandle

  private constructor(path: string, mapping: NativeHandle, header: GgufHeader) {
    this.path = path
    this.version = header.version
    this.metadata = header.metadata
    this.mapping = mapping
    const entries = header.entries.map(({ name, type, shape, begin, bytes }): [string, GgufEntry] => [
      name,
      { name, type, shape, file: this, offset: header.dataOffset + begin, bytes },
    ])
    this.entries = new Map(entries)
  }

  /** ERR_IO when the file cannot be mapped; ERR_CORRUPT, ERR_FORMAT or ERR_UNSUPPORTED, naming file and tensor, when a rule is broken. */
  static async open(path: string): Promise<GgufFile> {
    const mapping = new NativeHandle(native.mapFile(path), `the mapping of ${path}`)
    try {
      const bytes = native.mappingBytes(mapping.value)
      return new GgufFile(path, mapping, await readGgufHeader(new Cursor(mapping.value, bytes, path), bytes))
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

/** A model: its parts as one. */
export class Gguf {
  readonly path: string
  /** Of the first part. */
  readonly metadata: GgufMetadata
  /** By name, part by part. */
  readonly entries: ReadonlyMap<string, GgufEntry>
  readonly files: readonly GgufFile[]

  private constructor(path: string, files: readonly GgufFile[]) {
    this.path = path
    this.files = files
    this.metadata = files[0]!.metadata
    const entries = new Map<string, GgufEntry>()
    for (const file of files)
      for (const [name, entry] of file.entries) {
        const other = entries.get(name)
        if (other)
          throw new TsqError(
            "ERR_CORRUPT",
            `${path}: tensor ${JSON.stringify(name)} lies in two parts, ${basename(other.file.path)} and ${basename(file.path)}`,
          )
        entries.set(name, entry)
      }
    this.entries = entries
  }

  /** Any part of a split model opens all of it. */
  static async open(path: string): Promise<Gguf> {
    if (typeof path !== "string" || path === "") throw new TsqError("ERR_OPTION", "the path of a GGUF file is expected")
    const files = [await GgufFile.open(path)]
    try {
      const count = partCount(files[0]!)
      if (count > 1) {
        const { prefix, index } = nameOf(path, count)
        for (let part = 0; part < count; part++)
          if (part !== index) files.push(await GgufFile.open(partName(prefix, part, count)))
        // What was opened first is put in its place.
        files.splice(index, 0, files.shift()!)
        for (const [part, file] of files.entries()) checkPart(file, part, count)
      }
      const model = new Gguf(path, files)
      checkTensorCount(model)
      return model
    } catch (error) {
      for (const file of files) file.dispose()
      throw error
    }
  }

  /** Parts by their paths, in order, whatever the files are called. */
  static async openParts(paths: readonly string[]): Promise<Gguf> {
    const files: GgufFile[] = []
    try {
      for (const path of paths) files.push(await GgufFile.open(path))
      for (const [part, file] of files.entries()) if (files.length > 1) checkPart(file, part, files.length)
      const model = new Gguf(paths[0]!, files)
      checkTensorCount(model)
      return model
    } catch (error) {
      for (const file of files) file.dispose()
      throw error
    }
  }

  /** ERR_FORMAT when there is no such tensor. */
  entry(name: string): GgufEntry {
    const entry = this.entries.get(name)
    if (!entry) throw new TsqError("ERR_FORMAT", `${this.path}: tensor ${JSON.stringify(name)} is missing`)
    return entry
  }

  /** The stored bytes where they lie, until this is disposed. */
  mapped(name: string): Mapped {
    const { file, offset, bytes } = this.entry(name)
    return { mapping: file.mapping.value, offset, bytes }
  }

  /** Unmaps the files. */
  dispose(): void {
    for (const file of this.files) file.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** A whole number of any integer type; null where there is none. ERR_FORMAT for anything else. */
const integer = ({ metadata, path }: { metadata: GgufMetadata; path: string }, key: string): number | null =>
  new GgufFields(metadata, path).integer(key, {}, null)

const partCount = (file: GgufFile): number => integer(file, splitKeys.count) ?? 1

function nameOf(path: string, count: number): { prefix: string; index: number } {
  const name = splitName(path)
  if (name?.count === count && name.index < count) return name
  throw new TsqError(
    "ERR_FORMAT",
    `${path}: is one of ${count} parts, expected a name like ${basename(partName("model", 0, count))}; ` +
      "give the parts their names again, in one folder",
  )
}

function checkPart(file: GgufFile, part: number, count: number): void {
  for (const [key, expected] of [
    [splitKeys.count, count],
    [splitKeys.number, part],
  ] as const) {
    const found = integer(file, key)
    if (found !== expected)
      throw new TsqError(
        "ERR_FORMAT",
        `${file.path}: metadata ${key} is ${found ?? "missing"}, expected ${expected}; the part belongs to another model or was renamed`,
      )
  }
}

function checkTensorCount(model: Gguf): void {
  const expected = integer(model, splitKeys.tensors)
  if (expected !== null && expected !== model.entries.size)
    throw new TsqError(
      "ERR_CORRUPT",
      `${model.path}: metadata ${splitKeys.tensors} is ${expected}, the ${model.files.length} parts hold ${model.entries.size} tensors`,
    )
}
