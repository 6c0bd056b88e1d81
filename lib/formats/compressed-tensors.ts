// compressed-tensors checkpoints (llm-compressor), format pack-quantized: the codes of a row as a dense bit stream.
//
// A last group that is shorter than the others is stored like any other (one more scale): the layout holds it, though the
// kernels of vLLM want whole groups; lib/quantize/plan.ts warns.
//
// The library's signed values are our codes minus 2^(bits-1), and it stores value + 2^(bits-1): the stored fields are our codes.

import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { IntegerScheme } from "../core/scheme.ts"
import { bytesOf, encodeScales, pack, pinned, rowWords, transposed } from "./arrays.ts"
import { compressedTensorsConfiguration, strategyOf } from "./compressed-tensors-config.ts"
import { CompressedTensorsReader } from "./compressed-tensors-reader.ts"
import { type CheckpointFormat, type NamedTensor, refusesOthers, traitsOf, type WriteOptions } from "./format.ts"

export const compressedTensors: CheckpointFormat = {
  name: "compressed-tensors",

  detect: config => config.quant_method === "compressed-tensors" || config.quant_method === "compressed_tensors",

  refuses(_module, _shape, scheme, extra = {}) {
    const other = refusesOthers("compressed-tensors", scheme, extra)
    if (other) return other
    if (extra.groupIndex && scheme.granularity !== "group")
      return "compressed-tensors stores reordered columns only with groups"
    return null
  },

  async write(module, tensor, options) {
    const { shape, scheme, groupIndex } = tensor
    const reason = compressedTensors.refuses(module, shape, scheme, traitsOf(tensor))
    if (reason) throw new TsqError("ERR_UNSUPPORTED", `${module}: ${reason}`)
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
      const { groups } = tensor
      const rows = rowWords(n, bits)
      const words = await pack(await transposed(tensor.zeros, n, groups), groups, n, bits)
      tensors.push({
        name: `${module}.weight_zero_point`,
        dtype: "I32",
        shape: [rows, groups],
        data: bytesOf(await transposed(words, groups, rows)),
      })
    }
    if (groupIndex)
      tensors.push({ name: `${module}.weight_g_idx`, dtype: "I32", shape: [k], data: bytesOf(pinned(groupIndex)) })
    return tensors
  },

  configuration: compressedTensorsConfiguration,

  reader: (checkpoint, quantizationConfig, warn) => new CompressedTensorsReader(checkpoint, quantizationConfig, warn),
}

/** In the model's dtype where that is exact, otherwise in the scales' own. */
async function scaleTensor(module: string, tensor: QuantizedTensor, options: WriteOptions): Promise<NamedTensor> {
  const { shape, groups } = tensor
  const scheme = tensor.scheme as IntegerScheme
  const whole = strategyOf(scheme) === "tensor"
  const types = [options.scaleType, scheme.scaleType, "f32"] as const
  const scales = (await encodeScales(whole ? tensor.scales.slice(0, 1) : tensor.scales, types)) as {
    dtype: string
    data: Uint8Array
  }
  return {
    name: `${module}.weight_scale`,
    dtype: scales.dtype,
    shape: whole ? [1] : [shape[0], groups],
    data: scales.data,
  }
}
