// A quantized tensor whose codes are still where a checkpoint keeps them.
import { type CodeLayout, native, type Source } from "../native.ts"
import { partsOf, QuantizedTensor, type QuantizedTensorInit, type ScaleParts, scaleParts } from "./quantized-tensor.ts"
import { bitsPerWeight, checkScheme, type Scheme } from "./scheme.ts"
import { sharedBytes } from "./tensor.ts"

/**
 * Layouts of codes; see CodeLayout. "rows" is compressed-tensors', "columns" GPTQ's. "signed": bytes in two's complement, of the code
 * less 2^(bits-1). "nibbles": two codes a byte along the flattened matrix, the even element in the lower half; "nibblesHigh"
 * (bitsandbytes): in the upper half.
 */
export const codeLayouts = {
  bytes: 0,
  rows: 1,
  columns: 2,
  awq: 3,
  signed: 4,
  nibbles: 5,
  nibblesHigh: 6,
} as const satisfies Record<string, CodeLayout>

/** As for QuantizedTensor, on shared memory. */
export interface StoredTensorInit extends Omit<QuantizedTensorInit, "codes" | "inputScale"> {
  /** A slice of a mapped file, which must stay open, or bytes on shared memory. */
  codes: Source
  layout: keyof typeof codeLayouts
}

export class StoredTensor implements ScaleParts {
  readonly scheme: Scheme
  readonly shape: readonly [number, number]
  readonly codes: Source
  readonly layout: CodeLayout
  readonly scales: Float32Array
  readonly zeros: Uint8Array | null
  readonly offsets: Float32Array | null
  readonly codebook: Float32Array | null
  readonly levels: QuantizedTensor["levels"]
  readonly activation: QuantizedTensor["activation"]
  readonly groupIndex: Int32Array | null

  constructor(init: StoredTensorInit) {
    checkScheme(init.scheme, init.shape)
    const parts = scaleParts(init)
    this.scheme = init.scheme
    this.shape = init.shape
    this.codes = init.codes
    this.layout = codeLayouts[init.layout]
    this.scales = parts.scales
    this.zeros = parts.zeros
    this.offsets = parts.offsets
    this.codebook = parts.codebook
    this.levels = parts.levels
    this.activation = parts.activation
    this.groupIndex = parts.groupIndex
  }

  /** Bits per weight with scales and zero points, as they are stored. */
  get bitsPerWeight(): number {
    return bitsPerWeight(this.scheme, this.shape, partsOf(this))
  }

  /** The tensor with one byte a code. */
  async unpacked(): Promise<QuantizedTensor> {
    const { scheme, shape, scales, zeros, offsets, levels, activation, groupIndex } = this
    const [n, k] = shape
    const codes = sharedBytes(n * k)
    await native.unpackCodes(this.codes, this.layout, n, k, scheme.bits, codes)
    const codebook = scheme.codebook === "custom" ? this.codebook : null
    return new QuantizedTensor({
      scheme,
      shape,
      codes,
      scales,
      zeros,
      offsets,
      codebook,
      levels,
      activation,
      groupIndex,
    })
  }
}
