// GPTQ checkpoints, v1 and v2 (AutoGPTQ, GPTQModel) and planar (GPTQModel's gptq_p): codes packed along the inputs, zero points along the
// outputs.
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { sharedBytes } from "../core/tensor.ts"
import { bytesOf, encodeScales, pack, packPlanes, pinned, transposed } from "./arrays.ts"
import {
  type CheckpointFormat,
  type GptqVersion,
  type NamedTensor,
  refusesOthers,
  traitsOf,
  type WriteOptions,
} from "./format.ts"
import { gptqConfiguration, isGptq } from "./gptq-config.ts"
import { GptqReader } from "./gptq-reader.ts"
import { consecutiveGroups } from "./group-index.ts"

/** Widths of the plain layout; the planar one holds 2 to 8 bits. */
const widths: readonly number[] = [2, 3, 4, 8]

export const gptq: CheckpointFormat = {
  name: "gptq",
  detect: isGptq,

  /** With `zeros`, a zero point of 0 is refused too where gptqVersion is "v1". */
  refuses(module, [n, k], scheme, extra = {}) {
    const other = refusesOthers("gptq", scheme, extra)
    if (other) return other
    const { bits, granularity, groupSize } = scheme
    if (!widths.includes(bits) && extra.gptqVersion !== "planar")
      return `gptq stores 2, 3, 4 or 8 bits, not ${bits}; use compressed-tensors, or gptqVersion "planar", which only GPTQModel reads`
    if (module.endsWith("embed_tokens"))
      return "gptq has no quantized embeddings; leave it unquantized or use compressed-tensors"
    if (k % 32 !== 0) return `k = ${k} is not a multiple of 32, as gptq's packing needs`
    if (n % 32 !== 0) return `n = ${n} is not a multiple of 32, as gptq's packed zero points need`
    if (granularity === "group" && k % groupSize !== 0)
      return `k = ${k} is not a multiple of the group size ${groupSize}, as gptq needs`
    if (extra.zeros?.includes(0) && (extra.gptqVersion ?? "v1") === "v1")
      return "a zero point is 0, which gptq v1 cannot store (its field holds the zero point minus 1); write gptq v2 or keep zero points at 1 or above"
    return null
  },

  async write(module, tensor, options) {
    const { shape, scheme } = tensor
    const version = options.gptqVersion ?? "v1"
    const reason = gptq.refuses(module, shape, scheme, traitsOf(tensor, version))
    if (reason) throw new TsqError("ERR_UNSUPPORTED", `${module}: ${reason}`)
    return layerTensors(module, tensor, options, version)
  },

  configuration: gptqConfiguration,

  reader: (checkpoint, quantizationConfig, warn) => new GptqReader(checkpoint, quantizationConfig, warn),
}

async function layerTensors(
  module: string,
  tensor: QuantizedTensor,
  options: WriteOptions,
  version: GptqVersion,
): Promise<NamedTensor[]> {
  const { scheme, groups } = tensor
  const { bits } = scheme
  const [n, k] = tensor.shape
  const rows = (k * bits) / 32
  // Columns of [k, n] packed along k are the rows of [n, k] packed along k, transposed; at every width.
  const packed =
    version === "planar" ? await packPlanes(tensor.codes, n, k, bits) : await pack(tensor.codes, n, k, bits)
  const qweight = await transposed(packed, n, rows)
  const zeros = tensor.zeros ? await transposed(tensor.zeros, n, groups) : sharedBytes(n * groups).fill(2 ** (bits - 1))
  // v1 stores z - 1, modulo 2^bits.
  const qzeros =
    version === "planar"
      ? await packPlanes(zeros, groups, n, bits)
      : await pack(zeros, groups, n, bits, { add: version === "v1" ? 2 ** bits - 1 : 0 })
  const scales = await encodeScales(await transposed(tensor.scales, n, groups), [
    "f16",
    ...(scheme.scaleType === "bf16" ? (["bf16"] as const) : []),
  ])
  if (!scales)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${module}: its ${scheme.scaleType} scales cannot be stored exactly as the f16 that gptq has; quantize with f16 scales (now ${options.scaleType}) or use compressed-tensors`,
    )
  return [
    { name: `${module}.qweight`, dtype: "I32", shape: [rows, n], data: bytesOf(qweight) },
    { name: `${module}.qzeros`, dtype: "I32", shape: [groups, (n * bits) / 32], data: bytesOf(qzeros) },
    { name: `${module}.scales`, dtype: scales.dtype, shape: [groups, n], data: scales.data },
    {
      name: `${module}.g_idx`,
      dtype: "I32",
      shape: [k],
      data: bytesOf(tensor.groupIndex ? pinned(tensor.groupIndex) : consecutiveGroups(k, scheme.groupSize)),
    },
  ]
}
