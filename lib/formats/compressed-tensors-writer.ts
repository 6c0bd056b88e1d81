// The tensors of a module in compressed-tensors, whose scheme the format holds.
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor, ScaleLevels } from "../core/quantized-tensor.ts"
import { isFloatScale } from "../core/scheme.ts"
import {
  bytesOf,
  collapseScales,
  encodeScales,
  pack,
  packNibbles,
  pinned,
  rowWords,
  signedBytes,
  storedScalesOf,
  transposed,
} from "./arrays.ts"
import { formatOf, storageOf, strategyOf } from "./compressed-tensors-scheme.ts"
import type { NamedTensor, WriteOptions } from "./format.ts"
import { activationTensors } from "./static-activations.ts"
import { globalScale, powerBytes } from "./stored-scales.ts"

export async function writeModule(
  module: string,
  tensor: QuantizedTensor,
  options: WriteOptions,
): Promise<NamedTensor[]> {
  const format = formatOf(tensor.scheme) ?? "pack-quantized"
  const tensors = await { words: writeWords, bytes: writeBytes, nibbles: writeNibbles }[storageOf[format]](
    module,
    tensor,
    options,
  )
  const { groupIndex, shape } = tensor
  if (groupIndex)
    tensors.push({ name: `${module}.weight_g_idx`, dtype: "I32", shape: [shape[1]], data: bytesOf(pinned(groupIndex)) })
  if (format === "nvfp4-pack-quantized") return tensors
  const names = { scale: `${module}.input_scale`, zero: `${module}.input_zero_point` }
  return [...tensors, ...(await activationTensors(tensor, names, [options.scaleType], [1]))]
}

async function writeWords(module: string, tensor: QuantizedTensor, options: WriteOptions): Promise<NamedTensor[]> {
  const { shape, scheme, groups } = tensor
  const [n, k] = shape
  const { bits } = scheme
  const tensors: NamedTensor[] = [
    {
      name: `${module}.weight_packed`,
      dtype: "I32",
      shape: [n, rowWords(k, bits)],
      data: bytesOf(await pack(tensor.codes, n, k, bits)),
    },
    await scaleTensor(module, tensor, options),
    {
      name: `${module}.weight_shape`,
      dtype: "I64",
      shape: [2],
      data: bytesOf(BigInt64Array.of(BigInt(n), BigInt(k))),
    },
  ]
  if (tensor.zeros) {
    // Zero points are packed along the outputs: the rows of the transpose, transposed back.
    const rows = rowWords(n, bits)
    const words = await pack(await transposed(tensor.zeros, n, groups), groups, n, bits)
    tensors.push({
      name: `${module}.weight_zero_point`,
      dtype: "I32",
      shape: [rows, groups],
      data: bytesOf(await transposed(words, groups, rows)),
    })
  }
  return tensors
}

async function writeBytes(module: string, tensor: QuantizedTensor, options: WriteOptions): Promise<NamedTensor[]> {
  const { shape, scheme, codes } = tensor
  const float = scheme.codebook !== undefined
  const tensors: NamedTensor[] = [
    {
      name: `${module}.weight`,
      dtype: float ? "F8_E4M3" : "I8",
      shape: [...shape],
      data: float ? pinned(codes) : await signedBytes(codes, scheme.bits),
    },
    scheme.scaleType === "e8m0" ? await powerTensor(module, tensor) : await scaleTensor(module, tensor, options),
  ]
  if (tensor.zeros) {
    const zeros = await collapseScales(scheme, shape, tensor.zeros)
    if (!zeros) throw notShared(module, "zero points")
    tensors.push({
      name: `${module}.weight_zero_point`,
      dtype: "I8",
      shape: scaleShape(tensor),
      data: await signedBytes(zeros, scheme.bits),
    })
  }
  return tensors
}

async function writeNibbles(module: string, tensor: QuantizedTensor): Promise<NamedTensor[]> {
  const { shape, codes, levels, groups } = tensor
  const [n, k] = shape
  const packed = {
    name: `${module}.weight_packed`,
    dtype: "U8",
    shape: [n, k / 2],
    data: await packNibbles(codes, n * k),
  }
  if (!levels) return [packed, await powerTensor(module, tensor)]
  const one = (name: string, value: number): NamedTensor => ({
    name: `${module}.${name}`,
    dtype: "F32",
    shape: [1],
    data: bytesOf(Float32Array.of(value)),
  })
  const tensors: NamedTensor[] = [
    packed,
    { name: `${module}.weight_scale`, dtype: "F8_E4M3", shape: [n, groups], data: pinned(levels.codes) },
    one("weight_global_scale", globalScale(levels, true) as number),
  ]
  const input = inputGlobalScale(module, tensor, levels)
  if (input !== null) tensors.push(one("input_global_scale", input))
  return tensors
}

/** The scale of activations, which is a divisor where that of the weights is one. */
function inputGlobalScale(module: string, { activation }: QuantizedTensor, levels: ScaleLevels): number | null {
  if (!activation) return null
  const scale = globalScale({ ...levels, supers: activation.scale }, true)
  if (scale === null)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${module}: its activations are multiplied with a global scale, and compressed-tensors divides by one: no number of f32 does the same`,
    )
  return scale
}

async function powerTensor(module: string, tensor: QuantizedTensor): Promise<NamedTensor> {
  const data = await powerBytes(tensor.scales)
  if (!data)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${module}: its scales are not all powers of two from 2^-127 to 2^127, which a byte of E8M0 can be`,
    )
  return { name: `${module}.weight_scale`, dtype: "U8", shape: [tensor.shape[0], tensor.groups], data }
}

/** In the model's dtype where that is exact, otherwise in the scales' own; those of blocks in their own, which fp8 files keep as well. */
async function scaleTensor(module: string, tensor: QuantizedTensor, options: WriteOptions): Promise<NamedTensor> {
  const { scheme } = tensor
  const own = isFloatScale(scheme.scaleType) ? [scheme.scaleType] : []
  const preferred = scheme.granularity === "block" ? [] : [options.scaleType]
  // A channel's strategy in place of a tensor's repeats the scale.
  const stored = strategyOf(scheme) === "channel" ? tensor.scales : await storedScalesOf(tensor)
  if (!stored) throw notShared(module, "scales")
  const encoded = await encodeScales(stored, [...preferred, ...own, "f32"])
  return {
    name: `${module}.weight_scale`,
    shape: scaleShape(tensor),
    ...(encoded as NonNullable<typeof encoded>),
  }
}

function scaleShape({ scheme, shape, groups }: QuantizedTensor): number[] {
  const strategy = strategyOf(scheme)
  if (strategy === "tensor") return [1]
  return [strategy === "block" ? Math.ceil(shape[0] / (scheme.blockRows as number)) : shape[0], groups]
}

const notShared = (module: string, what: string) =>
  new TsqError("ERR_FORMAT", `${module}: ${what} differ where its scheme says that rows or groups share them`)
