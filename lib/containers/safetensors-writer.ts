// Streaming writer of safetensors checkpoints.
//
// The reference writer orders the tensors of a file by dtype and name, which is known only when the last one has come. So the
// bytes of each tensor go to a data file as they come, and when a shard is full it is laid out in its final order: memory is
// bounded by a copy buffer, extra disk space by one shard.
import type { FileHandle } from "node:fs/promises"
import { open, rename, rm } from "node:fs/promises"
import { join } from "node:path"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { Tensor } from "../core/tensor.ts"
import { type Mapped, native } from "../native.ts"
import { writeError, writeFully, writeNewFile } from "./disk.ts"
import { compareNames, type HeaderEntry, serializeHeader, tensorBytes, writingOrder } from "./safetensors-header.ts"

/** A tensor as it is written: name, safetensors dtype ("I32", "F16", "BF16", "I64" …), shape, little-endian bytes or a Tensor. */
export interface NamedTensor {
  name: string
  dtype: string
  shape: readonly number[]
  data: Uint8Array | Tensor
}

export interface SafetensorsWriterOptions {
  /** Tensor bytes of a file, at most (a larger single tensor gets its own file). Default 5 GB. */
  maxShardBytes?: number
  /**
   * All tensors, in the order in which they will come, where that is known before: then every byte goes to its place at once.
   * Otherwise it is written twice. The files are the same.
   */
  tensors?: readonly Omit<NamedTensor, "data">[]
  signal?: AbortSignal | undefined
}

/** A tensor that is not as it was announced. */
export class OtherTensors extends TsqError {
  constructor(what: string) {
    super("ERR_FORMAT", `${what}: other tensors have come than were announced to the writer`)
  }
}

const copyBytes = 8 * 1024 * 1024

/** A tensor's place in the data file of the open shard. */
type StoredTensor = Omit<HeaderEntry, "begin" | "end"> & { offset: number; bytes: number }

interface OpenShard {
  path: string
  file: FileHandle
  tensors: StoredTensor[]
  bytes: number
  /** The header, which is written, and where the tensors belong in the file; null: they are appended. */
  plan: { header: Uint8Array; entries: ReadonlyMap<string, HeaderEntry> } | null
}

interface ClosedShard {
  path: string
  names: string[]
}

/**
 * `add` every tensor, then `finish`: `model.safetensors`, or numbered shards and their index where one file would exceed
 * maxShardBytes. The bytes depend on the tensors and the order of the calls alone. After a failure only `discard` is left.
 */
export class SafetensorsWriter {
  readonly #directory: string
  readonly #maxShardBytes: number
  readonly #signal: AbortSignal | undefined
  /** Of each shard, in order; null where they were not given. */
  readonly #plans: readonly (readonly HeaderEntry[])[] | null
  readonly #names = new Set<string>()
  readonly #closed: ClosedShard[] = []
  #open: OpenShard | null = null
  #shards = 0
  #totalBytes = 0
  #queue: Promise<unknown> = Promise.resolve()
  #state: "open" | "failed" | "finished" = "open"

  constructor(directory: string, options: SafetensorsWriterOptions = {}) {
    const { maxShardBytes = 5_000_000_000, signal } = options
    if (!Number.isSafeInteger(maxShardBytes) || maxShardBytes < 1)
      throw new TsqError("ERR_OPTION", `maxShardBytes is ${maxShardBytes}, expected a positive integer`)
    this.#directory = directory
    this.#maxShardBytes = maxShardBytes
    this.#signal = signal
    this.#plans = options.tensors ? planShards(options.tensors, maxShardBytes) : null
  }

  /** Writes a tensor's bytes. Calls may overlap; they are carried out in turn. */
  add(tensor: NamedTensor): Promise<void> {
    return this.#inTurn(() => this.#add(tensor))
  }

