// Weights bound to a section: native handles in the order of the section's weight slots, and who frees them.
import { TsqError } from "../core/errors.ts"
import type { PackedWeight } from "../kernels/packed-weight.ts"
import { NativeHandle, native } from "../native.ts"
import type { Section, WeightSlot } from "./program.ts"

/** Where a section's weights come from. Names are full tensor and module names of the checkpoint. */
export interface WeightSource {
  /**
   * The packed weight [n, k] of a linear. Freed through `release`, or with its own dispose() where the source has none.
   * transposed: a dense tensor of a Hugging Face checkpoint is [k, n].
   */
  linear(module: string, n: number, k: number, transposed?: boolean): Promise<PackedWeight>
  /** A norm's weight or a bias as f32. */
  vector(tensor: string, size: number): Promise<Float32Array>
  /** Called once for every linear() when the section that asked for it is disposed. */
  release?(module: string, weight: PackedWeight): void
}

type Bound = PackedWeight | NativeHandle

/** One instance of a section (a prologue, block 3, an epilogue) with its weights. */
export class BoundSection {
  /** Index of the section in the program. */
  readonly section: number
  readonly prefix: string
  readonly #template: Section
  readonly #bound: readonly Bound[]
  readonly #free: (() => void)[]
  /** A program has one length beyond which its constants change. */
  #long: BoundSection | null = null
  #disposed = false

  private constructor(
    section: number,
    prefix: string,
    template: Section,
    bound: readonly Bound[],
    free: (() => void)[],
  ) {
    this.section = section
    this.prefix = prefix
    this.#template = template
    this.#bound = bound
    this.#free = free
  }

  /** tokens: how many a sequence will have altogether, where constants depend on it. */
  static async bind(
    section: number,
    prefix: string,
    template: Section,
    source: WeightSource,
    tokens = 0,
  ): Promise<BoundSection> {
    const bound: Bound[] = []
    const free: (() => void)[] = []
    try {
      for (const slot of template.weights) {
        if (slot.kind === "linear") {
          const module = `${prefix}${slot.module}`
          const weight = await source.linear(module, slot.n, slot.k, slot.transposed)
          free.push(() => (source.release ? source.release(module, weight) : weight.dispose()))
          checkShape(module, weight, slot.n, slot.k)
          bound.push(weight)
        } else {
          const values =
            slot.kind === "constant"
              ? constantOf(slot, tokens)
              : await source.vector(`${prefix}${slot.tensor}`, slot.size)
          const vector = new NativeHandle(
            native.vector(values),
            slot.kind === "vector" ? `${prefix}${slot.tensor}` : "a constant",
          )
          free.push(() => vector.dispose())
          bound.push(vector)
        }
      }
    } catch (error) {
      for (const release of free) release()
      throw error
    }
    return new BoundSection(section, prefix, template, bound, free)
  }

  get disposed(): boolean {
    return this.#disposed
  }

  /** Handles by weight slot. ERR_OPTION once this section or one of its weights was disposed. */
  get weights(): number[] {
    if (this.#disposed)
      throw new TsqError(
        "ERR_OPTION",
        `the weights of ${this.prefix || "this section"} were disposed and cannot run any more`,
      )
    return this.#bound.map(weight => (weight instanceof NativeHandle ? weight.value : weight.handle))
  }

  /** Weights that linear operations read, by full module name. */
  get linears(): Map<string, PackedWeight> {
    const found = new Map<string, PackedWeight>()
    for (const op of this.#template.ops) {
      if (op.kind !== "linear") continue
      const index = op.weights[0]!
      const slot = this.#template.weights[index]
      if (slot?.kind === "linear") found.set(`${this.prefix}${slot.module}`, this.#bound[index] as PackedWeight)
    }
    return found
  }

  /** A copy that runs `packed` in place of a linear (name relative to the prefix). It borrows all weights: this section and
   * `packed` must outlive it. */
  set(module: string, packed: PackedWeight): BoundSection {
    const index = this.#template.weights.findIndex(slot => slot.kind === "linear" && slot.module === module)
    const slot = this.#template.weights[index]
    if (slot?.kind !== "linear") throw this.#unknown("linear", module)
    checkShape(`${this.prefix}${module}`, packed, slot.n, slot.k)
    return this.#replaced(index, packed, [])
  }

  /** A copy with another norm weight or bias; it owns that vector and borrows the rest. */
  setVector(tensor: string, values: Float32Array): BoundSection {
    const index = this.#template.weights.findIndex(slot => slot.kind === "vector" && slot.tensor === tensor)
    const slot = this.#template.weights[index]
    if (slot?.kind !== "vector") throw this.#unknown("vector", tensor)
    if (values.length !== slot.size)
      throw new TsqError("ERR_SHAPE", `${this.prefix}${tensor}: ${values.length} values, expected ${slot.size}`)
    const vector = new NativeHandle(native.vector(values), `${this.prefix}${tensor}`)
    return this.#replaced(index, vector, [() => vector.dispose()])
  }

  /** This section, or a copy that it owns and lends its weights to, for sequences of `tokens` altogether. */
  forLength(tokens: number): BoundSection {
    const changed = this.#template.weights.flatMap((slot, index) =>
      slot.kind === "constant" && constantOf(slot, tokens) !== slot.values ? [{ slot, index }] : [],
    )
    if (changed.length === 0 || this.#disposed) return this
    if (this.#long) return this.#long
    const bound = [...this.#bound]
    const free: (() => void)[] = []
    for (const { slot, index } of changed) {
      const vector = new NativeHandle(native.vector(constantOf(slot, tokens)), "a constant")
      free.push(() => vector.dispose())
      bound[index] = vector
    }
    this.#long = new BoundSection(this.section, this.prefix, this.#template, bound, free)
    return this.#long
  }

  #replaced(index: number, weight: Bound, free: (() => void)[]): BoundSection {
    return new BoundSection(this.section, this.prefix, this.#template, this.#bound.with(index, weight), free)
  }

  #unknown(kind: string, name: string): TsqError {
    return new TsqError("ERR_OPTION", `${this.prefix}${name} is not a ${kind} of this section`)
  }

  /** Frees what this section owns. A step that is running keeps its weights until it ends. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    this.#long?.dispose()
    for (const release of this.#free) release()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

const constantOf = ({ values, beyond }: Extract<WeightSlot, { kind: "constant" }>, tokens: number): Float32Array =>
  beyond && tokens > beyond.length ? beyond.values : values

function checkShape(module: string, weight: PackedWeight, n: number, k: number): void {
  const [rows, columns] = weight.shape
  if (rows !== n || columns !== k)
    throw new TsqError(
      "ERR_SHAPE",
      `${module}.weight is [${rows}, ${columns}], expected [${n}, ${k}] from config.json; the configuration belongs to another model`,
    )
}
