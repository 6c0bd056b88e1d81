// Keys and values of the tokens seen so far: pages of a cache, who owns which, and how far a sequence has come.
import { TsqError } from "../core/errors.ts"
import { NativeHandle } from "../native.ts"

/** Positions of a page of the cache (native/program/kv_cache.h). */
export const pagePositions = 16

/** What a step needs to know about a sequence: `rows` new tokens after the `context` ones that its pages hold already. */
export interface StepSequence {
  rows: number
  context: number
  pages: readonly number[]
  /** LoRA adapter (native handle) that its rows run with; absent: none. */
  adapter?: NativeHandle | undefined
  /** Beside `pages`, where the cache keeps positions exactly: page of its f16 pool, -1 none. */
  exact?: readonly number[]
}

/** Which pages of a sequence a cache keeps exactly: the first ones, and those nearer to a query's page than `windowPages`. */
export interface ExactPages {
  sinkPages: number
  windowPages: number
  /** Pages of the pool, for all sequences together. */
  pages: number
}

/** What a sequence needs of the pool at most: where a step begins and where it ends, every page of the window. */
export const exactPagesEach = ({ sinkPages, windowPages }: Omit<ExactPages, "pages">): number =>
  sinkPages + 2 * windowPages

const nothingExact: ExactPages = { sinkPages: 0, windowPages: 0, pages: 0 }

/** A native cache of keys and values. */
export class KvCacheHandle extends NativeHandle {
  readonly layers: number
  readonly pages: number
  readonly exact: ExactPages

  constructor(handle: number, layers: number, pages: number, exact = nothingExact) {
    super(handle, "KV cache")
    this.layers = layers
    this.pages = pages
    this.exact = exact
  }
}

/** Hands out the pages of one cache. */
export class PageAllocator {
  readonly exact: ExactPages
  readonly #free: number[]
  readonly #freeExact: number[]
  readonly #pages: number

  constructor(pages: number, exact = nothingExact) {
    this.#pages = pages
    this.exact = exact
    // Taken from the end: page 0 first.
    this.#free = Array.from({ length: pages }, (_, i) => pages - 1 - i)
    this.#freeExact = Array.from({ length: exact.pages }, (_, i) => exact.pages - 1 - i)
  }

  get available(): number {
    return this.#free.length
  }

  allocate(): number {
    const page = this.#free.pop()
    if (page === undefined)
      throw new TsqError(
        "ERR_MEMORY",
        `the KV cache of ${this.#pages} pages (${this.#pages * pagePositions} tokens) is full; make it larger or end a sequence`,
      )
    return page
  }

  release(pages: readonly number[]): void {
    this.#free.push(...pages)
  }

  allocateExact(): number {
    const page = this.#freeExact.pop()
    if (page === undefined)
      throw new TsqError(
        "ERR_MEMORY",
        `the KV cache keeps ${this.exact.pages} pages exactly and all are in use; make it for more sequences or end one`,
      )
    return page
  }

  releaseExact(page: number): void {
    this.#freeExact.push(page)
  }
}

/** A sequence and its pages, taken as it grows. */
export class SequenceCache {
  readonly #allocator: PageAllocator
  readonly #pages: number[] = []
  /** By page: its page of the f16 pool, or -1. */
  readonly #exact: number[] = []
  /** Pages that have one. */
  #kept: number[] = []
  #length = 0

  constructor(allocator: PageAllocator) {
    this.#allocator = allocator
  }

  /** Tokens whose keys and values are in the cache. */
  get length(): number {
    return this.#length
  }

  /** Describes the next `rows` tokens to a step; `advance` once it has run. */
  next(rows: number): StepSequence {
    while (this.#pages.length * pagePositions < this.#length + rows) this.#pages.push(this.#allocator.allocate())
    const step = { rows, context: this.#length, pages: this.#pages }
    if (this.#allocator.exact.pages === 0) return step
    this.#keepExact(rows)
    return { ...step, exact: this.#exact }
  }

  /** What the step's first query reads stays, so that the step may run again; what its last one reads is taken. */
  #keepExact(rows: number): void {
    const { sinkPages, windowPages } = this.#allocator.exact
    const first = Math.floor(this.#length / pagePositions)
    const last = Math.floor((this.#length + rows - 1) / pagePositions)
    const needed = (page: number) =>
      page < sinkPages || (page > last - windowPages && page <= last) || (page > first - windowPages && page <= first)
    for (const page of this.#kept) {
      if (needed(page)) continue
      this.#allocator.releaseExact(this.#exact[page]!)
      this.#exact[page] = -1
    }
    while (this.#exact.length < this.#pages.length) this.#exact.push(-1)
    this.#kept = []
    for (let page = 0; page <= last; page++) {
      // From the sinks to the window.
      if (page >= sinkPages) page = Math.max(page, first - windowPages + 1)
      if (page > last) break
      if (!needed(page)) continue
      // A page before the first query's was written by an earlier step, or it cannot be had any more.
      if (this.#exact[page] === -1) this.#exact[page] = this.#allocator.allocateExact()
      this.#kept.push(page)
    }
  }

  advance(rows: number): void {
    this.#length += rows
  }

  /** Gives the pages back; the sequence is empty again. */
  release(): void {
    this.#allocator.release(this.#pages.splice(0))
    for (const page of this.#kept) this.#allocator.releaseExact(this.#exact[page]!)
    this.#kept = []
    this.#exact.length = 0
    this.#length = 0
  }
}

export const pagesFor = (tokens: number): number => Math.ceil(tokens / pagePositions)
