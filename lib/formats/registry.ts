// The checkpoint formats by name, and which one a configuration declares.
import { describe } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"
import { awq } from "./awq.ts"
import { bitsandbytes } from "./bitsandbytes.ts"
import { compressedTensors } from "./compressed-tensors.ts"
import { fbgemmFp8 } from "./fbgemm-fp8.ts"
import type { CheckpointFormat } from "./format.ts"
import { fp8 } from "./fp8.ts"
import { gptq } from "./gptq.ts"
import { marlin } from "./marlin.ts"
import { modelopt } from "./modelopt.ts"

export const formats: readonly CheckpointFormat[] = [
  gptq,
  awq,
  compressedTensors,
  bitsandbytes,
  marlin,
  fp8,
  fbgemmFp8,
  modelopt,
]

const names = formats.map(format => format.name).join(", ")

/** ERR_OPTION for a name that is none. */
export function formatByName(name: string): CheckpointFormat {
  const format = formats.find(candidate => candidate.name === name)
  if (!format) throw new TsqError("ERR_OPTION", `format is ${describe(name)}, expected one of ${names}`)
  return format
}

/** The format that a quantization_config declares; null without one. ERR_UNSUPPORTED for a method that is not read. */
export function detectFormat(quantizationConfig: Record<string, unknown> | null): CheckpointFormat | null {
  if (quantizationConfig === null) return null
  const format = formats.find(candidate => candidate.detect(quantizationConfig))
  if (!format)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `quantization_config.quant_method is ${describe(quantizationConfig.quant_method)}; quantized checkpoints of ${names} are read`,
    )
  return format
}
