// The calibration set on its way through the model: hidden states of every window, advanced block by block.
import { throwIfAborted } from "../core/errors.ts"
import { sharedFloats, sharedInts, Tensor } from "../core/tensor.ts"
import { divergenceColumns } from "../engine/window-scorer.ts"
import { prepackDense } from "../kernels/packed-weight.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { BlockWeights } from "../models/block-weights.ts"
import { HessianSum } from "../models/hessian-sum.ts"
import type { ModelProgram } from "../models/program.ts"
import {
  type BoundSection,
  type KvCacheHandle,
  ModelRunner,
  type Observer,
  type StepSequence,
  type WeightSource,
} from "../models/runner.ts"
import { pagesFor } from "../models/sequence.ts"
import type { Handle } from "../native.ts"
import type { BlockSample, Watched } from "../transforms/transform.ts"
import type { CalibrationSet } from "./calibration.ts"
import { stepRows } from "./estimate.ts"

interface Batch {
  begin: number
  rows: number
  sequences: readonly StepSequence[]
}

/** A slot that is compared with the unquantized model's: see Observer. */
interface Compared {
  slot: number
  inputs?: number
  accumulator: Accumulator
}

/** Final hidden states as the head reads them, f32 [rows, width]. */
export interface HeadInput {
  states: Float32Array
  width: number
}

export class CalibrationRun {
  readonly runner: ModelRunner
  readonly cache: KvCacheHandle
  readonly #program: ModelProgram
  readonly #source: WeightSource
  readonly #set: CalibrationSet
  readonly #device: Handle | null
  readonly #batches: readonly Batch[]
  /** [windows * sequenceLength, hiddenSize]: what enters the next block. */
  readonly #hidden: Float32Array
  /** The same of the unquantized model, where rounding aims at its outputs. */
  readonly #original: Float32Array | null
  /** Of a fork: runner and cache are its origin's. */
  readonly #isFork: boolean
  #owned: { dispose(): void }[] = []

  private constructor(
    program: ModelProgram,
    source: WeightSource,
    set: CalibrationSet,
    device: Handle | null,
    original: boolean,
    origin: CalibrationRun | null = null,
  ) {
    this.#program = program
    this.#source = source
    this.#set = set
    this.#device = device
    this.#isFork = origin !== null
    const length = set.sequenceLength
    const perStep = Math.max(1, Math.floor(stepRows / length))
    const pagesEach = pagesFor(length)
    this.runner = origin?.runner ?? new ModelRunner(program)
    this.cache = origin?.cache ?? this.runner.createCache(1, Math.min(perStep, set.windows.length) * pagesEach)
    const batches: Batch[] = []
    for (let first = 0; first < set.windows.length; first += perStep) {
      const count = Math.min(perStep, set.windows.length - first)
      const sequences = Array.from({ length: count }, (_, i) => ({
        rows: length,
        context: 0,
        pages: Array.from({ length: pagesEach }, (_, page) => i * pagesEach + page),
      }))
      batches.push({ begin: first * length, rows: count * length, sequences })
    }
    this.#batches = batches
    this.#hidden = sharedFloats(set.windows.length * length * program.config.hiddenSize)
    this.#original = original ? sharedFloats(this.#hidden.length) : null
  }

