// A quantized tensor whose codes are still where a checkpoint keeps them.
import { type CodeLayout, native, type Source } from "../native.ts"
import { bitsPerWeight, checkScheme, type IntegerScheme, QuantizedTensor } from "./quantized-tensor.ts"
import { sharedBytes } from "./tensor.ts"

/** Layouts of codes; see CodeLayout. "rows" is compressed-tensors', "columns" GPTQ's. */
export const codeLayouts = { bytes: 0, rows: 1, columns: 2, awq: 3 } as const satisfies Record<string, CodeLayout>

export interface StoredTensorInit {
  scheme: IntegerScheme
  shape: readonly [number, number]
  /** A slice of a mapped file, which must stay open, or bytes on shared memory. */
  codes: Source
  layout: keyof typeof codeLayouts
  /** These as in QuantizedTensor, on shared memory. */
  scales: Float32Array
  zeros: Uint8Array | null
  groupIndex: Int32Array | null
}

export class StoredTensor {
  readonly scheme: IntegerScheme
  readonly shape: readonly [number, number]
  readonly codes: Source
  readonly layout: CodeLayout
  readonly scales: Float32Array
  readonly zeros: Uint8Array | null
  readonly groupIndex: Int32Array | null

  constructor({ scheme, shape, codes, layout, scales, zeros, groupIndex }: StoredTensorInit) {
    checkScheme(scheme, shape)
    this.scheme = scheme
    this.shape = shape
    this.codes = codes
    this.layout = codeLayouts[layout]
    this.scales = scales
    this.zeros = zeros
    this.groupIndex = groupIndex
  }

  /** Bits per weight with scales and zero points, as they are stored. */
  get bitsPerWeight(): number {
    return bitsPerWeight(this.scheme, this.shape, this.zeros !== null)
  }

  /** The tensor with one byte a code. */
  async unpacked(): Promise<QuantizedTensor> {
    const { scheme, shape, scales, zeros, groupIndex } = this
    const [n, k] = shape
    const codes = sharedBytes(n * k)
    await native.unpackCodes(this.codes, this.layout, n, k, scheme.bits, codes)
    return new QuantizedTensor({ scheme, shape, codes, scales, zeros, groupIndex })
  }
}
