// f32 working copies of one block's weights, for transforms and rounding.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import { native } from "../native.ts"
import type { Section } from "./program.ts"

/** Weights of a block by their names relative to the block's prefix. Linears load when first asked for. */
export class BlockWeights {
  readonly #checkpoint: Checkpoint
  readonly #prefix: string
  readonly #section: Section
  readonly #linears = new Map<string, Float32Array>()
  readonly #vectors = new Map<string, Float32Array>()
  readonly #changed = new Set<string>()

  constructor(checkpoint: Checkpoint, prefix: string, section: Section) {
    this.#checkpoint = checkpoint
    this.#prefix = prefix
    this.#section = section
  }

  /** Shape [n, k] of a linear. */
  shape(module: string): readonly [number, number] {
    for (const slot of this.#section.weights)
      if (slot.kind === "linear" && slot.module === module) return [slot.n, slot.k]
    throw new TsqError("ERR_FORMAT", `${this.#prefix}${module} is not a linear of this block`)
  }

  isLinear(module: string | null): boolean {
    return this.#section.weights.some(slot => slot.kind === "linear" && slot.module === module)
  }

  /** f32 [n, k], on shared memory. */
  async linear(module: string): Promise<Float32Array> {
    const known = this.#linears.get(module)
    if (known) return known
    const values = await this.#checkpoint.floats(`${this.#prefix}${module}.weight`)
    this.#linears.set(module, values)
    return values
  }

  /** A norm's weight or a bias; null where the checkpoint has none. */
  async vector(tensor: string): Promise<Float32Array | null> {
    const known = this.#vectors.get(tensor)
    if (known) return known
    const name = `${this.#prefix}${tensor}`
    if (!this.#checkpoint.has(name)) return null
    const values = await this.#checkpoint.floats(name)
    this.#vectors.set(tensor, values)
    return values
  }

  /** Multiplies row i by rowScale[i] and column j by columnScale[j]; either may be null. */
  async scaleLinear(module: string, rowScale: Float32Array | null, columnScale: Float32Array | null): Promise<void> {
    const [n, k] = this.shape(module)
    const values = await this.linear(module)
    await native.scaleMatrix(values, n, k, rowScale, columnScale, values)
    this.#changed.add(`${module}.weight`)
  }

  async scaleVector(tensor: string, scale: Float32Array): Promise<void> {
    const values = await this.vector(tensor)
    if (!values) return
    for (let i = 0; i < values.length; i++) values[i] = values[i]! * scale[i]!
    this.#changed.add(tensor)
  }

  /** Tensor names (relative) that differ from the checkpoint's. */
  get changed(): ReadonlySet<string> {
    return this.#changed
  }

  /** Drops a linear's working copy once it has been rounded. */
  forget(module: string): void {
    this.#linears.delete(module)
  }
}
