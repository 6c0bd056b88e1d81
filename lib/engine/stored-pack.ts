// The weights of a cache file, read while the rest of a model is made ready.
import { abortError, TsqError } from "../core/errors.ts"
import { sharedFloats } from "../core/tensor.ts"
import { PackedWeight } from "../kernels/packed-weight.ts"
import type { WeightSource } from "../models/weights.ts"
import { abortable, NativeHandle, native } from "../native.ts"
import type { WeightSummary } from "./model.ts"
import { type PackMeta, readMeta } from "./pack-meta.ts"

/** Memory that one native call fills: enough to keep all threads busy, little enough to show progress. */
const groupBytes = 2 ** 29

/** Calls under way at once, so that the threads need not wait for this one to ask for more. */
const readAhead = 2

interface Group {
  first: number
  count: number
  bytes: number
}

export class StoredPack implements WeightSource {
  readonly path: string
  readonly meta: PackMeta
  readonly #file: NativeHandle
  readonly #floats: number
  /** [weights, 4]: n, k, bits and bytes. */
  readonly #table: Float64Array
  readonly #index: ReadonlyMap<string, number>
  readonly #stop = new AbortController()
  /** By weight: the read that brings it. */
  readonly #reads: Promise<PackedWeight[]>[] = []
  readonly #groups: readonly Group[]
  readonly #users = new Map<string, number>()
  #vectors: Promise<ReadonlyMap<string, Float32Array>> | null = null
  readonly #failures = new WeakSet<object>()

  private constructor(path: string, file: NativeHandle, meta: PackMeta, floats: number, table: Float64Array) {
    this.path = path
    this.meta = meta
    this.#file = file
    this.#floats = floats
    this.#table = table
    this.#index = new Map(meta.linears.map((module, i) => [module, i]))
    this.#groups = cut(table)
  }

  /** ERR_IO, ERR_FORMAT (another version) or ERR_CORRUPT. The contents are checked as they are read. */
  static async open(path: string): Promise<StoredPack> {
    const { file, meta, floats, weights } = await native.openPackFile(path)
    const handle = new NativeHandle(file, `the cache file ${path}`)
    try {
      return new StoredPack(path, handle, readMeta(meta, weights.length / 4, floats), floats, weights)
    } catch (error) {
      handle.dispose()
      throw error
    }
  }

  /** Begins to read everything; `linear` and `vector` wait for their part. */
  start(signal: AbortSignal | undefined): void {
    const both = signal ? AbortSignal.any([signal, this.#stop.signal]) : this.#stop.signal
    this.#vectors = this.#watch(this.#readVectors())
    this.#groups.forEach((group, i) => {
      const earlier = this.#reads[i - readAhead]
      this.#reads.push(this.#watch(this.#readGroup(group, earlier, both)))
    })
  }

  async linear(module: string, n: number, k: number): Promise<PackedWeight> {
    const index = this.#index.get(module) ?? -1
    const [rows, columns] = this.#table.subarray(index * 4, index * 4 + 2)
    if (index < 0 || rows !== n || columns !== k) throw this.#lacks(`${module} of [${n}, ${k}]`)
    const group = this.#groups.findIndex(({ first, count }) => index < first + count)
    const weights = await this.#reads[group]
    if (!weights) throw new TsqError("ERR_OPTION", `${this.path}: reading has not begun`)
    this.#users.set(module, (this.#users.get(module) ?? 0) + 1)
    return weights[index - this.#groups[group]!.first]!
  }

  has(tensor: string): boolean {
    return this.meta.vectors.some(([name]) => name === tensor) || this.#index.has(tensor.replace(/\.weight$/, ""))
  }

  /** A weight used twice (a tied head) is freed with its last user. */
  release(module: string, weight: PackedWeight): void {
    const users = (this.#users.get(module) ?? 0) - 1
    this.#users.set(module, users)
    if (users <= 0) weight.dispose()
  }

  async vector(tensor: string, size: number): Promise<Float32Array> {
    const values = (await this.#vectors)?.get(tensor)
    if (values?.length !== size) throw this.#lacks(`${tensor} of ${size} elements`)
    return values
  }

  /** Whether an error came from this file, and not from something else that went wrong meanwhile. */
  hasFailed(error: unknown): boolean {
    return typeof error === "object" && error !== null && this.#failures.has(error)
  }

  summary(): WeightSummary {
    return this.meta.summary
  }

  /** Memory of the weights. */
  get bytes(): number {
    return this.#groups.reduce((sum, group) => sum + group.bytes, 0)
  }

  /** Ends reading, frees what nobody asked for and closes the file. Weights that were handed out stay. */
  async close(): Promise<void> {
    this.#stop.abort(abortError())
    const read = await Promise.allSettled(this.#reads)
    await Promise.allSettled([this.#vectors])
    read.forEach((result, i) => {
      if (result.status === "rejected") return
      result.value.forEach((weight, j) => {
        if (!this.#users.has(this.meta.linears[this.#groups[i]!.first + j]!)) weight.dispose()
      })
    })
    this.#file.dispose()
  }

  async #readGroup(
    { first, count }: Group,
    earlier: Promise<unknown> | undefined,
    signal: AbortSignal,
  ): Promise<PackedWeight[]> {
    await earlier
    const handles = await abortable(signal, flag => native.readPackWeights(this.#file.value, first, count, flag))
    return Array.from(handles, (handle, i) => {
      const [n = 0, k = 0, bits = 0] = this.#table.subarray((first + i) * 4)
      return new PackedWeight(handle, [n, k], bits)
    })
  }

  async #readVectors(): Promise<ReadonlyMap<string, Float32Array>> {
    const floats = sharedFloats(this.#floats)
    await native.readPackFloats(this.#file.value, floats)
    let begin = 0
    return new Map(
      this.meta.vectors.map(([name, size]) => {
        const values = floats.subarray(begin, begin + size)
        begin += size
        return [name, values]
      }),
    )
  }

  /** Notes a failure at once: nobody may be waiting for it yet. */
  #watch<T>(promise: Promise<T>): Promise<T> {
    promise.catch(error => this.#failures.add(error))
    return promise
  }

  #lacks(what: string): TsqError {
    const error = new TsqError("ERR_CORRUPT", `it has no ${what}`)
    this.#failures.add(error)
    return error
  }
}

/** Runs of weights of about groupBytes; a larger weight is a group of its own. */
function cut(table: Float64Array): Group[] {
  const groups: Group[] = []
  for (let i = 0; i < table.length / 4; i++) {
    const bytes = table[i * 4 + 3]!
    const last = groups.at(-1)
    if (last && last.bytes + bytes <= groupBytes) {
      last.count++
      last.bytes += bytes
    } else groups.push({ first: i, count: 1, bytes })
  }
  return groups
}
