// A model's weights as a GGUF file stores them, under the names and in the order of a Hugging Face checkpoint.
import type { Gguf, GgufEntry } from "../containers/gguf.ts"
import { TsqError } from "../core/errors.ts"
import { sharedFloats } from "../core/tensor.ts"
import { decodeBlocks, packBlocks } from "../formats/gguf-blocks.ts"
import type { PackedWeight } from "../kernels/packed-weight.ts"
import { ggufName, ggufRow, hasPermutedRows } from "../models/gguf-names.ts"
import type { WeightSource } from "../models/weights.ts"
import type { WeightSummary } from "./model.ts"
import { type PackedLinear, SharedWeights } from "./shared-weights.ts"

/** What the order of rows depends on. */
export interface RowOrder {
  /** As general.architecture has it. */
  architecture: string
  headDim: number
}

export class GgufSource implements WeightSource {
  readonly #gguf: Gguf
  readonly #order: RowOrder
  readonly #weights = new SharedWeights((module, n, k) => this.#pack(module, n, k))

  /** The file must stay open until everything was asked for. */
  constructor(gguf: Gguf, order: RowOrder) {
    this.#gguf = gguf
    this.#order = order
  }

  linear(module: string, n: number, k: number): Promise<PackedWeight> {
    return this.#weights.take(module, n, k)
  }

  /** Names are the usual ones. */
  has(tensor: string): boolean {
    const name = ggufName(tensor)
    return name !== null && this.#gguf.entries.has(name)
  }

  release(module: string, weight: PackedWeight): void {
    this.#weights.release(module, weight)
  }

  async vector(tensor: string, size: number): Promise<Float32Array> {
    const entry = this.#entry(tensor, [size])
    const values = await decodeBlocks(entry, this.#gguf.mapped(entry.name))
    const rows = this.#rows(entry)
    if (rows === null) return values
    const ordered = sharedFloats(size)
    for (const [i, row] of rows.entries()) ordered[i] = values[row] as number
    return ordered
  }

  summary(outside: readonly string[]): WeightSummary {
    return this.#weights.summary(outside)
  }

  async #pack(module: string, n: number, k: number): Promise<PackedLinear> {
    const entry = this.#entry(`${module}.weight`, [n, k])
    const weight = await packBlocks(entry, this.#gguf.mapped(entry.name), this.#rows(entry))
    return { weight, bitsPerWeight: (8 * entry.bytes) / (n * k), quantized: entry.type.blockSize > 1 }
  }

  /** The tensor's row of each row of the checkpoint; null where they are the same. */
  #rows({ name, shape }: GgufEntry): Int32Array | null {
    const { architecture, headDim } = this.#order
    if (!hasPermutedRows(architecture, name)) return null
    return Int32Array.from({ length: shape[0] as number }, (_, row) => ggufRow(row, headDim))
  }

  #entry(tensor: string, shape: readonly number[]): GgufEntry {
    const name = ggufName(tensor)
    if (name === null)
      throw new TsqError("ERR_FORMAT", `${this.#gguf.path}: GGUF files have no tensor that stands for ${tensor}`)
    const entry = this.#gguf.entry(name)
    if (entry.shape.length !== shape.length || entry.shape.some((size, i) => size !== shape[i]))
      throw new TsqError(
        "ERR_SHAPE",
        `${this.#gguf.path}: tensor ${name} is [${entry.shape.join(", ")}], expected [${shape.join(", ")}] from its metadata`,
      )
    return entry
  }
}
