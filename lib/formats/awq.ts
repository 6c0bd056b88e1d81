// AWQ checkpoints in the GEMM layout (AutoAWQ): 4-bit codes packed along the outputs, eight columns to a word in the order
// 0 2 4 6 1 3 5 7. The GEMV layouts have the same tensor names and other contents; they are only read (awq-reader.ts).
import { TsqError } from "../core/errors.ts"
import { sharedBytes } from "../core/tensor.ts"
import { bytesOf, encodeScales, pack, transposed } from "./arrays.ts"
import { AwqReader } from "./awq-reader.ts"
import { type CheckpointFormat, type FormatSummary, type NamedTensor, refusesOthers, traitsOf } from "./format.ts"
import { fusedNames } from "./module-patterns.ts"
import { notConverted } from "./skipped-modules.ts"

const bits = 4
/** The zero point of symmetric codes. Loaders always read zero points, so symmetric weights are stored with this one. */
const middle = 2 ** (bits - 1)

export const awq: CheckpointFormat = {
  name: "awq",

  detect(config) {
    if (config.quant_method === undefined || config.quant_method === null)
      return "zero_point" in config && ("w_bit" in config || "bits" in config)
    return config.quant_method === "awq"
  },

  refuses(module, [n, k], scheme, extra = {}) {
    const other = refusesOthers("awq", scheme, extra)
    if (other) return other
    if (scheme.bits !== bits) return `awq stores 4 bits, not ${scheme.bits}; use gptq or compressed-tensors`
    if (module.endsWith("embed_tokens"))
      return "awq has no quantized embeddings; leave it unquantized or use compressed-tensors"
    if (n % 8 !== 0) return `n = ${n} is not a multiple of 8, as awq's packing needs`
    if (scheme.granularity === "group" && k % scheme.groupSize !== 0)
      return `k = ${k} is not a multiple of the group size ${scheme.groupSize}, as awq needs`
    if (extra.groupIndex) return "awq cannot store reordered columns (g_idx); use gptq or compressed-tensors"
    return null
  },

  async write(module, tensor) {
    const { shape, scheme, groups } = tensor
    const reason = awq.refuses(module, shape, scheme, traitsOf(tensor))
    if (reason) throw new TsqError("ERR_UNSUPPORTED", `${module}: ${reason}`)
    const [n, k] = shape
    const qweight = await pack(await transposed(tensor.codes, n, k), k, n, bits, { interleave: true })
    const zeros = tensor.zeros ? await transposed(tensor.zeros, n, groups) : sharedBytes(n * groups).fill(middle)
    const qzeros = await pack(zeros, groups, n, bits, { interleave: true })
    const scales = await encodeScales(await transposed(tensor.scales, n, groups), ["f16"])
    if (!scales)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${module}: its ${scheme.scaleType} scales cannot be stored exactly as the f16 that awq has; quantize with f16 scales or use compressed-tensors`,
      )
    return [
      { name: `${module}.qweight`, dtype: "I32", shape: [k, n / 8], data: bytesOf(qweight) },
      { name: `${module}.qzeros`, dtype: "I32", shape: [groups, n / 8], data: bytesOf(qzeros) },
      { name: `${module}.scales`, dtype: scales.dtype, shape: [groups, n], data: scales.data },
    ] satisfies NamedTensor[]
  },

  configuration,

  reader: (checkpoint, quantizationConfig) => new AwqReader(checkpoint, quantizationConfig),
}

/** One group size holds for the whole file. */
function commonGroupSize(modules: FormatSummary["modules"]): number {
  let first: { module: string; size: number } | null = null
  for (const [module, { granularity, groupSize }] of modules) {
    const size = granularity === "group" ? groupSize : -1
    first ??= { module, size }
    if (first.size !== size)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `awq has one group size for all modules: ${first.module} has ${first.size}, ${module} has ${size}; use compressed-tensors`,
      )
  }
  if (!first)
    throw new TsqError(
      "ERR_FORMAT",
      "no module is quantized, so there is nothing that an awq configuration could describe",
    )
  return first.size
}

/** Modules to leave alone, under the names of fused ones too. */
function modulesLeft(summary: FormatSummary): string[] | null {
  const all = new Set([...summary.modules.keys(), ...summary.unquantized])
  const entries = notConverted("awq", summary, [...summary.unquantized, ...fusedNames(summary.unquantized, all)])
  return entries.length > 0 ? entries : null
}

function configuration(summary: FormatSummary): {
  quantizationConfig: Record<string, unknown>
  files: Record<string, unknown>
} {
  const groupSize = commonGroupSize(summary.modules)
  const modules = modulesLeft(summary)
  const head = summary.modules.has("lm_head") ? { lm_head: true } : {}
  return {
    quantizationConfig: {
      quant_method: "awq",
      bits,
      group_size: groupSize,
      zero_point: true,
      version: "gemm",
      modules_to_not_convert: modules,
      ...head,
    },
    // AutoAWQ's own file and names.
    files: {
      "quant_config.json": {
        zero_point: true,
        q_group_size: groupSize,
        w_bit: bits,
        version: "GEMM",
        modules_to_not_convert: modules,
        ...head,
      },
    },
  }
}