  /** Lays out the last shard and gives all files their final names. */
  finish(): Promise<{ files: string[]; totalBytes: number }> {
    return this.#inTurn(async () => {
      // A checkpoint without a tensor is a file with an empty header.
      if (this.#closed.length === 0) this.#open ??= await this.#openShard()
      if (this.#open) await this.#closeShard(this.#open)
      const count = this.#closed.length
      const files: string[] = []
      const weightMap: [string, string][] = []
      for (const [index, shard] of this.#closed.entries()) {
        const file = count === 1 ? "model.safetensors" : `model-${number(index + 1)}-of-${number(count)}.safetensors`
        await this.#attempt("rename a shard to", file, () => rename(shard.path, join(this.#directory, file)))
        files.push(file)
        for (const name of shard.names) weightMap.push([name, file])
      }
      if (count > 1) {
        const file = "model.safetensors.index.json"
        weightMap.sort((a, b) => compareNames(a[0], b[0]))
        const index = { metadata: { total_size: this.#totalBytes }, weight_map: Object.fromEntries(weightMap) }
        await writeNewFile(join(this.#directory, file), `${JSON.stringify(index, null, 2)}\n`)
        files.push(file)
      }
      this.#state = "finished"
      return { files, totalBytes: this.#totalBytes }
    })
  }

  /** Closes and removes what was written and not finished. */
  async discard(): Promise<void> {
    await this.#queue
    if (this.#state === "finished") return
    this.#state = "failed"
    const open = this.#open
    this.#open = null
    await open?.file.close()
    for (const path of [open?.path, ...this.#closed.map(shard => shard.path)])
      if (path !== undefined) await rm(path, { force: true })
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#queue.then(async () => {
      if (this.#state !== "open")
        throw new TsqError(
          "ERR_OPTION",
          `the safetensors writer in ${this.#directory} has ${this.#state}; make a new one`,
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

  async #add({ name, dtype, shape, data }: NamedTensor): Promise<void> {
    throwIfAborted(this.#signal)
    if (name === "__metadata__" || this.#names.has(name))
      throw new TsqError(
        "ERR_FORMAT",
        `tensor ${JSON.stringify(name)}: ${name === "__metadata__" ? "the name is reserved" : "was added twice"}`,
      )
    const bytes = tensorBytes(dtype, shape, `tensor ${JSON.stringify(name)}`)
    const found = data instanceof Tensor ? data.bytes : data.byteLength
    if (found !== bytes)
      throw new TsqError(
        "ERR_SHAPE",
        `tensor ${JSON.stringify(name)}: has ${found} bytes, ${dtype} [${shape.join(", ")}] needs ${bytes}`,
      )
    if (this.#open && this.#open.bytes > 0 && this.#open.bytes + bytes > this.#maxShardBytes)
      await this.#closeShard(this.#open)
    this.#open ??= await this.#openShard()
    const shard = this.#open
    const place = placeOf(shard, { name, dtype, shape })
    await this.#attempt(`write ${bytes} bytes of tensor ${JSON.stringify(name)} to`, shard.path, () =>
      this.#store(shard.file, data, place),
    )
    shard.tensors.push({ name, dtype, shape: [...shape], offset: shard.bytes, bytes })
    shard.bytes += bytes
    this.#totalBytes += bytes
    this.#names.add(name)
  }

  /** `place`: the first byte's position in the file; null: its end. */
  async #store(file: FileHandle, data: Uint8Array | Tensor, place: number | null): Promise<void> {
    if (!(data instanceof Tensor)) return writeFully(file, data, place)
    const source = data.source
    if (ArrayBuffer.isView(source))
      return writeFully(file, new Uint8Array(source.buffer, source.byteOffset, source.byteLength), place)
    const { mapping, offset, bytes } = source satisfies Mapped
    const buffer = new Uint8Array(new SharedArrayBuffer(Math.min(bytes, copyBytes)))
    for (let done = 0; done < bytes; done += copyBytes) {
      throwIfAborted(this.#signal)
      const part = buffer.subarray(0, Math.min(copyBytes, bytes - done))
      await native.readMappingAsync(mapping, offset + done, part)
      await writeFully(file, part, place === null ? null : place + done)
    }
  }

  async #openShard(): Promise<OpenShard> {
    const path = join(this.#directory, `.shard-${number(++this.#shards)}.data`)
    const file = await this.#attempt("create", path, () => open(path, "wx+"))
    const shard: OpenShard = { path, file, tensors: [], bytes: 0, plan: null }
    if (!this.#plans) return shard
    const plan = this.#plans[this.#shards - 1] ?? []
    const header = serializeHeader(plan, { format: "pt" })
    await this.#attempt("write the header of", path, () => writeFully(file, header))
    return {
      ...shard,
      plan: { header, entries: new Map(plan.map(entry => [entry.name, entry])) },
    }
  }

  /** Writes header and data of a full shard in the reference order and removes its data file. */
  async #closeShard(shard: OpenShard): Promise<void> {
    shard.tensors.sort(writingOrder)
    let begin = 0
    const entries = shard.tensors.map(({ name, dtype, shape, bytes }) => {
      const entry = { name, dtype, shape, begin, end: begin + bytes }
      begin += bytes
      return entry
    })
    const path = shard.path.replace(/\.data$/, ".safetensors")
    this.#closed.push({ path, names: entries.map(entry => entry.name) })
    if (shard.plan) {
      const header = serializeHeader(entries, { format: "pt" })
      if (Buffer.compare(header, shard.plan.header) !== 0) throw new OtherTensors(shard.path)
      await shard.file.close()
      this.#open = null
      return this.#attempt("rename", path, () => rename(shard.path, path))
    }
    await this.#attempt(`lay out ${shard.bytes} bytes of tensors in`, path, async () => {
      const out = await open(path, "wx")
      try {
        await writeFully(out, serializeHeader(entries, { format: "pt" }))
        await this.#copy(shard, out)
      } finally {
        await out.close()
      }
    })
    this.#open = null
    await shard.file.close()
    await rm(shard.path)
  }

  /** The shard's tensors in their new order; neighbours that were neighbours already go in one run. */
  async #copy(shard: OpenShard, out: FileHandle): Promise<void> {
    const runs: { offset: number; bytes: number }[] = []
    for (const { offset, bytes } of shard.tensors) {
      const last = runs.at(-1)
      if (last && last.offset + last.bytes === offset) last.bytes += bytes
      else runs.push({ offset, bytes })
    }
    const buffer = new Uint8Array(Math.min(copyBytes, shard.bytes))
    for (const { offset, bytes } of runs)
      for (let done = 0; done < bytes; ) {
        throwIfAborted(this.#signal)
        const { bytesRead } = await shard.file.read(buffer, 0, Math.min(buffer.length, bytes - done), offset + done)
        if (bytesRead === 0)
          throw new TsqError("ERR_IO", `${shard.path}: ended early; was it changed by another process?`)
        await writeFully(out, buffer.subarray(0, bytesRead))
        done += bytesRead
      }
  }

  async #attempt<T>(action: string, path: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (cause) {
      throw writeError(action, path, cause)
    }
  }
}

/** Where a tensor's first byte belongs in the shard's file; null: at its end. */
function placeOf({ plan }: OpenShard, { name, dtype, shape }: Omit<NamedTensor, "data">): number | null {
  if (!plan) return null
  const entry = plan.entries.get(name)
  if (entry?.dtype !== dtype || entry.shape.length !== shape.length || entry.shape.some((n, i) => n !== shape[i]))
    throw new OtherTensors(`tensor ${JSON.stringify(name)}`)
  return plan.header.byteLength + entry.begin
}

/** The headers' entries, shard by shard, divided as tensors are that come without having been announced. */
function planShards(tensors: readonly Omit<NamedTensor, "data">[], maxShardBytes: number): HeaderEntry[][] {
  const shards: (Omit<HeaderEntry, "begin" | "end"> & { bytes: number })[][] = [[]]
  let filled = 0
  for (const { name, dtype, shape } of tensors) {
    const bytes = tensorBytes(dtype, shape, `tensor ${JSON.stringify(name)}`)
    if (filled > 0 && filled + bytes > maxShardBytes) {
      shards.push([])
      filled = 0
    }
    shards.at(-1)!.push({ name, dtype, shape: [...shape], bytes })
    filled += bytes
  }
  return shards.map(shard => {
    let begin = 0
    return shard.sort(writingOrder).map(({ bytes, ...entry }) => {
      begin += bytes
      return { ...entry, begin: begin - bytes, end: begin }
    })
  })
}

const number = (index: number) => String(index).padStart(5, "0")
