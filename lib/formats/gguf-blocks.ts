// Tensors of GGUF types to and from f32: the blocks' codecs with errors that name the tensor.
import type { GgmlType } from "../containers/gguf-types.ts"
import { TsqError } from "../core/errors.ts"
import { elementCount, sharedBytes, sharedFloats } from "../core/tensor.ts"
import { PackedWeight } from "../kernels/packed-weight.ts"
import { abortable, type GptqReport, type Handle, type Mapped, native, type Source } from "../native.ts"

export interface BlockTensor {
  name: string
  type: GgmlType
  /** Slowest dimension first; blocks run along the last. */
  shape: readonly number[]
}

export interface EncodeOptions {
  /** A weight for the squared error of each column, on shared memory: a row of an importance matrix. */
  importance?: Float32Array | null
  signal?: AbortSignal | undefined
}

/** One matrix of a tensor [count, n, k], and where it lies within the tensor. */
export function matrixOfStack<T extends BlockTensor>(
  tensor: T,
  source: Mapped,
  index: number,
): { tensor: T; source: Mapped } {
  const [count = 1, ...shape] = tensor.shape
  const bytes = source.bytes / count
  return { tensor: { ...tensor, shape }, source: { ...source, offset: source.offset + index * bytes, bytes } }
}

/** The values, on shared memory. ERR_UNSUPPORTED for types that the library only knows by name. */
export async function decodeBlocks(tensor: BlockTensor, source: Source): Promise<Float32Array> {
  checkDecodable(tensor)
  const { rows, k } = matrixOf(tensor)
  const out = sharedFloats(rows * k)
  await named(tensor, () => native.decodeBlocks(source, tensor.type.id, rows, k, out))
  return out
}

/**
 * The matrix packed for the kernels, without a copy of it as floats: floats as they are, blocks as codes with scales, and offsets
 * where the type has minima. `from`: row i of the result is row from[i] of the tensor.
 */
export async function packBlocks(
  tensor: BlockTensor,
  source: Source,
  from: Int32Array | null = null,
): Promise<PackedWeight> {
  checkDecodable(tensor)
  const { rows, k } = matrixOf(tensor)
  const { handle, bits } = await named(tensor, () => native.packBlocks(source, tensor.type.id, rows, k, from))
  return new PackedWeight(handle, [rows, k], bits)
}

/**
 * The blocks that ggml's reference encoder makes of `values`, which lie on shared memory. ERR_NUMERIC for values that are no
 * finite numbers or too large for the type.
 */
export async function encodeBlocks(
  tensor: BlockTensor,
  values: Float32Array,
  { importance = null, signal }: EncodeOptions = {},
): Promise<Uint8Array> {
  const { type } = tensor
  if (!type.encode)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `tensor ${JSON.stringify(tensor.name)} cannot be made ${type.name}: this version ${type.decode ? "only reads" : "neither reads nor writes"} it`,
    )
  const { rows, k } = matrixOf(tensor)
  const out = sharedBytes(rows * (k / type.blockSize) * type.blockBytes)
  await named(tensor, () =>
    abortable(signal, flag => native.encodeBlocks(values, type.id, rows, k, importance, out, flag)),
  )
  return out
}

export interface GptqBlocksOptions extends EncodeOptions {
  /** XᵀX of the inputs: an accumulator of kind hessian. */
  hessian: Handle
  damp: number
  /** Columns of a lazy update. */
  block: number
  order: keyof typeof blockOrders
}

/** In which order columns are rounded: native/gguf/gptq.h. */
export const blockOrders = { none: 0, static: 1, "group-aware": 2 } as const

/** Types that gptqBlocks rounds on. */
export const hasGrid = ({ encode, name }: GgmlType): boolean => encode && /^(Q[2-6]_|Q8_0|IQ4)/.test(name)

/**
 * Blocks with the scales that encodeBlocks searches, and codes by GPTQ: each weight's error is made up for by those that follow. Never
 * worse by the inputs' second moments than encodeBlocks, whose objective is `nearestError`. Errors as of encodeBlocks.
 */
export async function gptqBlocks(
  tensor: BlockTensor,
  values: Float32Array,
  { hessian, importance = null, damp, block, order, signal }: GptqBlocksOptions,
): Promise<{ blocks: Uint8Array; report: GptqReport }> {
  const { type } = tensor
  const { rows, k } = matrixOf(tensor)
  const blocks = sharedBytes(rows * (k / type.blockSize) * type.blockBytes)
  const options = { importance, damp, dampStep: 0.01, block, order: blockOrders[order] }
  const report = await named(tensor, () =>
    abortable(signal, flag => native.gptqBlocks(values, type.id, rows, k, hessian, options, blocks, flag)),
  )
  return { blocks, report }
}

/** ERR_UNSUPPORTED for types that the library only knows by name. */
export function checkDecodable({ name, type }: BlockTensor): void {
  if (!type.decode)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `tensor ${JSON.stringify(name)} is ${type.name}, whose values this version does not read`,
    )
}

/** A vector is one row. */
export function matrixOf({ name, type, shape }: BlockTensor): { rows: number; k: number } {
  const size = elementCount(shape, `tensor ${JSON.stringify(name)}`)
  const k = shape.at(-1) ?? 1
  if (k % type.blockSize !== 0)
    throw new TsqError(
      "ERR_SHAPE",
      `tensor ${JSON.stringify(name)} has rows of ${k} elements, ${type.name} needs a multiple of ${type.blockSize}`,
    )
  return { rows: k === 0 ? 0 : size / k, k }
}

/** Errors of `work` with the name of the tensor. */
export async function named<T>({ name, type }: BlockTensor, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (!(error instanceof TsqError) || error.code === "ERR_ABORTED") throw error
    throw new TsqError(error.code, `tensor ${JSON.stringify(name)} as ${type.name}: ${error.message}`, { cause: error })
  }
}
