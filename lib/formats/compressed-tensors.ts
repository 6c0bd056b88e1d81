// compressed-tensors checkpoints (llm-compressor): codes as a dense bit stream a row (pack-quantized), as bytes of int8 or FP8
// (int-quantized, float-quantized, naive-quantized, mxfp8-quantized), or two to a byte (nvfp4-pack-quantized, mxfp4-pack-quantized).
//
// A last group that is shorter than the others is stored like any other (one more scale): the layout holds it, though the
// kernels of vLLM want whole groups; lib/quantize/plan.ts warns.
//
// The library's signed values are our codes minus 2^(bits-1), and it packs value + 2^(bits-1): the packed fields are our codes.
import { TsqError } from "../core/errors.ts"
import type { Scheme } from "../core/scheme.ts"
import { compressedTensorsConfiguration } from "./compressed-tensors-configuration.ts"
import { CompressedTensorsReader } from "./compressed-tensors-reader.ts"
import { activationArguments, formatOf, refusesActivations, storageOf } from "./compressed-tensors-scheme.ts"
import { writeModule } from "./compressed-tensors-writer.ts"
import { staticTensor } from "./float8.ts"
import { type CheckpointFormat, refusesOthers, type TensorTraits, traitsOf } from "./format.ts"
import { plainNames } from "./kv-scales.ts"
import { mxGroup, nvfp4Group, refusesLevels } from "./stored-scales.ts"

const name = "compressed-tensors"

export const compressedTensors: CheckpointFormat = {
  name,

  kvScales: { names: plainNames, shape: [1], settings: { kv_cache_scheme: activationArguments(staticTensor) } },

  detect: config => config.quant_method === "compressed-tensors" || config.quant_method === "compressed_tensors",

  refuses(_module, shape, scheme, traits = {}) {
    const { activations, ...weights } = scheme
    const inputs = activations ? refusesActivations(activations) : null
    if (inputs) return inputs
    if (scheme.codebook !== undefined) return refusesFloats(shape, scheme, traits)
    const other = refusesOthers(name, weights, traits)
    if (other) return other
    if (traits.groupIndex && scheme.granularity !== "group")
      return "compressed-tensors stores reordered columns only with groups"
    return null
  },

  async write(module, tensor, options) {
    const reason = compressedTensors.refuses(module, tensor.shape, tensor.scheme, traitsOf(tensor))
    if (reason) throw new TsqError("ERR_UNSUPPORTED", `${module}: ${reason}`)
    return writeModule(module, tensor, options)
  },

  configuration: compressedTensorsConfiguration,

  reader: (checkpoint, quantizationConfig, warn) => new CompressedTensorsReader(checkpoint, quantizationConfig, warn),
}

function refusesFloats([, k]: readonly [number, number], scheme: Scheme, traits: TensorTraits): string | null {
  const { codebook, granularity, groupSize, scaleType } = scheme
  const format = formatOf(scheme)
  if (format === null)
    return codebook === "e2m1" || codebook === "e4m3"
      ? `${name} stores ${codebook} with ${codebook === "e2m1" ? "scales of FP8 or powers of two (NVFP4, MXFP4)" : "float scales or powers of two"}, not with ${scaleType} scales`
      : `${name} stores codes of e4m3 (FP8) and e2m1 (FP4), not of the code book ${codebook}`
  if (traits.inputScale) return `${name} cannot store a scale per input; fold it into the layer before`
  if (granularity === "flat") return `${name} has no scales of runs across rows`
  if (traits.groupIndex && (storageOf[format] === "nibbles" || granularity !== "group"))
    return `${format} stores no reordered columns`
  if (scaleType !== "levels" && scaleType !== "e8m0") return null
  const columns = scaleType === "levels" ? nvfp4Group : mxGroup
  if (granularity !== "group" || groupSize !== columns || k % columns !== 0)
    return `${format} has a scale for each ${columns} columns, and this tensor has ${k} columns with one for each ${granularity === "group" ? groupSize : granularity}`
  return traits.levels ? refusesLevels(traits.levels, true, format) : null
}
