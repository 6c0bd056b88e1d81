// f32 working copies of one block's weights, for transforms and rounding.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import { sharedFloats } from "../core/shared-array.ts"
import { roundInPlace } from "../core/tensor.ts"
import { native } from "../native.ts"
import type { Section } from "./program.ts"

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
    for (const slot of this.#section.weights)
      if (slot.kind === "linear" && slot.module === module) return [slot.n, slot.k]
    throw new TsqError("ERR_FORMAT", `${this.#prefix}${module} is not a linear of this block`)
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
    this.#changedLinears.add(module)
  }

  /** Rounds a changed linear to the type that the checkpoint stores it in: what runs is then what will be written. */
  async roundToStored(module: string): Promise<void> {
    await this.#round(`${module}.weight`, await this.linear(module))
  }

  /**
   * Divides a norm's weight or a bias by `scale`, in the type that the checkpoint stores it in. Returns the scale that the rounded
   * division amounts to, so that multiplying by it elsewhere leaves the function unchanged; null where the checkpoint has no such tensor.
   */
  async divideVector(tensor: string, scale: Float32Array): Promise<Float32Array | null> {
    const values = await this.vector(tensor)
    if (!values) return null
    const divided = sharedFloats(values.length)
    for (let i = 0; i < values.length; i++) divided[i] = values[i]! / scale[i]!
    await this.#round(tensor, divided)
    const effective = sharedFloats(values.length)
    for (let i = 0; i < values.length; i++) effective[i] = divided[i] === 0 ? scale[i]! : values[i]! / divided[i]!
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
