// Packed weights that several sections of a model may share, and what is told of them.
import type { PackedWeight } from "../kernels/packed-weight.ts"
import type { WeightSummary } from "./model.ts"

export interface PackedLinear {
  weight: PackedWeight
  /** As stored, with scales and zero points. */
  bitsPerWeight: number
  quantized: boolean
}

interface Linear {
  weights: number
  bits: number
  quantized: boolean
  bytes: number
  fused: boolean
}

interface Shared {
  weight: Promise<PackedWeight>
  users: number
}

/** A module asked for twice (a tied head) is packed once and freed with its last user. */
export class SharedWeights {
  readonly #pack: (module: string, n: number, k: number, transposed: boolean) => Promise<PackedLinear>
  readonly #shared = new Map<string, Shared>()
  readonly #linears = new Map<string, Linear>()

  constructor(pack: (module: string, n: number, k: number, transposed: boolean) => Promise<PackedLinear>) {
    this.#pack = pack
  }

  async take(module: string, n: number, k: number, transposed = false): Promise<PackedWeight> {
    let shared = this.#shared.get(module)
    if (!shared) {
      shared = { weight: this.#packed(module, n, k, transposed), users: 0 }
      this.#shared.set(module, shared)
    }
    shared.users++
    try {
      return await shared.weight
    } catch (error) {
      this.#shared.delete(module)
      throw error
    }
  }

  release(module: string, weight: PackedWeight): void {
    const shared = this.#shared.get(module)
    if (!shared || --shared.users > 0) return
    this.#shared.delete(module)
    weight.dispose()
  }

  /** Of everything packed so far; `outside` names the embedding and the head, which are not among the blocks' linears. */
  summary(outside: readonly string[]): WeightSummary {
    const linears = [...this.#linears].filter(([module]) => !outside.includes(module)).map(([, linear]) => linear)
    const quantized = linears.filter(linear => linear.quantized)
    const counted = quantized.length > 0 ? quantized : linears
    const weights = counted.reduce((sum, linear) => sum + linear.weights, 0)
    const bits = counted.reduce((sum, linear) => sum + linear.bits, 0)
    let bytes = 0
    for (const linear of this.#linears.values()) bytes += linear.bytes
    const those = (has: (linear: Linear) => boolean) =>
      [...this.#linears].filter(([, linear]) => has(linear)).map(([module]) => module)
    return {
      bitsPerWeight: bits / weights,
      quantizedModules: those(linear => linear.quantized),
      referenceModules: those(linear => !linear.fused),
      bytes,
    }
  }

  async #packed(module: string, n: number, k: number, transposed: boolean): Promise<PackedWeight> {
    const { weight, bitsPerWeight, quantized } = await this.#pack(module, n, k, transposed)
    const { bytes, kernel } = weight
    this.#linears.set(module, {
      weights: n * k,
      bits: n * k * bitsPerWeight,
      quantized,
      bytes,
      fused: kernel === "fused",
    })
    return weight
  }
}
