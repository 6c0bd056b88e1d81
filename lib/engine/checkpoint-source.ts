// A model's weights as its checkpoint stores them: dense, or quantized in any format that lib/formats reads.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { isFloat } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import type { StoredTensor } from "../core/stored-tensor.ts"
import type { FormatReader } from "../formats/format.ts"
import { detectFormat } from "../formats/registry.ts"
import { type PackedWeight, prepackDense, prepackStored } from "../kernels/packed-weight.ts"
import { transposedTensor } from "../models/transposed.ts"
import type { WeightSource } from "../models/weights.ts"
import type { WeightSummary } from "./model.ts"
import { type PackedLinear, SharedWeights } from "./shared-weights.ts"

export class CheckpointSource implements WeightSource {
  readonly #checkpoint: Checkpoint
  readonly #reader: FormatReader | null
  readonly #quantized: ReadonlySet<string>
  readonly #warn: (message: string) => void
  #warnedActivations = false
  readonly #weights = new SharedWeights((module, n, k, transposed) => this.#pack(module, n, k, transposed))

  /** ERR_UNSUPPORTED where the checkpoint is quantized in a way that no format reads. `warn` is told what is odd about it. */
  constructor(checkpoint: Checkpoint, warn: (message: string) => void) {
    this.#checkpoint = checkpoint
    const settings = checkpoint.quantizationConfig
    this.#reader = (settings && detectFormat(settings)?.reader(checkpoint, settings, warn)) ?? null
    this.#quantized = new Set(this.#reader?.modules)
    this.#warn = warn
    const [scale] = this.#reader?.kvScales ?? []
    if (scale)
      warn(
        `${checkpoint.directory}: ${scale} and others are scales of a quantized KV cache, used where kvCache is "checkpoint"`,
      )
  }

  linear(module: string, n: number, k: number, transposed = false): Promise<PackedWeight> {
    return this.#weights.take(module, n, k, transposed)
  }

  has(tensor: string): boolean {
    return this.#checkpoint.has(tensor)
  }

  release(module: string, weight: PackedWeight): void {
    this.#weights.release(module, weight)
  }

  async vector(tensor: string, size: number): Promise<Float32Array> {
    const { shape } = this.#checkpoint.entry(tensor)
    const values = await this.#checkpoint.floats(tensor)
    if (values.length !== size) throw wrongShape(tensor, shape, [size])
    return values
  }

  summary(outside: readonly string[]): WeightSummary {
    return this.#weights.summary(outside)
  }

  /** Weights are multiplied with activations as they are, or as the caller asks for. */
  #warnOfActivations(module: string, { scheme: { activations } }: StoredTensor): void {
    if (!activations || this.#warnedActivations) return
    this.#warnedActivations = true
    this.#warn(
      `${module}: the checkpoint is made for activations of ${activations.type}, which are not quantized as it says here`,
    )
  }

  async #pack(module: string, n: number, k: number, transposed: boolean): Promise<PackedLinear> {
    if (this.#reader && this.#quantized.has(module)) {
      const tensor = await this.#reader.stored(module)
      this.#warnOfActivations(module, tensor)
      if (tensor.shape[0] !== n || tensor.shape[1] !== k) throw wrongShape(module, tensor.shape, [n, k])
      return { weight: await prepackStored(tensor), bitsPerWeight: tensor.bitsPerWeight, quantized: true }
    }
    const name = `${module}.weight`
    const { shape, dtype } = this.#checkpoint.entry(name)
    const tensor = await this.#checkpoint.load(name)
    if (!isFloat(tensor.dtype))
      throw new TsqError(
        "ERR_DTYPE",
        `${this.#checkpoint.directory}: tensor ${name} is ${dtype}, expected F32, F16 or BF16`,
      )
    const [rows, columns] = transposed ? [k, n] : [n, k]
    if (shape.length !== 2 || shape[0] !== rows || shape[1] !== columns) throw wrongShape(name, shape, [rows, columns])
    const matrix = transposed ? await transposedTensor(tensor) : tensor
    return { weight: await prepackDense(matrix), bitsPerWeight: tensor.dtype === "f32" ? 32 : 16, quantized: false }
  }
}

const wrongShape = (name: string, found: readonly number[], expected: readonly number[]): TsqError =>
  new TsqError(
    "ERR_SHAPE",
    `${name} is [${found.join(", ")}], expected [${expected.join(", ")}] from config.json; the configuration belongs to another model`,
  )
