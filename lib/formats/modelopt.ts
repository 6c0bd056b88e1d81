// ModelOpt checkpoints (NVIDIA): FP8 with a scale for the tensor, each output or each block, and NVFP4, whose global scale (weight_scale_2) is
// a multiplier where compressed-tensors has a divisor.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { StoredTensor } from "../core/stored-tensor.ts"
import { bytesOf, expectEntry, matrixShape, packNibbles, pinned } from "./arrays.ts"
import { perToken, readFloat8, refusesFloat8, scaledModules, staticTensor, writeFloat8 } from "./float8.ts"
import { type CheckpointFormat, type FormatReader, type NamedTensor, traitsOf } from "./format.ts"
import { kvScaleTensors, projectionNames } from "./kv-scales.ts"
import {
  algorithmOf,
  blockSize,
  isModelopt,
  localGroups,
  ModeloptConfig,
  modeloptConfiguration,
} from "./modelopt-config.ts"
import { warnOfSkipped } from "./skipped-modules.ts"
import { readActivation, readScalar } from "./static-activations.ts"
import { globalScale, nvfp4Group, nvfp4Scales, nvfp4Scheme, refusesLevels } from "./stored-scales.ts"

export const modelopt: CheckpointFormat = {
  name: "modelopt",

  kvScales: { names: projectionNames, shape: [], settings: { kv_cache_quant_algo: "FP8" } },

  detect: isModelopt,

  refuses(_module, [n, k], scheme, traits = {}) {
    const algorithm = algorithmOf(scheme)
    if (algorithm?.includes("NVFP4")) {
      if (traits.groupIndex || traits.inputScale)
        return `modelopt stores no ${traits.groupIndex ? "reordered columns" : "scale per input"}`
      if (scheme.granularity !== "group" || scheme.groupSize !== nvfp4Group || k % nvfp4Group !== 0)
        return `${algorithm} has a scale for each ${nvfp4Group} columns, and this tensor has ${k} columns with one for each ${scheme.groupSize}`
      return traits.levels ? refusesLevels(traits.levels, false, "modelopt") : null
    }
    const other = scheme.codebook === "e2m1" ? null : refusesFloat8("modelopt", scheme, traits)
    if (other) return other
    if (algorithm === null)
      return "modelopt has FP8 for the tensor with static activations, for each output with activations per token, or in blocks without any, and NVFP4; use compressed-tensors"
    if (
      algorithm === "FP8_PB_WO" &&
      [scheme.blockRows, scheme.groupSize, n, k].some(size => (size as number) % blockSize !== 0)
    )
      return `${algorithm} has whole blocks of ${blockSize} by ${blockSize}, and this tensor is [${n}, ${k}] in blocks of ${scheme.blockRows} by ${scheme.groupSize}`
    return null
  },

  async write(module, tensor) {
    const reason = modelopt.refuses(module, tensor.shape, tensor.scheme, traitsOf(tensor))
    if (reason) throw new TsqError("ERR_UNSUPPORTED", `${module}: ${reason}`)
    if (tensor.levels) return writeNvfp4(module, tensor)
    return writeFloat8(module, tensor, { name: "weight_scale", shape: scaleShape(tensor) })
  },

  configuration: modeloptConfiguration,

  reader: (checkpoint, quantizationConfig, warn) => new ModeloptReader(checkpoint, quantizationConfig, warn),
}

function scaleShape({ scheme, shape: [n, k] }: QuantizedTensor): number[] {
  if (scheme.granularity === "tensor") return []
  return scheme.granularity === "channel" ? [n] : [n / blockSize, 1, k / blockSize, 1]
}

