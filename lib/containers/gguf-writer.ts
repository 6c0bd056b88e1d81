// Streaming writer of GGUF files, in one or several parts.
//
// The header stands before the data and says where every tensor lies, so the tensors are declared first and their bytes come
// after, in that order and in pieces of any size: nothing but the header and the caller's piece is in memory.
import type { FileHandle } from "node:fs/promises"
import { open } from "node:fs/promises"
import { resolve } from "node:path"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { type Mapped, native } from "../native.ts"
import { writeError, writeFully } from "./disk.ts"
import { type GgufTensorPlan, ggufHeader, planAlignment, planBytes } from "./gguf-bytes.ts"
import { maxParts, partName, splitKeys } from "./gguf-split.ts"
import { type GgufMetadata, type GgufValue, padded } from "./gguf-types.ts"
import { OutputFiles } from "./output-files.ts"

export type { GgufTensorPlan } from "./gguf-bytes.ts"

export interface GgufWriterOptions {
  metadata: GgufMetadata
  /** In the order in which their bytes will come. */
  tensors: readonly GgufTensorPlan[]
  /** Tensor bytes of a part, at most (a larger single tensor gets its own). Default: one file. */
  maxPartBytes?: number
  /** Replace existing files, at `finish` and not before. */
  force?: boolean
  signal?: AbortSignal | undefined
}

const copyBytes = 8 << 20

interface Part {
  /** Final name. */
  target: string
  header: Uint8Array
  tensors: readonly { name: string; bytes: number }[]
}

/** `write` every tensor's bytes in the declared order, then `finish`. After a failure only `discard` is left. */
export class GgufWriter {
  readonly #parts: readonly Part[]
  readonly #files: OutputFiles
  readonly #alignment: number
  readonly #signal: AbortSignal | undefined
  /** The part and the tensor that are due, and how much of the tensor has come. */
  #part = 0
  #tensor = 0
  #done = 0
  #file: FileHandle | null = null
  #queue: Promise<unknown> = Promise.resolve()
  #state: "open" | "failed" | "finished" = "open"

  private constructor(parts: readonly Part[], files: OutputFiles, { metadata, signal }: GgufWriterOptions) {
    this.#parts = parts
    this.#files = files
    this.#alignment = planAlignment(metadata)
    this.#signal = signal
  }

  /**
   * Nothing is written under a final name before `finish`: `path`, or `-00001-of-0000N.gguf` files beside it where maxPartBytes
   * asks for parts. ERR_OPTION when a file exists and force is not set, ERR_FORMAT and ERR_SHAPE for what GGUF cannot hold.
   */
  static async create(path: string, options: GgufWriterOptions): Promise<GgufWriter> {
    if (typeof path !== "string" || !path.endsWith(".gguf"))
      throw new TsqError("ERR_OPTION", `the output is ${JSON.stringify(path)}, expected the name of a .gguf file`)
    const target = resolve(path)
    const parts = planParts(target, options)
    const files = await OutputFiles.create(
      parts.map(part => part.target),
      options.force,
    )
    return new GgufWriter(parts, files, options)
  }

  /** The next bytes of a tensor. Calls may overlap; they are carried out in turn, so `data` must stay as it is until then. */
  write(name: string, data: Uint8Array | Mapped): Promise<void> {
    return this.#inTurn(async () => {
      throwIfAborted(this.#signal)
      const bytes = data instanceof Uint8Array ? data.byteLength : data.bytes
      await this.#moveTo(name, bytes)
      try {
        await this.#store(data)
      } catch (cause) {
        throw writeError(`write ${bytes} bytes of tensor ${JSON.stringify(name)} to`, this.#path, cause)
      }
      this.#done += bytes
    })
  }

