// Block tensors of GGUF files to and from the canonical tensor: what each type's numbers are, and which type holds a tensor exactly.
// Source: ggml-org/ggml, src/ggml-common.h and the dequantize_row_* of src/ggml-quants.c.
import { type GgmlType, ggmlTypeNamed } from "../containers/gguf-types.ts"
import type { CodebookName } from "../core/codebooks.ts"
import { TsqError } from "../core/errors.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import { isFloatScale, type Scheme } from "../core/scheme.ts"
import { sharedBytes, sharedFloats } from "../core/tensor.ts"
import { native, type Source } from "../native.ts"
import { pinned } from "./arrays.ts"
import { type BlockTensor, checkDecodable, matrixOf, named } from "./gguf-blocks.ts"

interface BlockScheme {
  bits: Scheme["bits"]
  groupSize: number
  /** f32: products of a 16-bit float and a whole number. */
  scaleType: "f16" | "f32" | "e8m0"
  /** Each group adds a float. */
  offsets?: boolean
  codebook?: CodebookName
}

const half = (bits: Scheme["bits"], groupSize = 32): BlockScheme => ({ bits, groupSize, scaleType: "f16" })
const products = (bits: Scheme["bits"], groupSize: number): BlockScheme => ({ bits, groupSize, scaleType: "f32" })

const schemes: ReadonlyMap<string, BlockScheme> = new Map([
  ["Q4_0", half(4)],
  ["Q4_1", { ...half(4), offsets: true }],
  ["Q5_0", half(5)],
  ["Q5_1", { ...half(5), offsets: true }],
  ["Q8_0", half(8)],
  ["Q8_1", half(8)],
  ["Q2_K", { ...products(2, 16), offsets: true }],
  ["Q3_K", products(3, 16)],
  ["Q4_K", { ...products(4, 32), offsets: true }],
  ["Q5_K", { ...products(5, 32), offsets: true }],
  ["Q6_K", products(6, 16)],
  ["Q8_K", products(8, 256)],
  ["IQ4_NL", { ...half(4), codebook: "iq4_nl" }],
  ["IQ4_XS", { ...products(4, 32), codebook: "iq4_nl" }],
  ["TQ1_0", half(2, 256)],
  ["TQ2_0", half(2, 256)],
  ["MXFP4", { bits: 4, groupSize: 32, scaleType: "e8m0", codebook: "e2m1" }],
])

/** What the numbers of a block type are; null for floats and for types whose values are not read. */
export function blockScheme(type: GgmlType): Scheme | null {
  const found = schemes.get(type.name)
  if (!found) return null
  const { offsets = false, ...scheme } = found
  return { ...scheme, symmetric: !offsets, granularity: "group" }
}

/**
 * The tensor [n, k] of a matrix of blocks. `from`: row i of the result is row from[i] of the blocks. ERR_UNSUPPORTED for types that
 * hold no codes, ERR_NUMERIC for blocks whose scale is no number.
 */
export async function readBlockTensor(
  tensor: BlockTensor,
  source: Source,
  from: Int32Array | null = null,
): Promise<QuantizedTensor> {
  checkDecodable(tensor)
  const { rows, k } = matrixOf(tensor)
  const scheme = blockScheme(tensor.type)
  if (!scheme)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `tensor ${JSON.stringify(tensor.name)} is ${tensor.type.name}: it holds no codes`,
    )
  const groups = rows * (k / scheme.groupSize)
  const codes = sharedBytes(rows * k)
  const scales = sharedFloats(groups)
  const offsets = scheme.symmetric ? null : sharedFloats(groups)
  await named(tensor, () => native.readBlockCodes(source, tensor.type.id, rows, k, from, codes, scales, offsets))
  return new QuantizedTensor({ scheme, shape: [rows, k], codes, scales, zeros: null, offsets })
}

