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
  type Step,
  type StepRun,
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

/** Rows of the unquantized model by the slot that is compared with them. */
type References = ReadonlyMap<number, Float32Array>

const needsReference: readonly string[] = ["cross", "squaredError", "products"]

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
        await run.#step(batch, prologue, {
          tokens,
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

  /** Runs ops of a section on one batch, on `states` where they are given: all ops by default. */
  #step(
    batch: Batch,
    section: BoundSection,
    {
      opBegin = 0,
      opEnd = this.#program.sections[section.section]!.ops.length,
      states,
      ...rest
    }: Pick<StepRun, "opBegin" | "opEnd"> & { states?: Float32Array } & Pick<
        Step,
        "tokens" | "hidden" | "hiddenSlot" | "observers" | "epilogue" | "signal"
      >,
  ): Promise<void> {
    throwIfAborted(rest.signal)
    return this.runner.step({
      runs: [{ section, layer: 0, opBegin, opEnd }],
      rows: batch.rows,
      sequences: batch.sequences,
      cache: this.cache,
      ...(states && { hidden: this.#slice(batch, states) }),
      ...rest,
    })
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
   * Runs the block as far as it is watched over the whole set and reduces slots, each before the op that reads it. original: the block of the
   * unquantized model, where accumulators that compare find what their slot (of one op for all) holds there, for the same rows of every expert.
   */
  async watch(
    bound: BoundSection,
    watched: readonly Watched[],
    signal?: AbortSignal,
    original?: BoundSection,
  ): Promise<void> {
    if (watched.length === 0) return
    const opEnd = Math.max(...watched.map(({ op }) => op))
    const references = this.#references(watched, original)
    for (const batch of this.#batches) {
      const reference = await references?.(batch, bound, signal)
      const observers = observersOf(watched, reference)
      await this.#step(batch, bound, { opEnd, states: this.#hidden, observers, signal })
    }
  }

  /** The same of one Hessian, which is summed on the device where there is one, and what is watched beside it at the same place. */
  async observe(
    bound: BoundSection,
    { op, slot, accumulator }: Watched,
    signal?: AbortSignal,
    drift?: { original: BoundSection; accumulators: readonly Watched[] } | null,
  ): Promise<void> {
    const beside = drift?.accumulators ?? []
    if (accumulator.kind !== "hessian" || this.#device === null)
      return this.watch(bound, [{ op, slot, accumulator }, ...beside], signal, drift?.original)
    const sum = await HessianSum.start(accumulator, this.#device)
    try {
      const references = this.#references(beside, drift?.original)
      // One array for all batches: what was copied has been added before the next step.
      const rows = sharedFloats(this.#mostRows * accumulator.width)
      for (const batch of this.#batches) {
        const out = rows.subarray(0, batch.rows * accumulator.width)
        const reference = await references?.(batch, bound, signal)
        const copy: Observer = { run: 0, op: op - 1, slot, reduction: "copy", out }
        const observers = [copy, ...observersOf(beside, reference)]
        await this.#step(batch, bound, { opEnd: op, states: this.#hidden, observers, signal })
        await sum.add(out, batch.rows)
      }
      await sum.finish()
    } finally {
      sum.dispose()
    }
  }

  get #mostRows(): number {
    return Math.max(...this.#batches.map(batch => batch.rows))
  }

  /** What accumulators compare with: the slots that they watch, as the unquantized model fills them. One array each for all batches. */
  #references(watched: readonly Watched[], original: BoundSection | undefined) {
    const places = watched.filter(({ accumulator }) => needsReference.includes(accumulator.kind))
    if (places.length === 0 || !original) return null
    const width = (slot: number) => this.#program.slots[slot]!
    const values = new Map(places.map(({ slot }) => [slot, sharedFloats(this.#mostRows * width(slot))]))
    return async (batch: Batch, bound: BoundSection, signal: AbortSignal | undefined): Promise<References> => {
      const filled = new Map([...values].map(([slot, all]) => [slot, all.subarray(0, batch.rows * width(slot))]))
      await this.#copyOriginal(original, bound, places[0]!, batch, filled, signal)
      return filled
    }
  }

  /**
   * What slots hold before an op in the unquantized model. Where they are grouped by routes, rows go to the experts that they go to in `bound`,
   * the quantized model: only so are both inputs of an expert those of the same tokens.
   */
  async #copyOriginal(
    original: BoundSection,
    bound: BoundSection,
    { op, routes }: Watched,
    batch: Batch,
    into: References,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const observers = [...into].map(([slot, out]): Observer => ({ run: 0, op: op - 1, slot, reduction: "copy", out }))
    if (routes === undefined)
      return this.#step(batch, original, { opEnd: op, states: this.#original!, observers, signal })
    const { ops } = this.#program.sections[original.section]!
    const routed = ops.findIndex(entry => entry.in.includes(routes))
    const chosen = sharedFloats(batch.rows * this.#program.slots[routes]!)
    await this.#step(batch, bound, {
      ...{ opEnd: routed, states: this.#hidden, signal },
      observers: [{ run: 0, op: routed - 1, slot: routes, reduction: "copy", out: chosen }],
    })
    await this.#step(batch, original, { opEnd: routed, states: this.#original!, signal })
    // Slots stay filled from one step to the next of as many rows.
    await this.#step(batch, original, {
      ...{ opBegin: routed, opEnd: op, hidden: chosen, hiddenSlot: routes, observers, signal },
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

  /** Reduces what enters the head, once every block has advanced. source: of the final norm. */
  async observeHead(accumulator: Accumulator, signal?: AbortSignal, source = this.#source): Promise<void> {
    const last = this.#program.sections.length - 1
    const bound = await this.runner.bindSection(last, "", source)
    try {
      const op = this.#program.sections[last]!.ops.findIndex(({ kind }) => kind === "logits")
      await this.observe(bound, { op, slot: this.#program.sections[last]!.ops[op]!.in[0]!, accumulator }, signal)
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
      const out = this.#slice(batch, states)
      const copy: Observer = { run: 0, op: ops - 1, slot: 0, reduction: "copy", out }
      await this.#step(batch, bound, { states, observers: [...observersOf(watched), copy], signal })
    }
  }

  /** The same of these hidden states, and the largest magnitude in the residual stream behind the block. */
  async advanceMeasured(bound: BoundSection, signal?: AbortSignal, watched: readonly Watched[] = []): Promise<number> {
    const peaks = new Accumulator("absMax", this.#program.slots[0]!)
    try {
      const op = this.#program.sections[bound.section]!.ops.length
      await this.advance(bound, signal, [...watched, { op, slot: 0, accumulator: peaks }])
      return peaks.read(peaks.width).reduce((most, peak) => Math.max(most, peak), 0)
    } finally {
      peaks.dispose()
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
        const observers = observersOf(
          [{ op: ops, slot: 0, accumulator: error }],
          new Map([[0, reference.#slice(batch)]]),
        )
        await this.#step(batch, bound, { states: this.#hidden, observers, signal })
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
    const watched = [squares, products].map(accumulator => ({ op, slot, accumulator }))
    try {
      await this.watch(bound, watched, signal, bound)
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
        const out = states.subarray(batch.begin * width, (batch.begin + batch.rows) * width)
        const observers: Observer[] = [{ run: 0, op: op - 1, slot, reduction: "copy", out }]
        await this.#step(batch, bound, { opEnd: op, states: this.#hidden, observers, signal })
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
        await this.#step(batch, bound, {
          states: this.#hidden,
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

/** reference: what squared errors and accumulators of kind cross compare with. */
const observersOf = (watched: readonly Watched[], references?: References): Observer[] =>
  watched.map(({ op, slot, accumulator, routes, expert, inputs }) => ({
    ...{ run: 0, op: op - 1, slot, reduction: accumulator.kind, accumulator: accumulator.handle },
    ...(routes !== undefined && expert !== undefined && { routes, expert }),
    ...(inputs !== undefined && { inputs }),
    ...(references && needsReference.includes(accumulator.kind) && { reference: references.get(slot)! }),
  }))
