// AWQ checkpoints in the GEMM layout (AutoAWQ): 4-bit codes packed along the outputs, eight columns to a word in the order
// 0 2 4 6 1 3 5 7. The GEMV layouts have the same tensor names and other contents.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { StoredTensor } from "../core/stored-tensor.ts"
import { sharedBytes } from "../core/tensor.ts"
import {
  bytesOf,
  encodeScales,
  expectEntry,
  matrixShape,
  modulesWith,
  pack,
  readInts,
  readScales,
  transposed,
  unpack,
} from "./arrays.ts"
import { booleanField, groupSizeField, integerField, stringField } from "./config-fields.ts"
import {
  type CheckpointFormat,
  type FormatReader,
  type FormatSummary,
  type NamedTensor,
  refusesOthers,
  traitsOf,
} from "./format.ts"
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

class AwqReader implements FormatReader {
  readonly modules: readonly string[]
  readonly #checkpoint: Checkpoint
  readonly #groupSize: number

  constructor(checkpoint: Checkpoint, config: Record<string, unknown>) {
    this.#checkpoint = checkpoint
    this.#groupSize = groupSizeField(config, ["group_size", "q_group_size"])
    const width = integerField(config, ["bits", "w_bit"])
    if (width !== bits)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantization_config says ${width} bits; AWQ checkpoints of 4 bits are read`,
      )
    const version = stringField(config, "version") ?? "gemm"
    if (version.toLowerCase() !== "gemm")
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantization_config.version is "${version}"; of AWQ checkpoints the "gemm" layout is read`,
      )
    const backend = stringField(config, "backend") ?? "autoawq"
    if (backend !== "autoawq")
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantization_config.backend is "${backend}", which has another layout; of AWQ checkpoints AutoAWQ's "gemm" is read`,
      )
    if (!booleanField(config, "zero_point", true))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        "quantization_config.zero_point is false; AWQ checkpoints without zero points are not read by any loader",
      )
    const divided = checkpoint.names.find(name => name.endsWith(".act.scales"))
    if (divided)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${checkpoint.directory}: tensor ${divided} divides activations, which is not supported; without it the model would be wrong`,
      )
    this.modules = modulesWith(checkpoint, ".qweight")
  }

  tensorNames(module: string): readonly string[] {
    return ["qweight", "qzeros", "scales"]
      .map(suffix => `${module}.${suffix}`)
      .filter(name => this.#checkpoint.has(name))
  }

  async read(module: string): Promise<QuantizedTensor> {
    return (await this.stored(module)).unpacked()
  }

  async stored(module: string): Promise<StoredTensor> {
    const checkpoint = this.#checkpoint
    const [k, packed] = matrixShape(checkpoint, expectEntry(checkpoint, `${module}.qweight`, ["I32"]))
    const n = packed * 8
    const groupSize = this.#groupSize === -1 ? k : Math.min(this.#groupSize, k)
    const groups = Math.ceil(k / groupSize)
    expectEntry(checkpoint, `${module}.qzeros`, ["I32"], [groups, packed])
    expectEntry(checkpoint, `${module}.scales`, ["F16", "BF16", "F32"], [groups, n])
    const zeros = await unpack(await readInts(checkpoint, `${module}.qzeros`), groups, n, bits, { interleave: true })
    const { values, scaleType } = await readScales(checkpoint, `${module}.scales`)
    const symmetric = Buffer.compare(bytesOf(zeros), Buffer.alloc(zeros.length, middle)) === 0
    return new StoredTensor({
      scheme: { bits, symmetric, granularity: this.#groupSize === -1 ? "channel" : "group", groupSize, scaleType },
      shape: [n, k],
      codes: checkpoint.mapped(`${module}.qweight`),
      layout: "awq",
      scales: await transposed(values, groups, n),
      zeros: symmetric ? null : await transposed(zeros, groups, n),
      groupIndex: null,
    })
  }
}
