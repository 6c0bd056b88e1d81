// Checkpoints with quant_method "fbgemm_fp8": FP8 E4M3 with a scale for each output, activations quantized by token up to a bound.
// Facts: vllm-project/vllm, layers/quantization/fbgemm_fp8.py; huggingface/transformers, integrations/fbgemm_fp8.py.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { StoredTensor } from "../core/stored-tensor.ts"
import { stringsField } from "./config-fields.ts"
import {
  activationText,
  perToken,
  readFloat8,
  refusesFloat8,
  sameActivations,
  scaledModules,
  writeFloat8,
} from "./float8.ts"
import { type CheckpointFormat, type FormatReader, type FormatSummary, traitsOf } from "./format.ts"
import { commonSettings, notConverted, warnOfSkipped } from "./skipped-modules.ts"

const name = "fbgemm_fp8"
/** transformers' default of the largest activation that is told apart. */
const defaultBound = 1200

export const fbgemmFp8: CheckpointFormat = {
  name,

  detect: config => config.quant_method === name,

  refuses(_module, _shape, scheme, traits = {}) {
    const other = refusesFloat8(name, scheme, traits)
    if (other) return other
    if (scheme.granularity !== "channel")
      return `${name} has a scale for each output, not for each ${scheme.granularity}; use fp8 or compressed-tensors`
    return sameActivations(scheme.activations, perToken)
      ? null
      : `${name} has activations ${activationText(perToken)}, and those of this tensor are ${activationText(scheme.activations)}; use compressed-tensors`
  },

  async write(module, tensor) {
    const reason = fbgemmFp8.refuses(module, tensor.shape, tensor.scheme, traitsOf(tensor))
    if (reason) throw new TsqError("ERR_UNSUPPORTED", `${module}: ${reason}`)
    return writeFloat8(module, tensor, { name: "weight_scale", shape: [tensor.shape[0], 1] })
  },

  configuration(summary: FormatSummary) {
    commonSettings(name, summary, () => null)
    return {
      quantizationConfig: {
        quant_method: name,
        activation_scale_ub: defaultBound,
        ...summary.carried,
        modules_to_not_convert: notConverted(name, summary),
      },
      files: {},
    }
  },

  reader: (checkpoint, quantizationConfig, warn) => new FbgemmReader(checkpoint, quantizationConfig, warn),
}

class FbgemmReader implements FormatReader {
  readonly modules: readonly string[]
  readonly carried: Readonly<Record<string, unknown>>
  readonly #checkpoint: Checkpoint

  constructor(checkpoint: Checkpoint, config: Record<string, unknown>, warn: (message: string) => void) {
    this.#checkpoint = checkpoint
    this.modules = scaledModules(checkpoint, ["F8_E4M3"], ["weight_scale"])
    const { activation_scale_ub } = config
    this.carried = activation_scale_ub === undefined ? {} : { activation_scale_ub }
    const skipped = stringsField(config, "modules_to_not_convert")
    warnOfSkipped(this.modules, module => skipped.includes(module), warn)
  }

  /** Some files hold the bound beside each module; the configuration has it. */
  tensorNames(module: string): readonly string[] {
    return ["weight", "weight_scale", "input_scale_ub"]
      .map(suffix => `${module}.${suffix}`)
      .filter(name => this.#checkpoint.has(name))
  }

  async read(module: string): Promise<QuantizedTensor> {
    return (await this.stored(module)).unpacked()
  }

  stored(module: string): Promise<StoredTensor> {
    const names = { scale: `${module}.weight_scale`, input: `${module}.input_scale` }
    return readFloat8(this.#checkpoint, module, names, { granularity: "channel" }, perToken)
  }
}