  /**
   * Brings everything to disk and gives the files their final names. `check` is called in between with the paths where the complete
   * parts lie, in order; what it throws leaves no file behind.
   */
  finish(check?: (paths: readonly string[]) => Promise<void>): Promise<{ files: string[]; totalBytes: number }> {
    return this.#inTurn(async () => {
      throwIfAborted(this.#signal)
      await this.#moveTo(null, 0)
      await check?.(this.#files.paths)
      await this.#files.commit()
      this.#state = "finished"
      const totalBytes = this.#parts.flatMap(part => part.tensors).reduce((sum, { bytes }) => sum + bytes, 0)
      return { files: [...this.#files.targets], totalBytes }
    })
  }

  /** Closes and removes what was written and not finished. */
  async discard(): Promise<void> {
    await this.#queue
    if (this.#state === "finished") return
    this.#state = "failed"
    await this.#file?.close()
    this.#file = null
    await this.#files.discard()
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#queue.then(async () => {
      if (this.#state !== "open")
        throw new TsqError(
          "ERR_OPTION",
          `the GGUF writer of ${this.#parts[0]!.target} has ${this.#state}; make a new one`,
        )
      try {
        return await work()
      } catch (error) {
        this.#state = "failed"
        throw error
      }
    })
    this.#queue = turn.then(
      () => undefined,
      () => undefined,
    )
    return turn
  }

  /** Closes what is complete up to tensor `name`, of which `bytes` more are to come; to the end for null. */
  async #moveTo(name: string | null, bytes: number): Promise<void> {
    for (;;) {
      const part = this.#parts[this.#part]
      if (!part) {
        if (name === null) return
        throw new TsqError("ERR_OPTION", `tensor ${JSON.stringify(name)}: bytes came after those of the last tensor`)
      }
      if (!this.#file) await this.#openPart(part)
      const tensor = part.tensors[this.#tensor]
      if (tensor?.name === name && this.#done + bytes <= tensor.bytes) return
      if (tensor) await this.#closeTensor(tensor, name, bytes)
      else await this.#closePart()
    }
  }

  /** Where the open part is written. */
  get #path(): string {
    return this.#files.paths[this.#part]!
  }

  async #openPart({ header }: Part): Promise<void> {
    const path = this.#path
    try {
      this.#file = await open(path, "wx")
      await writeFully(this.#file, header)
    } catch (cause) {
      throw writeError("create", path, cause)
    }
  }

  async #closeTensor(tensor: { name: string; bytes: number }, next: string | null, bytes: number): Promise<void> {
    const missing = tensor.bytes - this.#done
    if (missing > 0 || tensor.name === next)
      throw new TsqError(
        "ERR_SHAPE",
        `tensor ${JSON.stringify(tensor.name)} needs ${tensor.bytes} bytes: ${this.#done} have come, then ` +
          `${next === null ? "the end" : `${bytes} of ${JSON.stringify(next)}`}; tensors come whole and in the declared order`,
      )
    const gap = padded(tensor.bytes, this.#alignment) - tensor.bytes
    if (gap > 0) await this.#attempt(file => writeFully(file, new Uint8Array(gap)))
    this.#tensor++
    this.#done = 0
  }

  async #closePart(): Promise<void> {
    await this.#attempt(async file => {
      await file.sync()
      await file.close()
    })
    this.#file = null
    this.#part++
    this.#tensor = 0
  }

  async #attempt(work: (file: FileHandle) => Promise<void>): Promise<void> {
    try {
      await work(this.#file!)
    } catch (cause) {
      throw writeError("write", this.#path, cause)
    }
  }

  async #store(data: Uint8Array | Mapped): Promise<void> {
    const file = this.#file!
    if (data instanceof Uint8Array) return writeFully(file, data)
    const { mapping, offset, bytes } = data
    const buffer = new Uint8Array(new SharedArrayBuffer(Math.min(bytes, copyBytes)))
    for (let done = 0; done < bytes; done += copyBytes) {
      throwIfAborted(this.#signal)
      const piece = buffer.subarray(0, Math.min(copyBytes, bytes - done))
      await native.readMappingAsync(mapping, offset + done, piece)
      await writeFully(file, piece)
    }
  }
}

function planParts(target: string, { metadata, tensors, maxPartBytes }: GgufWriterOptions): Part[] {
  const names = new Set<string>()
  for (const { name } of tensors) {
    if (names.has(name)) throw new TsqError("ERR_FORMAT", `tensor ${JSON.stringify(name)}: the name was declared twice`)
    names.add(name)
  }
  const groups = divide(tensors, maxPartBytes)
  const count = groups.length
  // How the source was split says nothing about the output.
  const model = new Map([...metadata].filter(([key]) => !Object.values<string>(splitKeys).includes(key)))
  return groups.map((group, index) => {
    const name = count === 1 ? target : partName(target.slice(0, -".gguf".length), index, count)
    return {
      target: name,
      header: ggufHeader(count === 1 ? model : partMetadata(model, index, count, tensors.length), group),
      tensors: group.map(tensor => ({ name: tensor.name, bytes: planBytes(tensor) })),
    }
  })
}

/** Consecutive tensors of at most `limit` bytes together; always at least one group. */
function divide(tensors: readonly GgufTensorPlan[], limit = Number.POSITIVE_INFINITY): GgufTensorPlan[][] {
  if (!(limit >= 1)) throw new TsqError("ERR_OPTION", `maxPartBytes is ${limit}, expected a positive number`)
  let group: GgufTensorPlan[] = []
  let bytes = 0
  const groups = [group]
  for (const tensor of tensors) {
    const size = planBytes(tensor)
    if (group.length > 0 && bytes + size > limit) {
      group = []
      bytes = 0
      groups.push(group)
    }
    group.push(tensor)
    bytes += size
  }
  if (groups.length > maxParts)
    throw new TsqError("ERR_OPTION", `maxPartBytes makes ${groups.length} parts, at most ${maxParts} are allowed`)
  return groups
}

/** The model's own metadata stands in the first part only, as llama.cpp writes it; the alignment is every file's own. */
function partMetadata(metadata: GgufMetadata, part: number, count: number, tensors: number): GgufMetadata {
  const alignment = metadata.get("general.alignment")
  const own: [string, GgufValue][] = part === 0 ? [...metadata] : alignment ? [["general.alignment", alignment]] : []
  return new Map<string, GgufValue>([
    ...own,
    [splitKeys.number, { type: "u16", value: part }],
    [splitKeys.count, { type: "u16", value: count }],
    [splitKeys.tensors, { type: "i32", value: tensors }],
  ])
}
