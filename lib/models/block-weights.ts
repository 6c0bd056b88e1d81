// f32 working copies of one block's weights, for transforms and rounding.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import { sharedFloats } from "../core/shared-array.ts"
import { roundInPlace } from "../core/tensor.ts"
import { native } from "../native.ts"
import type { Section, WeightSlot } from "./program.ts"
import { dividedVector, rowDivisors, type ScaleSource } from "./scale-source.ts"
import { transposedFloats } from "./transposed.ts"

/** Weights of a block by their names relative to the block's prefix. Linears load when first asked for. */
export class BlockWeights {
  readonly #checkpoint: Checkpoint
  readonly #prefix: string
  readonly #section: Section
  readonly #linears = new Map<string, Float32Array>()
  readonly #vectors = new Map<string, Float32Array>()
  readonly #changedLinears = new Set<string>()
  readonly #changedVectors = new Set<string>()

  constructor(checkpoint: Checkpoint, prefix: string, section: Section) {
    this.#checkpoint = checkpoint
    this.#prefix = prefix
    this.#section = section
  }

  /** Shape [n, k] of a linear. */
  shape(module: string): readonly [number, number] {
    const { n, k } = this.#slot(module)
    return [n, k]
  }

  #slot(module: string): Extract<WeightSlot, { kind: "linear" }> {
    for (const slot of this.#section.weights) if (slot.kind === "linear" && slot.module === module) return slot
    throw new TsqError("ERR_FORMAT", `${this.#prefix}${module} is not a linear of this block`)
  }

  /** f32 [n, k], on shared memory, however the checkpoint stores it. */
  async linear(module: string): Promise<Float32Array> {
    const known = this.#linears.get(module)
    if (known) return known
    const stored = await this.#checkpoint.floats(`${this.#prefix}${module}.weight`)
    const { n, k, transposed } = this.#slot(module)
    const values = transposed ? await transposedFloats(stored, k, n) : stored
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
    this.#changedLinears.add(module)
  }

  /** Rounds a changed linear to the type that the checkpoint stores it in: what runs is then what will be written. */
  async roundToStored(module: string): Promise<void> {
    await this.#round(`${module}.weight`, await this.linear(module))
  }

  /**
   * Divides what produces a scale group's input by `scale` (dividedVector, rowDivisors). Returns the scale that the group's targets are
   * to be multiplied by: a norm's weight is rounded to its stored type.
   */
  async divideSource(source: ScaleSource, scale: Float32Array): Promise<Float32Array> {
    if (source.kind === "vector") {
      const effective = (await this.divideVector(source.tensor, scale, source.offset)) ?? scale
      if (source.bias) await this.divideVector(source.bias, effective)
      return effective
    }
    const [n] = this.shape(source.module)
    const divisors = rowDivisors(n, scale, source.rows)
    const inverse = sharedFloats(n)
    for (let i = 0; i < n; i++) inverse[i] = 1 / divisors[i]!
    await this.scaleLinear(source.module, inverse, null)
    await this.divideVector(`${source.module}.bias`, divisors)
    return scale
  }

  /**
   * Divides a norm's weight or a bias by `scale`, in the type that the checkpoint stores it in. Returns the scale that the rounded
   * division amounts to, so that multiplying by it elsewhere leaves the function unchanged; null where the checkpoint has no such tensor.
   */
  async divideVector(tensor: string, scale: Float32Array, offset = 0): Promise<Float32Array | null> {
    const values = await this.vector(tensor)
    if (!values) return null
    const divided = dividedVector(values, scale, offset)
    await this.#round(tensor, divided)
    const effective = sharedFloats(values.length)
    for (let i = 0; i < values.length; i++) {
      const gain = offset + divided[i]!
      effective[i] = gain === 0 ? scale[i]! : (offset + values[i]!) / gain
    }
    this.#vectors.set(tensor, divided)
    this.#changedVectors.add(tensor)
    return effective
  }

  async #round(tensor: string, values: Float32Array): Promise<void> {
    await roundInPlace(values, this.#checkpoint.floatType(`${this.#prefix}${tensor}`))
  }

  /** Modules whose weight differs from the checkpoint's. */
  get changedLinears(): readonly string[] {
    return [...this.#changedLinears]
  }

  /** Norm weights and biases that differ from the checkpoint's. */
  get changedVectors(): readonly (readonly [string, Float32Array])[] {
    return [...this.#changedVectors].map(tensor => [tensor, this.#vectors.get(tensor)!] as const)
  }

  /** Drops a linear's working copy once it has been rounded. */
  forget(module: string): void {
    this.#linears.delete(module)
  }
}
