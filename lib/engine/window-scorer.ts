// Scores windows of tokens: several at once, as sequences of one step.
import { sharedFloats, sharedInts } from "../core/tensor.ts"
import type { Activations } from "../kernels/packed-weight.ts"
import type { KvCacheHandle, Step } from "../models/runner.ts"
import { PageAllocator, pagesFor, SequenceCache } from "../models/sequence.ts"
import type { NativeHandle } from "../native.ts"
import type { Model } from "./model.ts"

/** Rows of a step: enough to keep every thread busy, few enough to bound the memory of the slots. */
const stepRows = 2048

/** Values of a scored position: its NLL, or with a reference KL(reference || model), NLL, the reference's NLL, top tokens agree. */
export const divergenceColumns = 4

/** Windows of one length through one model. */
export class WindowScorer {
  /** Windows that fit one call of `score`. */
  readonly batch: number
  readonly #model: Model
  readonly #window: number
  readonly #activations: Activations
  readonly #adapter: NativeHandle | undefined
  readonly #cache: KvCacheHandle
  /** One for each window of a call. */
  readonly #sequences: readonly SequenceCache[]
  /** Rows of a window that one step takes. */
  readonly #chunk: number
  #hidden: Float32Array | null = null

  constructor(model: Model, window: number, activations: Activations = model.activations, adapter?: NativeHandle) {
    this.#model = model
    this.#window = window
    this.#activations = activations
    this.#adapter = adapter
    this.#chunk = Math.min(window, stepRows)
    this.batch = Math.max(1, Math.floor(stepRows / window))
    this.#cache = model.createCache(this.batch * pagesFor(window), this.batch)
    const allocator = new PageAllocator(this.#cache.pages, this.#cache.exact)
    this.#sequences = Array.from({ length: this.batch }, () => new SequenceCache(allocator))
  }

  /** [positions] NLL of the tokens at positions first ... window - 1 of every window, in nats. */
  async nll(windows: readonly Int32Array[], first: number, signal?: AbortSignal): Promise<Float64Array> {
    const parts: Float64Array[] = []
    for (const part of this.#parts(windows, first)) {
      const values = new Float64Array(new SharedArrayBuffer(8 * part.rows.length))
      const { rows, targets } = part
      const epilogue = rows.length > 0 ? { epilogue: { mode: "nll" as const, rows, targets, values } } : {}
      await this.#model.step({ ...this.#step(part, rows.length > 0), ...epilogue, signal })
      parts.push(values)
    }
    return concatenate(parts)
  }

  /** [positions, 4] against another model of the same vocabulary on the same windows. */
  async divergence(
    windows: readonly Int32Array[],
    first: number,
    reference: WindowScorer,
    signal?: AbortSignal,
  ): Promise<Float64Array> {
    const parts: Float64Array[] = []
    for (const part of this.#parts(windows, first)) {
      const { rows, targets } = part
      const referenceHidden = await reference.#hiddenRows(part, signal)
      const values = new Float64Array(new SharedArrayBuffer(8 * divergenceColumns * rows.length))
      const { width, head, softcap } = reference.#model.logitsInput
      const epilogue = {
        mode: "divergence" as const,
        rows,
        targets,
        values,
        referenceHidden,
        referenceWidth: width,
        referenceHead: head,
        referenceSoftcap: softcap,
        referenceActivations: reference.#activations,
      }
      await this.#model.step({ ...this.#step(part, rows.length > 0), ...(rows.length > 0 && { epilogue }), signal })
      parts.push(values)
    }
    return concatenate(parts)
  }

  dispose(): void {
    this.#cache.dispose()
  }

  /** Steps that take the windows in: one, or several where a window is longer than a step. */
  *#parts(windows: readonly Int32Array[], first: number): Generator<Part> {
    for (let begin = 0; begin < this.#window; begin += this.#chunk) {
      const length = Math.min(this.#chunk, this.#window - begin)
      // Row p predicts the token at p + 1.
      const from = Math.max(begin, first - 1)
      const scored = Math.max(0, Math.min(begin + length, this.#window - 1) - from)
      const part: Part = {
        begin,
        length,
        offset: from - begin,
        scored,
        tokens: sharedInts(windows.length * length),
        rows: sharedInts(windows.length * scored),
        targets: sharedInts(windows.length * scored),
      }
      windows.forEach((window, i) => {
        part.tokens.set(window.subarray(begin, begin + length), i * length)
        part.targets.set(window.subarray(from + 1, from + 1 + scored), i * scored)
        for (let j = 0; j < scored; j++) part.rows[i * scored + j] = i * length + part.offset + j
      })
      yield part
    }
  }

  #step(part: Part, epilogue: boolean): Step {
    if (part.begin === 0) for (const sequence of this.#sequences) sequence.release()
    const sequences = this.#sequences.slice(0, part.tokens.length / part.length)
    return {
      runs: this.#model.runs(epilogue, this.#window),
      rows: part.tokens.length,
      tokens: part.tokens,
      sequences: sequences.map(sequence => {
        sequence.advance(part.begin - sequence.length)
        return { ...sequence.next(part.length), adapter: this.#adapter }
      }),
      cache: this.#cache,
      activations: this.#activations,
    }
  }

  /** What the logits operation would read at the scored rows, [rows, width]. */
  async #hiddenRows(part: Part, signal: AbortSignal | undefined): Promise<Float32Array> {
    const { run, op, slot, width } = this.#model.logitsInput
    const size = part.tokens.length * width
    if (!this.#hidden || this.#hidden.length < size) this.#hidden = sharedFloats(size)
    const out = this.#hidden.subarray(0, size)
    const observers = part.scored > 0 ? [{ run, op, slot, reduction: "copy" as const, out }] : []
    await this.#model.step({ ...this.#step(part, part.scored > 0), observers, signal })
    if (part.scored === part.length) return out
    for (let i = 0; i * part.length < part.tokens.length; i++) {
      const from = (i * part.length + part.offset) * width
      out.copyWithin(i * part.scored * width, from, from + part.scored * width)
    }
    return out.subarray(0, part.rows.length * width)
  }
}

/** Positions begin ... begin + length of every window. */
interface Part {
  begin: number
  length: number
  /** Within the part: the first row that is scored, and how many are. */
  offset: number
  scored: number
  tokens: Int32Array
  rows: Int32Array
  targets: Int32Array
}

function concatenate(parts: readonly Float64Array[]): Float64Array {
  if (parts.length === 1) return parts[0]!
  const all = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0))
  let offset = 0
  for (const part of parts) {
    all.set(part, offset)
    offset += part.length
  }
  return all
}
