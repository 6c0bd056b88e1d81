// This library's own products: fused with packed codes, with dense weights, and unfused.
import { dtypeInfo } from "../core/dtype.ts"
import { Tensor } from "../core/tensor.ts"
import { dequantizeAsync } from "../kernels/dequantize.ts"
import { type MatmulOptions, matmul } from "../kernels/matmul.ts"
import { type Activations, type PackedWeight, prepack, prepackDense } from "../kernels/packed-weight.ts"
import { native } from "../native.ts"
import { type BenchMatrix, type Bound, copiesOf, type Prepared, type PrepareOptions } from "./backend.ts"
import { unitsOf } from "./roofs.ts"
import { type FloatDtype, quantizedRow, toFloats, type WeightRow } from "./samples.ts"

/** Copies of a packed weight, used in turn by every backend that shares them, so that none finds its next one in the cache. */
export class PackedCopies {
  readonly weights: readonly PackedWeight[]
  #next = 0

  private constructor(weights: readonly PackedWeight[]) {
    this.weights = weights
  }

  static async make(pack: () => Promise<PackedWeight>, options: PrepareOptions): Promise<PackedCopies> {
    const weights = [await pack()]
    const copies = copiesOf(weights[0]!.bytes, options)
    while (weights.length < copies) weights.push(await pack())
    return new PackedCopies(weights)
  }

  get bytes(): number {
    return this.weights[0]!.bytes
  }

  next(): PackedWeight {
    const weight = this.weights[this.#next]!
    this.#next = (this.#next + 1) % this.weights.length
    return weight
  }

  dispose(): void {
    for (const weight of this.weights) weight.dispose()
  }
}

export interface TsqVariant {
  backend: string
  kernel: string
  isa: string
  activations: "exact" | "int8"
  dtype: FloatDtype
  bits: number
  groupSize: number
}

/** Products with packed weights, whatever they hold. The copies belong to the caller. */
export function prepareFused(
  copies: PackedCopies,
  n: number,
  row: WeightRow,
  variant: TsqVariant,
  activations: Activations = variant.activations,
): Prepared {
  return {
    label: { ...variant },
    weightBytes: copies.bytes,
    copies: copies.weights.length,
    units: unitsOf(variant.isa, variant.activations, variant.dtype),
    row,
    bind(x) {
      const out = Tensor.empty([x.m, n], x.dtype)
      const options: MatmulOptions = { out, activations }
      return new TsqBound(variant.isa, out, () => matmul(x.tensor, copies.next(), options))
    },
    dispose() {},
  }
}

class TsqBound implements Bound {
  readonly units = 1
  readonly #isa: string
  readonly #out: Tensor
  readonly #product: () => void

  constructor(isa: string, out: Tensor, product: () => void) {
    this.#isa = isa
    this.#out = out
    this.#product = product
  }

  run(count: number): void {
    native.selectKernels(this.#isa)
    for (let i = 0; i < count; i++) this.#product()
  }

  result(): Float32Array {
    return toFloats(this.#out.data, this.#out.dtype)
  }
}

/** Codes decoded to f32 in memory, then multiplied: what a program without fused kernels does, decoding inside the timing. */
export async function prepareUnfused(
  copies: PackedCopies,
  { n, k, quantized }: BenchMatrix,
  variant: TsqVariant,
): Promise<Prepared> {
  const dense = await prepackDense(Tensor.empty([n, k]))
  try {
    // Refuses here, before anything is timed, what it cannot decode.
    native.decodePacked(copies.weights[0]!.handle, dense.handle)
  } catch (error) {
    dense.dispose()
    throw error
  }
  return {
    label: { ...variant },
    weightBytes: copies.bytes,
    copies: copies.weights.length,
    units: unitsOf(variant.isa, "exact", "f32"),
    row: quantizedRow(quantized),
    bind(x) {
      const out = Tensor.empty([x.m, n], x.dtype)
      const options = { out }
      return new TsqBound(variant.isa, out, () => {
        native.decodePacked(copies.next().handle, dense.handle)
        matmul(x.tensor, dense, options)
      })
    },
    dispose: () => dense.dispose(),
  }
}

/** Float weights of the same values, rounded to `kind`. */
export async function denseCopies(
  { n, k, quantized }: BenchMatrix,
  kind: FloatDtype,
  options: PrepareOptions,
): Promise<{ copies: PackedCopies; row: WeightRow }> {
  const values = await dequantizeAsync(quantized)
  const tensor = Tensor.from(values, [n, k])
  const copies = await PackedCopies.make(() => prepackDense(tensor, kind), options)
  const exact = quantizedRow(quantized)
  if (kind === "f32") return { copies, row: exact }
  const { code } = dtypeInfo(kind)
  return {
    copies,
    row(i, out) {
      exact(i, out)
      const stored = new Uint16Array(k)
      const floats = Float32Array.from(out)
      native.convert(floats, 0, stored, code, k)
      native.convert(stored, code, floats, 0, k)
      out.set(floats)
    },
  }
}

export const quantizedCopies = (matrix: BenchMatrix, options: PrepareOptions): Promise<PackedCopies> =>
  PackedCopies.make(() => prepack(matrix.quantized), options)
