// A model's weights as a GGUF file stores them, under the names and in the order of a Hugging Face checkpoint.
import type { Gguf, GgufEntry } from "../containers/gguf.ts"
import { TsqError } from "../core/errors.ts"
import { sharedFloats } from "../core/tensor.ts"
import { decodeBlocks, matrixOfStack, packBlocks } from "../formats/gguf-blocks.ts"
import type { PackedWeight } from "../kernels/packed-weight.ts"
import { checkpointOrder, type GgufLayout, shifted } from "../models/gguf-layout.ts"
import type { WeightSource } from "../models/weights.ts"
import type { WeightSummary } from "./model.ts"
import { type PackedLinear, SharedWeights } from "./shared-weights.ts"

export class GgufSource implements WeightSource {
  readonly #gguf: Gguf
  readonly #layout: GgufLayout
  readonly #weights = new SharedWeights((module, n, k) => this.#pack(module, n, k))

  /** The file must stay open until everything was asked for. */
  constructor(gguf: Gguf, layout: GgufLayout) {
    this.#gguf = gguf
    this.#layout = layout
  }

  linear(module: string, n: number, k: number): Promise<PackedWeight> {
    return this.#weights.take(module, n, k)
  }

  /** Names are the usual ones. */
  has(tensor: string): boolean {
    const name = this.#layout.names.gguf(tensor)
    return name !== null && this.#gguf.entries.has(name)
  }

  release(module: string, weight: PackedWeight): void {
    this.#weights.release(module, weight)
  }

  async vector(tensor: string, size: number): Promise<Float32Array> {
    const entry = this.#entry(tensor, [size])
    const stored = await decodeBlocks(entry, this.#gguf.mapped(entry.name))
    const values = shifted(stored, -this.#layout.offset(entry.name))
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
    const stacked = this.#layout.names.expert(`${module}.weight`)
    if (stacked) return this.#packExpert(stacked, n, k)
    const entry = this.#entry(`${module}.weight`, [n, k])
    const weight = await packBlocks(entry, this.#gguf.mapped(entry.name), this.#rows(entry))
    return { weight, bitsPerWeight: (8 * entry.bytes) / (n * k), quantized: entry.type.blockSize > 1 }
  }

  /** One matrix of those that follow each other in a tensor. */
  async #packExpert({ name, expert }: { name: string; expert: number }, n: number, k: number): Promise<PackedLinear> {
    const entry = this.#gguf.entry(name)
    const [count = 0, rows, columns] = entry.shape
    if (entry.shape.length !== 3 || expert >= count || rows !== n || columns !== k)
      throw new TsqError(
        "ERR_SHAPE",
        `${this.#gguf.path}: tensor ${name} is [${entry.shape.join(", ")}], expected [experts, ${n}, ${k}] with more than ${expert} experts from its metadata`,
      )
    const { tensor, source } = matrixOfStack(entry, this.#gguf.mapped(name), expert)
    const weight = await packBlocks(tensor, source)
    return { weight, bitsPerWeight: (8 * source.bytes) / (n * k), quantized: entry.type.blockSize > 1 }
  }

  /** The tensor's row of each row of the checkpoint; null where they are the same. */
  #rows({ name, shape }: GgufEntry): Int32Array | null {
    return checkpointOrder(this.#layout.rows(name), shape[0] as number)
  }

  #entry(tensor: string, shape: readonly number[]): GgufEntry {
    const name = this.#layout.names.gguf(tensor)
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
