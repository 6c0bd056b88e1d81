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
}

/** A native cache of keys and values. */
export class KvCacheHandle extends NativeHandle {
  readonly layers: number
  readonly pages: number

  constructor(handle: number, layers: number, pages: number) {
    super(handle, "KV cache")
    this.layers = layers
    this.pages = pages
  }
}

/** Hands out the pages of one cache. */
export class PageAllocator {
  readonly #free: number[]
  readonly #pages: number

  constructor(pages: number) {
    this.#pages = pages
    // Taken from the end: page 0 first.
    this.#free = Array.from({ length: pages }, (_, i) => pages - 1 - i)
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
}

/** A sequence and its pages, taken as it grows. */
export class SequenceCache {
  readonly #allocator: PageAllocator
  readonly #pages: number[] = []
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
    return { rows, context: this.#length, pages: this.#pages }
  }

  advance(rows: number): void {
    this.#length += rows
  }

  /** Gives the pages back; the sequence is empty again. */
  release(): void {
    this.#allocator.release(this.#pages.splice(0))
    this.#length = 0
  }
}

export const pagesFor = (tokens: number): number => Math.ceil(tokens / pagePositions)