/** Smallest first. Each holds what the ones before it do not, or not always. */
const symmetricTypes = ["TQ2_0", "Q3_K", "Q4_0", "Q5_0", "Q6_K", "Q8_0"]
const offsetTypes = ["Q2_K", "Q4_K", "Q4_1", "Q5_K", "Q5_1"]

/** The types that might hold tensors of a scheme, smallest first; or why none does. */
function candidates({ scheme, zeros, offsets, groupIndex, inputScale }: QuantizedTensor): string[] | string {
  const { codebook, granularity, groupSize, scaleType, bits, activations } = scheme
  if (groupIndex) return "GGUF has no activation order: groups are consecutive columns"
  if (inputScale) return "GGUF cannot store a scale per input"
  if (activations) return `GGUF cannot say that activations are quantized to ${activations.type}`
  if (codebook === "iq4_nl") return ["IQ4_XS", "IQ4_NL"]
  if (codebook === "e2m1" && scaleType === "e8m0") return ["MXFP4"]
  if (codebook !== undefined)
    return `no GGUF type that is written has ${codebook === "custom" ? "codes of a tensor's own code book" : `the codes of ${codebook}`}${isFloatScale(scaleType) ? "" : ` with scales of ${scaleType}`}`
  if (!isFloatScale(scaleType)) return `no GGUF type has whole numbers with scales of ${scaleType}`
  if (granularity !== "channel" && granularity !== "tensor" && groupSize % 16 !== 0)
    return `groups of ${groupSize} columns are no multiple of 16, as the blocks of GGUF need`
  if (offsets) return offsetTypes
  // With whole zero points: a minimum, where it is a 16-bit float, or codes around zero of one bit more.
  if (zeros)
    return bits <= 7 ? ["Q4_1", "Q5_0", "Q5_1", "Q6_K", "Q8_0"] : `no GGUF type has zero points with ${bits} bits`
  return symmetricTypes
}

/** The smallest type that holds the values of a tensor exactly, or why there is none. */
export async function blockTypeFor(tensor: QuantizedTensor): Promise<{ type: GgmlType } | { reason: string }> {
  const names = candidates(tensor)
  if (typeof names === "string") return { reason: names }
  const reasons: string[] = []
  for (const name of names) {
    const type = ggmlTypeNamed(name) as GgmlType
    const reason = await writes(tensor, type, null, null)
    if (reason === null) return { type }
    reasons.push(`${name}: ${reason}`)
  }
  return { reason: `no GGUF type holds it exactly (${reasons.slice(-2).join("; ")})` }
}

/** The blocks of such a type. Row i of them is row from[i] of the tensor. ERR_UNSUPPORTED where the type does not hold its values. */
export async function writeBlockTensor(
  name: string,
  tensor: QuantizedTensor,
  type: GgmlType,
  from: Int32Array | null = null,
): Promise<Uint8Array> {
  const [n, k] = tensor.shape
  const out = sharedBytes(Math.floor((n * k) / type.blockSize) * type.blockBytes)
  const reason = await writes(tensor, type, from, out)
  if (reason !== null)
    throw new TsqError("ERR_UNSUPPORTED", `${name}: ${type.name} does not hold it exactly: ${reason}`)
  return out
}

async function writes(
  { shape: [n, k], scheme, codes, scales, zeros, offsets }: QuantizedTensor,
  type: GgmlType,
  from: Int32Array | null,
  out: Uint8Array | null,
): Promise<string | null> {
  if (k % type.blockSize !== 0) return `rows of ${k} are no whole blocks of ${type.blockSize}`
  try {
    await native.writeBlockCodes(
      ...([pinned(codes), type.id, n, k, from, scheme.bits, scheme.groupSize] as const),
      ...([pinned(scales), zeros && pinned(zeros), offsets && pinned(offsets), out] as const),
    )
    return null
  } catch (error) {
    if (error instanceof TsqError && error.code === "ERR_UNSUPPORTED") return error.message
    throw error
  }
}
