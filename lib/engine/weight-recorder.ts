// Passes on the weights of a checkpoint and remembers them, so that they can be written to a cache file.
import { sharedFloats } from "../core/tensor.ts"
import type { PackedWeight } from "../kernels/packed-weight.ts"
import type { WeightSource } from "../models/weights.ts"
import type { CheckpointSource } from "./checkpoint-source.ts"
import type { WeightSummary } from "./model.ts"

export class WeightRecorder implements WeightSource {
  readonly #source: CheckpointSource
  readonly #linears = new Map<string, PackedWeight>()
  readonly #vectors = new Map<string, Float32Array>()

  constructor(source: CheckpointSource) {
    this.#source = source
  }

  async linear(module: string, n: number, k: number, transposed?: boolean): Promise<PackedWeight> {
    const weight = await this.#source.linear(module, n, k, transposed)
    this.#linears.set(module, weight)
    return weight
  }

  async vector(tensor: string, size: number): Promise<Float32Array> {
    const values = await this.#source.vector(tensor, size)
    this.#vectors.set(tensor, values)
    return values
  }

  has(tensor: string): boolean {
    return this.#source.has(tensor)
  }

  release(module: string, weight: PackedWeight): void {
    this.#source.release(module, weight)
  }

  summary(outside: readonly string[]): WeightSummary {
    return this.#source.summary(outside)
  }

  get linears(): ReadonlyMap<string, PackedWeight> {
    return this.#linears
  }

  get vectors(): readonly (readonly [name: string, size: number])[] {
    return [...this.#vectors].map(([name, values]) => [name, values.length] as const)
  }

  /** All vectors, one after the other. */
  floats(): Float32Array {
    const floats = sharedFloats(this.vectors.reduce((sum, [, size]) => sum + size, 0))
    let begin = 0
    for (const values of this.#vectors.values()) {
      floats.set(values, begin)
      begin += values.length
    }
    return floats
  }

  /** Lets go of everything; weights that are still in use are their users'. */
  forget(): void {
    this.#linears.clear()
    this.#vectors.clear()
  }
}