async function writeNvfp4(module: string, tensor: QuantizedTensor): Promise<NamedTensor[]> {
  const { shape, groups, codes, activation } = tensor
  const [n, k] = shape
  const levels = tensor.levels as NonNullable<typeof tensor.levels>
  const one = (name: string, value: number): NamedTensor => ({
    name: `${module}.${name}`,
    dtype: "F32",
    shape: [],
    data: bytesOf(Float32Array.of(value)),
  })
  const tensors: NamedTensor[] = [
    { name: `${module}.weight`, dtype: "U8", shape: [n, k / 2], data: await packNibbles(codes, n * k) },
    { name: `${module}.weight_scale`, dtype: "F8_E4M3", shape: [n, groups], data: pinned(levels.codes) },
    one("weight_scale_2", globalScale(levels, false) as number),
  ]
  if (!activation) return tensors
  const input = globalScale({ ...levels, supers: activation.scale }, false)
  if (input === null)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${module}: its activations are divided by a global scale, and modelopt multiplies with one: no number of f32 does the same`,
    )
  return [...tensors, one("input_scale", input)]
}

class ModeloptReader implements FormatReader {
  readonly modules: readonly string[]
  readonly carried: Readonly<Record<string, unknown>>
  readonly kvScales: readonly string[]
  readonly #checkpoint: Checkpoint
  readonly #config: ModeloptConfig

  constructor(checkpoint: Checkpoint, config: Record<string, unknown>, warn: (message: string) => void) {
    this.#checkpoint = checkpoint
    this.#config = new ModeloptConfig(config)
    this.modules = scaledModules(checkpoint, ["F8_E4M3", "U8"], ["weight_scale"])
    this.kvScales = kvScaleTensors(checkpoint)
    this.carried = this.#config.kvCache === null ? {} : { kv_cache_quant_algo: this.#config.kvCache }
    warnOfSkipped(this.modules, module => this.#config.excludes(module), warn)
  }

  tensorNames(module: string): readonly string[] {
    return ["weight", "weight_scale", "weight_scale_2", "input_scale"]
      .map(suffix => `${module}.${suffix}`)
      .filter(name => this.#checkpoint.has(name))
  }

  async read(module: string): Promise<QuantizedTensor> {
    return (await this.stored(module)).unpacked()
  }

  stored(module: string): Promise<StoredTensor> {
    const checkpoint = this.#checkpoint
    const names = { scale: `${module}.weight_scale`, input: `${module}.input_scale` }
    switch (this.#config.algorithm) {
      case "FP8":
        return readFloat8(checkpoint, module, names, { granularity: "tensor" }, staticTensor)
      case "FP8_PER_CHANNEL_PER_TOKEN":
        return readFloat8(checkpoint, module, names, { granularity: "channel" }, perToken)
      case "FP8_PB_WO": {
        const sharing = { granularity: "block", blockRows: blockSize, columns: blockSize } as const
        return readFloat8(checkpoint, module, names, sharing, undefined)
      }
      default:
        return this.#nvfp4(module)
    }
  }

  async #nvfp4(module: string): Promise<StoredTensor> {
    const checkpoint = this.#checkpoint
    const weight = `${module}.weight`
    const [n, half] = matrixShape(checkpoint, expectEntry(checkpoint, weight, ["U8"]))
    const k = 2 * half
    const groups = Math.ceil(k / nvfp4Group)
    const names = { bytes: `${module}.weight_scale`, global: `${module}.weight_scale_2` }
    expectEntry(checkpoint, names.bytes, ["F8_E4M3"], [n, groups])
    const global = await readScalar(checkpoint, names.global)
    const activations = this.#config.algorithm === "NVFP4" ? localGroups : undefined
    return new StoredTensor({
      scheme: { ...nvfp4Scheme(k), ...(activations && { activations }) },
      shape: [n, k],
      codes: checkpoint.mapped(weight),
      layout: "nibbles",
      zeros: null,
      ...(await nvfp4Scales(await checkpoint.readBytes(names.bytes), [n, groups], global, false, names)),
      activation: await readActivation(checkpoint, activations, { scale: `${module}.input_scale` }),
    })
  }
}