  /**
   * Embeds the calibration windows. device: where second moments are summed, null for the CPU. embedding: a source of its own for that.
   * original: whether the hidden states of the unquantized model are carried along.
   */
  static async start(
    program: ModelProgram,
    source: WeightSource,
    set: CalibrationSet,
    signal?: AbortSignal,
    device: Handle | null = null,
    embedding: WeightSource = source,
    original = false,
  ): Promise<CalibrationRun> {
    const run = new CalibrationRun(program, source, set, device, original)
    const prologue = await run.runner.bindSection(0, "", embedding, set.sequenceLength)
    try {
      for (const batch of run.#batches) {
        const tokens = sharedInts(batch.rows)
        for (let row = 0; row < batch.rows; row += set.sequenceLength)
          tokens.set(set.windows[(batch.begin + row) / set.sequenceLength]!, row)
        await run.runner.step({
          runs: [{ section: prologue, layer: 0 }],
          rows: batch.rows,
          tokens,
          sequences: batch.sequences,
          cache: run.cache,
          observers: [
            { run: 0, op: program.sections[0]!.ops.length - 1, slot: 0, reduction: "copy", out: run.#slice(batch) },
          ],
          signal,
        })
      }
      run.#original?.set(run.#hidden)
      return run
    } catch (error) {
      run.dispose()
      throw error
    } finally {
      prologue.dispose()
    }
  }

  /** The same windows at the same place, with hidden states of their own: shares runner and cache, so that one of them runs at a time. */
  fork(): CalibrationRun {
    const fork = new CalibrationRun(this.#program, this.#source, this.#set, this.#device, this.carriesOriginal, this)
    fork.#hidden.set(this.#hidden)
    if (this.#original) fork.#original?.set(this.#original)
    return fork
  }

  /** Tokens of all windows together. */
  get rows(): number {
    return this.#set.windows.length * this.#set.sequenceLength
  }

  #slice(batch: Batch, states = this.#hidden): Float32Array {
    const width = this.#program.config.hiddenSize
    return states.subarray(batch.begin * width, (batch.begin + batch.rows) * width)
  }

  /** The block's original weights, or those of another source. */
  bind(layer: number, source: WeightSource = this.#source): Promise<BoundSection> {
    const { sequenceLength } = this.#set
    return this.runner.bindSection(
      this.#program.blocks[layer]!,
      this.#program.blockPrefix(layer),
      source,
      sequenceLength,
    )
  }

  /** `bound` with what a transform changed in its place; owned by this run. */
  async rebind(bound: BoundSection, weights: BlockWeights): Promise<BoundSection> {
    let result = bound
    for (const module of weights.changedLinears) {
      const packed = this.own(await prepackDense(Tensor.from(await weights.linear(module), weights.shape(module))))
      result = this.own(result.set(module, packed))
    }
    for (const [tensor, values] of weights.changedVectors) result = this.own(result.setVector(tensor, values))
    return result
  }

  /** Keeps a native object until releaseOwned(). */
  own<T extends { dispose(): void }>(object: T): T {
    this.#owned.push(object)
    return object
  }

  releaseOwned(): void {
    for (const object of this.#owned) object.dispose()
    this.#owned = []
  }

  /** Some windows, spread over the set, of `rows` tokens together (one window at least): few enough to run a block on many times. */
  sample(rows: number): BlockSample {
    const { windows, sequenceLength: length } = this.#set
    const count = Math.min(windows.length, Math.max(1, Math.floor(rows / length)))
    const size = length * this.#program.config.hiddenSize
    const hidden = sharedFloats(count * size)
    for (let i = 0; i < count; i++) {
      const from = Math.floor((i * windows.length) / count) * size
      hidden.set(this.#hidden.subarray(from, from + size), i * size)
    }
    return { rows: count * length, hidden, sequences: this.#batches[0]!.sequences.slice(0, count) }
  }

  /** Whether the hidden states of the unquantized model are carried along. */
  get carriesOriginal(): boolean {
    return this.#original !== null
  }

  /**
   * Runs the block up to op `op` over the whole set and reduces the slot that op reads. drift: what that slot holds in the unquantized
   * model, whose block is `original`, is compared into an accumulator of kind cross, and slot `stream` into `residual`.
   */
  async observe(
    bound: BoundSection,
    op: number,
    slot: number,
    accumulator: Accumulator,
    signal?: AbortSignal,
    drift?: {
      original: BoundSection
      accumulator: Accumulator
      residual?: Accumulator | null
      stream?: number | undefined
    },
  ): Promise<void> {
    const onDevice = accumulator.kind === "hessian" && this.#device !== null
    const sum = onDevice ? await HessianSum.start(accumulator, this.#device) : null
    try {
      // One array for all batches: what was copied has been added before the next step.
      const most = Math.max(...this.#batches.map(batch => batch.rows))
      const rows = sum && sharedFloats(most * accumulator.width)
      const compared: Compared[] = drift ? [{ slot, accumulator: drift.accumulator }] : []
      if (drift?.residual) compared.push({ slot: drift.stream!, inputs: slot, accumulator: drift.residual })
      const references = compared.map(({ slot }) => sharedFloats(most * this.#program.slots[slot]!))
      for (const batch of this.#batches) {
        throwIfAborted(signal)
        const out = rows?.subarray(0, batch.rows * accumulator.width)
        const observed = compared.map((each, i) => ({
          ...{ run: 0, op: op - 1, ...each },
          reference: references[i]!.subarray(0, batch.rows * this.#program.slots[each.slot]!),
        }))
        if (drift) await this.#copyOriginal(drift.original, op, batch, observed, signal)
        await this.runner.step({
          runs: [{ section: bound, layer: 0, opBegin: 0, opEnd: op }],
          rows: batch.rows,
          sequences: batch.sequences,
          cache: this.cache,
          hidden: this.#slice(batch),
          observers: [
            out
              ? { run: 0, op: op - 1, slot, reduction: "copy", out }
              : { run: 0, op: op - 1, slot, reduction: accumulator.kind, accumulator: accumulator.handle },
            ...observed.map(({ accumulator: { kind, handle }, ...rest }) => ({
              ...rest,
              ...{ reduction: kind, accumulator: handle },
            })),
          ],
          signal,
        })
        if (sum && out) await sum.add(out, batch.rows)
      }
      await sum?.finish()
    } finally {
      sum?.dispose()
    }
  }

  /** What slots hold before op `op` in the unquantized model. */
  #copyOriginal(
    bound: BoundSection,
    op: number,
    batch: Batch,
    slots: readonly { slot: number; reference: Float32Array }[],
    signal: AbortSignal | undefined,
  ): Promise<unknown> {
    return this.runner.step({
      runs: [{ section: bound, layer: 0, opBegin: 0, opEnd: op }],
      rows: batch.rows,
      sequences: batch.sequences,
      cache: this.cache,
      hidden: this.#slice(batch, this.#original!),
      observers: slots.map(({ slot, reference: out }) => ({ run: 0, op: op - 1, slot, reduction: "copy", out })),
      signal,
    })
  }

  /** Replaces the hidden states of the unquantized model, where they are carried along, by its block's outputs. */
  async advanceOriginal(layer: number, signal?: AbortSignal): Promise<void> {
    if (!this.#original) return
    const bound = await this.bind(layer)
    try {
      await this.advance(bound, signal, [], this.#original)
    } finally {
      bound.dispose()
    }
  }

  /** Runs the block over the whole set as far as it is watched: slots are reduced, each before the op that reads it. */
  async watch(bound: BoundSection, watched: readonly Watched[], signal?: AbortSignal): Promise<void> {
    if (watched.length === 0) return
    const opEnd = Math.max(...watched.map(({ op }) => op))
    for (const batch of this.#batches) {
      throwIfAborted(signal)
      await this.runner.step({
        runs: [{ section: bound, layer: 0, opBegin: 0, opEnd }],
        rows: batch.rows,
        sequences: batch.sequences,
        cache: this.cache,
        hidden: this.#slice(batch),
        observers: observersOf(watched),
        signal,
      })
    }
  }

  /** Reduces what enters the head, once every block has advanced. source: of the final norm. */
  async observeHead(accumulator: Accumulator, signal?: AbortSignal, source = this.#source): Promise<void> {
    const last = this.#program.sections.length - 1
    const bound = await this.runner.bindSection(last, "", source)
    try {
      const op = this.#program.sections[last]!.ops.findIndex(({ kind }) => kind === "logits")
      await this.observe(bound, op, this.#program.sections[last]!.ops[op]!.in[0]!, accumulator, signal)
    } finally {
      bound.dispose()
    }
  }

  /** Replaces the hidden states by the block's outputs, and reduces slots on the way: each before the op that reads it. */
  async advance(
    bound: BoundSection,
    signal?: AbortSignal,
    watched: readonly Watched[] = [],
    states: Float32Array = this.#hidden,
  ): Promise<void> {
    const ops = this.#program.sections[bound.section]!.ops.length
    for (const batch of this.#batches) {
      throwIfAborted(signal)
      const hidden = this.#slice(batch, states)
      await this.runner.step({
        runs: [{ section: bound, layer: 0 }],
        rows: batch.rows,
        sequences: batch.sequences,
        cache: this.cache,
        hidden,
        observers: [...observersOf(watched), { run: 0, op: ops - 1, slot: 0, reduction: "copy", out: hidden }],
        signal,
      })
    }
  }

  /**
   * Runs a block on these hidden states without taking its outputs, and compares those with what `reference`, a fork, holds: their squared
   * difference relative to the reference's square.
   */
  async outputError(bound: BoundSection, reference: CalibrationRun, signal?: AbortSignal): Promise<number> {
    const ops = this.#program.sections[bound.section]!.ops.length
    const error = new Accumulator("squaredError", this.#program.slots[0]!)
    try {
      for (const batch of this.#batches) {
        throwIfAborted(signal)
        await this.runner.step({
          runs: [{ section: bound, layer: 0 }],
          rows: batch.rows,
          sequences: batch.sequences,
          cache: this.cache,
          hidden: this.#slice(batch),
          observers: [
            {
              run: 0,
              op: ops - 1,
              slot: 0,
              reduction: "squaredError",
              accumulator: error.handle,
              reference: reference.#slice(batch),
            },
          ],
          signal,
        })
      }
      const [difference, square] = error.read(2)
      return difference! / Math.max(square!, Number.MIN_VALUE)
    } finally {
      error.dispose()
    }
  }

  /** Of every channel of what the logits are made of: the factor that brings it closest to the unquantized model's, once every block has advanced. */
  async headGains(signal?: AbortSignal): Promise<Float64Array> {
    const { section, slot, width } = this.#head
    const bound = await this.runner.bindSection(section, "", this.#source)
    const op = this.#program.sections[section]!.ops.length - 1
    const squares = new Accumulator("sumSquares", width)
    const products = new Accumulator("products", width)
    const reference = sharedFloats(Math.max(...this.#batches.map(batch => batch.rows)) * width)
    try {
      for (const batch of this.#batches) {
        throwIfAborted(signal)
        const expected = reference.subarray(0, batch.rows * width)
        await this.#copyOriginal(bound, op, batch, [{ slot, reference: expected }], signal)
        const at = { run: 0, op: op - 1, slot }
        await this.runner.step({
          runs: [{ section: bound, layer: 0, opBegin: 0, opEnd: op }],
          rows: batch.rows,
          sequences: batch.sequences,
          cache: this.cache,
          hidden: this.#slice(batch),
          observers: [
            { ...at, reduction: "sumSquares", accumulator: squares.handle },
            { ...at, reduction: "products", accumulator: products.handle, reference: expected },
          ],
          signal,
        })
      }
      const [sums, mixed] = [squares.read(width), products.read(width)]
      return sums.map((sum, i) => (sum > 0 ? mixed[i]! / sum : 1))
    } finally {
      squares.dispose()
      products.dispose()
      bound.dispose()
    }
  }

  /** What the logits are made of, once every block has advanced: [rows, width]. */
  async headInput(signal?: AbortSignal): Promise<HeadInput> {
    const { section, slot, width } = this.#head
    const bound = await this.runner.bindSection(section, "", this.#source)
    const op = this.#program.sections[section]!.ops.length - 1
    const states = sharedFloats(this.rows * width)
    try {
      for (const batch of this.#batches) {
        throwIfAborted(signal)
        const out = states.subarray(batch.begin * width, (batch.begin + batch.rows) * width)
        await this.runner.step({
          runs: [{ section: bound, layer: 0, opBegin: 0, opEnd: op }],
          rows: batch.rows,
          sequences: batch.sequences,
          cache: this.cache,
          hidden: this.#slice(batch),
          observers: [{ run: 0, op: op - 1, slot, reduction: "copy", out }],
          signal,
        })
      }
      return { states, width }
    } finally {
      bound.dispose()
    }
  }

  /**
   * Mean KL(reference || this) over the predicted tokens in nats, once every block of both has advanced. `epilogue`: where this run's final
   * norm and head come from; the reference's head is the original.
   */
  async divergence(reference: HeadInput, signal?: AbortSignal, epilogue: WeightSource = this.#source): Promise<number> {
    const { sequenceLength: length, windows } = this.#set
    const { section, width, weight, softcap } = this.#head
    const original = await this.runner.bindSection(section, "", this.#source)
    let bound = original
    const perWindow = length - 1
    let sum = 0
    try {
      if (epilogue !== this.#source) bound = await this.runner.bindSection(section, "", epilogue)
      for (const batch of this.#batches) {
        throwIfAborted(signal)
        const count = batch.rows / length
        const rows = sharedInts(count * perWindow)
        const targets = sharedInts(count * perWindow)
        const referenceHidden = sharedFloats(count * perWindow * width)
        for (let i = 0; i < count; i++) {
          const first = batch.begin + i * length
          targets.set(windows[first / length]!.subarray(1), i * perWindow)
          for (let j = 0; j < perWindow; j++) rows[i * perWindow + j] = i * length + j
          const from = first * width
          referenceHidden.set(reference.states.subarray(from, from + perWindow * width), i * perWindow * width)
        }
        const values = new Float64Array(new SharedArrayBuffer(8 * divergenceColumns * rows.length))
        await this.runner.step({
          runs: [{ section: bound, layer: 0 }],
          rows: batch.rows,
          sequences: batch.sequences,
          cache: this.cache,
          hidden: this.#slice(batch),
          epilogue: {
            mode: "divergence",
            rows,
            targets,
            values,
            referenceHidden,
            referenceWidth: width,
            referenceHead: original.weights[weight]!,
            referenceSoftcap: softcap,
            referenceActivations: "exact",
          },
          signal,
        })
        for (let i = 0; i < values.length; i += divergenceColumns) sum += values[i]!
      }
      return sum / (windows.length * perWindow)
    } finally {
      original.dispose()
      bound.dispose()
    }
  }

  /** Where the logits operation, the program's last, reads. */
  get #head(): { section: number; slot: number; width: number; weight: number; softcap: number } {
    const { sections, slots } = this.#program
    const logits = sections.at(-1)!.ops.at(-1)!
    const slot = logits.in[0]!
    return {
      section: sections.length - 1,
      slot,
      width: slots[slot]!,
      weight: logits.weights[0]!,
      softcap: logits.p[0]!,
    }
  }

  dispose(): void {
    this.releaseOwned()
    if (this.#isFork) return
    this.cache.dispose()
    this.runner.dispose()
  }
}

const observersOf = (watched: readonly Watched[]): Observer[] =>
  watched.map(({ op, slot, accumulator, routes, expert }) => ({
    ...{ run: 0, op: op - 1, slot, reduction: accumulator.kind, accumulator: accumulator.handle },
    ...(routes !== undefined && expert !== undefined && { routes, expert }),
  }))
