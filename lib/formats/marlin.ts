// Checkpoints in the layout of the Marlin kernel (IST-DASLab/marlin; AutoGPTQ and older GPTQModel with checkpoint_format "marlin"):
// symmetric 4-bit codes in tiles of 64 outputs by 16 inputs, scales in the order in which the kernel's threads read them.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { StoredTensor } from "../core/stored-tensor.ts"
import { sharedBytes, sharedFloats } from "../core/tensor.ts"
import { native } from "../native.ts"
import { encodeScales, expectEntry, matrixShape, modulesWith, pinned, readScales, transposed } from "./arrays.ts"
import { booleanField, groupSizeField, integerField } from "./config-fields.ts"
import {
  type CheckpointFormat,
  type FormatReader,
  type FormatSummary,
  type NamedTensor,
  refusesOthers,
  traitsOf,
} from "./format.ts"
import { declaresMarlin } from "./gptq-config.ts"

const bits = 4
/** The only group size besides one scale a row. */
const groupColumns = 128
const order = 0

export const marlin: CheckpointFormat = {
  name: "marlin",

  detect(config) {
    if (config.quant_method === "marlin") return true
    return config.quant_method === "gptq" && declaresMarlin(config)
  },

  refuses(module, [n, k], scheme, extra = {}) {
    const other = refusesOthers("marlin", scheme, extra)
    if (other) return other
    const { symmetric, granularity, groupSize } = scheme
    if (scheme.bits !== bits || !symmetric)
      return `marlin stores symmetric codes of 4 bits, not ${symmetric ? "" : "asymmetric ones of "}${scheme.bits}; use gptq, awq or compressed-tensors`
    if (/(^|\.)(embed_tokens|lm_head)$/.test(module))
      return "marlin has neither quantized embeddings nor a quantized head"
    if (granularity === "group" && groupSize !== groupColumns)
      return `marlin has groups of ${groupColumns} or one scale a row, not groups of ${groupSize}`
    if (k % 128 !== 0) return `k = ${k} is not a multiple of 128, as marlin's kernel needs`
    if (n % 256 !== 0) return `n = ${n} is not a multiple of 256, as marlin's kernel needs`
    if (extra.groupIndex) return "marlin cannot store reordered columns (g_idx); use gptq or compressed-tensors"
    return null
  },

  async write(module, tensor) {
    const { shape, scheme, groups } = tensor
    const reason = marlin.refuses(module, shape, scheme, traitsOf(tensor))
    if (reason) throw new TsqError("ERR_UNSUPPORTED", `${module}: ${reason}`)
    const [n, k] = shape
    const tiles = sharedBytes((n * k) / 2)
    await native.packTiles(pinned(tensor.codes), order, n, k, tiles)
    const ordered = await inOrder(await transposed(tensor.scales, n, groups), groups, n, true)
    const scales = await encodeScales(ordered, ["f16"])
    if (!scales)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${module}: its ${scheme.scaleType} scales cannot be stored exactly as the f16 that marlin has; quantize with f16 scales or use compressed-tensors`,
      )
    return [
      { name: `${module}.B`, dtype: "I32", shape: [k / 16, 2 * n], data: tiles },
      { name: `${module}.s`, dtype: scales.dtype, shape: [groups, n], data: scales.data },
    ] satisfies NamedTensor[]
  },

  configuration,

  reader: (checkpoint, quantizationConfig) => new MarlinReader(checkpoint, quantizationConfig),
}

/** Scales [groups, n] into the order of the kernel, or out of it. */
async function inOrder(scales: Float32Array, groups: number, n: number, into: boolean): Promise<Float32Array> {
  const out = sharedFloats(groups * n)
  await native.orderMarlinScales(scales, groups, n, into, out)
  return out
}

/** As AutoGPTQ writes it: every linear of the blocks is quantized, with the same groups. */
function configuration(summary: FormatSummary): {
  quantizationConfig: Record<string, unknown>
  files: Record<string, unknown>
} {
  const left = summary.unquantized.find(module => !module.endsWith("lm_head"))
  if (left !== undefined)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `marlin's configuration cannot say that ${left} is unquantized: its loaders expect every linear of the blocks; use gptq`,
    )
  const sizes = new Set(
    [...summary.modules.values()].map(scheme => (scheme.granularity === "group" ? groupColumns : -1)),
  )
  if (sizes.size !== 1)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `marlin has one group size for all modules, and ${sizes.size === 0 ? "none is quantized" : "these have groups of 128 and one scale a row"}; use gptq`,
    )
  const quantizationConfig = {
    quant_method: "gptq",
    bits,
    group_size: [...sizes][0],
    desc_act: false,
    sym: true,
    lm_head: false,
    checkpoint_format: "marlin",
    is_marlin_format: true,
    ...(summary.damp !== null && summary.damp > 0 && summary.damp < 1 ? { damp_percent: summary.damp } : {}),
    model_name_or_path: null,
    model_file_base_name: null,
  }
  return { quantizationConfig, files: { "quantize_config.json": quantizationConfig } }
}

class MarlinReader implements FormatReader {
  readonly modules: readonly string[]
  readonly #checkpoint: Checkpoint
  readonly #groupSize: number

  constructor(checkpoint: Checkpoint, config: Record<string, unknown>) {
    this.#checkpoint = checkpoint
    this.#groupSize = groupSizeField(config, ["group_size", "q_group_size"], -1)
    const width = integerField(config, ["bits", "w_bit"], bits)
    if (width !== bits || !booleanField(config, "sym", true))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantization_config says ${width} bits, ${booleanField(config, "sym", true) ? "" : "not "}symmetric; Marlin checkpoints have symmetric codes of 4 bits`,
      )
    this.modules = modulesWith(checkpoint, ".B")
  }

  tensorNames(module: string): readonly string[] {
    return [`${module}.B`, `${module}.s`].filter(name => this.#checkpoint.has(name))
  }

  async read(module: string): Promise<QuantizedTensor> {
    return (await this.stored(module)).unpacked()
  }

  async stored(module: string): Promise<StoredTensor> {
    const checkpoint = this.#checkpoint
    const [strips, words] = matrixShape(checkpoint, expectEntry(checkpoint, `${module}.B`, ["I32"]))
    const [n, k] = [words / 2, strips * 16]
    if (n % 64 !== 0)
      throw new TsqError(
        "ERR_SHAPE",
        `${checkpoint.directory}: tensor ${module}.B is [${strips}, ${words}], expected [k / 16, 2 n] with n a multiple of 64`,
      )
    const groupSize = this.#groupSize === -1 ? k : Math.min(this.#groupSize, k)
    const groups = Math.ceil(k / groupSize)
    expectEntry(checkpoint, `${module}.s`, ["F16", "BF16", "F32"], [groups, n])
    const { values, scaleType } = await readScales(checkpoint, `${module}.s`)
    const codes = sharedBytes(n * k)
    await native.unpackTiles(checkpoint.mapped(`${module}.B`), order, n, k, codes)
    return new StoredTensor({
      scheme: {
        bits,
        symmetric: true,
        granularity: this.#groupSize === -1 ? "channel" : "group",
        groupSize,
        scaleType,
      },
      shape: [n, k],
      codes,
      layout: "bytes",
      scales: await transposed(await inOrder(values, groups, n, false), groups, n),
      zeros: null,
      groupIndex: null,
    })
  }
}
