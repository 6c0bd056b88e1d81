// A model's weights as its checkpoint stores them: dense, or quantized in any format that lib/formats reads.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { isFloat } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import type { FormatReader } from "../formats/format.ts"
import { detectFormat } from "../formats/registry.ts"
import { type PackedWeight, prepackDense, prepackStored } from "../kernels/packed-weight.ts"
import type { WeightSource } from "../models/weights.ts"
import type { WeightSummary } from "./model.ts"

interface StoredLinear {
  weights: number
  bits: number
  quantized: boolean
  bytes: number
}

interface Shared {
  weight: Promise<PackedWeight>
  users: number
}

/** Packs what it is asked for. A module asked for twice (a tied head) is packed once and freed with its last user. */
export class CheckpointSource implements WeightSource {
  readonly #checkpoint: Checkpoint
  readonly #reader: FormatReader | null
  readonly #quantized: ReadonlySet<string>
  readonly #shared = new Map<string, Shared>()
  readonly #linears = new Map<string, StoredLinear>()

  /** ERR_UNSUPPORTED where the checkpoint is quantized in a way that no format reads. `warn` is told what is odd about it. */
  constructor(checkpoint: Checkpoint, warn: (message: string) => void) {
    this.#checkpoint = checkpoint
    const settings = checkpoint.quantizationConfig
    this.#reader = (settings && detectFormat(settings)?.reader(checkpoint, settings, warn)) ?? null
    this.#quantized = new Set(this.#reader?.modules)
  }

  async linear(module: string, n: number, k: number): Promise<PackedWeight> {
    let shared = this.#shared.get(module)
    if (!shared) {
      shared = { weight: this.#pack(module, n, k), users: 0 }
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

  async vector(tensor: string, size: number): Promise<Float32Array> {
    const { shape } = this.#checkpoint.entry(tensor)
    const values = await this.#checkpoint.floats(tensor)
    if (values.length !== size) throw wrongShape(tensor, shape, [size])
    return values
  }

  /** Of everything packed so far; `outside` names the embedding and the head, which are not among the blocks' linears. */
  summary(outside: readonly string[]): WeightSummary {
    const linears = [...this.#linears].filter(([module]) => !outside.includes(module)).map(([, stored]) => stored)
    const quantized = linears.filter(stored => stored.quantized)
    const counted = quantized.length > 0 ? quantized : linears
    const weights = counted.reduce((sum, stored) => sum + stored.weights, 0)
    const bits = counted.reduce((sum, stored) => sum + stored.bits, 0)
    let bytes = 0
    for (const stored of this.#linears.values()) bytes += stored.bytes
    const modules = [...this.#linears].filter(([, stored]) => stored.quantized).map(([module]) => module)
    return { bitsPerWeight: bits / weights, quantizedModules: modules, bytes }
  }

  async #pack(module: string, n: number, k: number): Promise<PackedWeight> {
    if (this.#reader && this.#quantized.has(module)) {
      const tensor = await this.#reader.stored(module)
      if (tensor.shape[0] !== n || tensor.shape[1] !== k) throw wrongShape(module, tensor.shape, [n, k])
      return this.#record(module, n * k, tensor.bitsPerWeight, true, await prepackStored(tensor))
    }
    const name = `${module}.weight`
    const { shape, dtype } = this.#checkpoint.entry(name)
    const tensor = this.#checkpoint.tensor(name)
    if (!isFloat(tensor.dtype))
      throw new TsqError(
        "ERR_DTYPE",
        `${this.#checkpoint.directory}: tensor ${name} is ${dtype}, expected F32, F16 or BF16`,
      )
    if (shape.length !== 2 || shape[0] !== n || shape[1] !== k) throw wrongShape(name, shape, [n, k])
    return this.#record(module, n * k, tensor.dtype === "f32" ? 32 : 16, false, await prepackDense(tensor))
  }

  #record(
    module: string,
    weights: number,
    bitsPerWeight: number,
    quantized: boolean,
    packed: PackedWeight,
  ): PackedWeight {
    this.#linears.set(module, { weights, bits: weights * bitsPerWeight, quantized, bytes: packed.bytes })
    return packed
  }
}

const wrongShape = (name: string, found: readonly number[], expected: readonly number[]): TsqError =>
  new TsqError(
    "ERR_SHAPE",
    `${name} is [${found.join(", ")}], expected [${expected.join(", ")}] from config.json; the configuration belongs to another model`,
  )
