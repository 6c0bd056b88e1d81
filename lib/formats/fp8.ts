// Checkpoints with quant_method "fp8": FP8 E4M3 with a scale for each block of 128 by 128 (DeepSeek's weight_scale_inv, which is multiplied in
// spite of its name), or with one for the tensor (weight_scale). Facts: vllm-project/vllm, layers/quantization/fp8.py;
// huggingface/transformers, integrations/finegrained_fp8.py.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { describe } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { Scheme } from "../core/scheme.ts"
import type { StoredTensor } from "../core/stored-tensor.ts"
import { stringField, stringsField } from "./config-fields.ts"
import {
  activationText,
  perGroup,
  perToken,
  readFloat8,
  refusesFloat8,
  sameActivations,
  scaledModules,
  staticTensor,
  writeFloat8,
} from "./float8.ts"
import { type CheckpointFormat, type FormatReader, type FormatSummary, traitsOf } from "./format.ts"
import { kvScaleTensors, plainNames } from "./kv-scales.ts"
import { commonSettings, notConverted, warnOfSkipped } from "./skipped-modules.ts"

export const fp8: CheckpointFormat = {
  name: "fp8",

  // Its configuration has no word for them: vLLM reads the tensors where the cache is asked to be fp8.
  kvScales: { names: plainNames, shape: [], settings: {} },

  detect: config => config.quant_method === "fp8",

  refuses(_module, [, k], scheme, traits = {}) {
    const other = refusesFloat8("fp8", scheme, traits)
    if (other) return other
    const { granularity, groupSize, activations } = scheme
    if (granularity !== "tensor" && granularity !== "block")
      return `fp8 has a scale for the tensor or for each block, not for each ${granularity}; use compressed-tensors`
    const columns = activations?.groupSize ?? groupSize
    const allowed = granularity === "block" ? [perGroup(columns)] : [perToken, staticTensor]
    if (granularity === "block" && groupSize !== Math.min(columns, k))
      return `fp8 has activations in groups as wide as the blocks of weights, ${groupSize} columns, and those of this tensor are ${activationText(activations)}`
    if (allowed.some(candidate => sameActivations(candidate, activations))) return null
    return `fp8 has activations ${allowed.map(activationText).join(" or ")} beside such weights, and those of this tensor are ${activationText(activations)}; use compressed-tensors`
  },

  async write(module, tensor) {
    const reason = fp8.refuses(module, tensor.shape, tensor.scheme, traitsOf(tensor))
    if (reason) throw new TsqError("ERR_UNSUPPORTED", `${module}: ${reason}`)
    return writeFloat8(module, tensor, scaleOf(tensor))
  },

  configuration,

  reader: (checkpoint, quantizationConfig, warn) => new Fp8Reader(checkpoint, quantizationConfig, warn),
}

function scaleOf({ scheme, shape, groups }: QuantizedTensor) {
  if (scheme.granularity === "tensor") return { name: "weight_scale", shape: [] }
  const rows = Math.ceil(shape[0] / (scheme.blockRows as number))
  return { name: "weight_scale_inv", shape: [rows, groups] }
}

/** What the whole file says of a module. Blocks are cut to a matrix that is narrower; activations tell how wide they are. */
const settingsOf = ({ granularity, blockRows, activations }: Scheme) => ({
  block: granularity === "block" ? [blockRows as number, activations?.groupSize as number] : null,
  activations: activations?.dynamic === false ? "static" : "dynamic",
})

function configuration(summary: FormatSummary) {
  const { block, activations } = commonSettings("fp8", summary, settingsOf)
  const skipped = notConverted("fp8", summary)
  return {
    quantizationConfig: {
      quant_method: "fp8",
      fmt: "e4m3",
      activation_scheme: activations,
      ...(block && { weight_block_size: block }),
      // The first is what transformers reads, the second what vLLM reads before it.
      ...(skipped.length > 0 && { modules_to_not_convert: skipped, ignored_layers: skipped }),
    },
    files: {},
  }
}

class Fp8Reader implements FormatReader {
  readonly modules: readonly string[]
  readonly kvScales: readonly string[]
  readonly #checkpoint: Checkpoint
  readonly #block: readonly [number, number] | null
  readonly #static: boolean

  constructor(checkpoint: Checkpoint, config: Record<string, unknown>, warn: (message: string) => void) {
    this.#checkpoint = checkpoint
    this.#block = blockSize(config.weight_block_size ?? null)
    const fmt = stringField(config, "fmt") ?? "e4m3"
    if (!["e4m3", "float8_e4m3fn"].includes(fmt))
      throw new TsqError("ERR_UNSUPPORTED", `quantization_config.fmt is "${fmt}"; of fp8 checkpoints e4m3 is read`)
    const scheme = stringField(config, "activation_scheme") ?? "dynamic"
    if (scheme !== "static" && scheme !== "dynamic")
      throw new TsqError(
        "ERR_FORMAT",
        `quantization_config.activation_scheme is "${scheme}", expected "static" or "dynamic"`,
      )
    this.#static = scheme === "static"
    this.modules = scaledModules(checkpoint, ["F8_E4M3"], ["weight_scale_inv", "weight_scale"])
    this.kvScales = kvScaleTensors(checkpoint)
    const skipped = [...stringsField(config, "modules_to_not_convert"), ...stringsField(config, "ignored_layers")]
    warnOfSkipped(this.modules, module => skipped.includes(module), warn)
  }

  tensorNames(module: string): readonly string[] {
    return ["weight", "weight_scale_inv", "weight_scale", "input_scale", "activation_scale"]
      .map(suffix => `${module}.${suffix}`)
      .filter(name => this.#checkpoint.has(name))
  }

  async read(module: string): Promise<QuantizedTensor> {
    return (await this.stored(module)).unpacked()
  }

  async stored(module: string): Promise<StoredTensor> {
    const checkpoint = this.#checkpoint
    // transformers and vLLM differ in the name of the activations' scale.
    const input = checkpoint.has(`${module}.activation_scale`) ? "activation_scale" : "input_scale"
    const names = { input: `${module}.${input}` }
    if (!checkpoint.has(`${module}.weight_scale_inv`)) {
      const activations = this.#static ? staticTensor : perToken
      const scale = `${module}.weight_scale`
      return readFloat8(checkpoint, module, { ...names, scale }, { granularity: "tensor" }, activations)
    }
    if (!this.#block)
      throw new TsqError(
        "ERR_FORMAT",
        `${module}: has weight_scale_inv, and quantization_config has no weight_block_size that says what shares a scale`,
      )
    const [blockRows, columns] = this.#block
    return readFloat8(
      checkpoint,
      module,
      { ...names, scale: `${module}.weight_scale_inv` },
      { granularity: "block", blockRows, columns },
      perGroup(columns),
    )
  }
}

function blockSize(value: unknown): [number, number] | null {
  if (value === null) return null
  if (Array.isArray(value) && value.length === 2 && value.every(size => Number.isSafeInteger(size) && size >= 1))
    return value as [number, number]
  throw new TsqError(
    "ERR_FORMAT",
    `quantization_config.weight_block_size is ${describe(value)}, expected [rows, columns], two positive integers`,
  )
}
