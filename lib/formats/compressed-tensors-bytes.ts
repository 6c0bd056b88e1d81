// Codes that compressed-tensors stores as bytes (int-quantized, float-quantized, naive-quantized, mxfp8-quantized) or two to a byte
// (nvfp4-pack-quantized, mxfp4-pack-quantized). Facts: vllm-project/compressed-tensors, compressors/{naive_quantized,nvfp4,mxfp4}.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import { type Scheme, storedScales } from "../core/scheme.ts"
import type { StoredTensorInit } from "../core/stored-tensor.ts"
import { expandScales, expectEntry, matrixShape, unsignedCodes } from "./arrays.ts"
import type { ModuleSettings } from "./compressed-tensors-config.ts"
import { readColumnGroups, readScaledScheme, schemeOf } from "./compressed-tensors-scales.ts"
import { readScalar } from "./static-activations.ts"
import { nvfp4Group, nvfp4Scales } from "./stored-scales.ts"

/** A module whose codes are a byte each. */
export async function bytesInit(
  checkpoint: Checkpoint,
  module: string,
  settings: ModuleSettings,
  warn: (message: string) => void,
): Promise<StoredTensorInit> {
  const { codebook } = settings.weights
  const name = `${module}.weight`
  const shape = matrixShape(checkpoint, expectEntry(checkpoint, name, [codebook ? "F8_E4M3" : "I8"]))
  const { scheme, scales } = await readScaledScheme(checkpoint, module, settings, shape)
  return {
    scheme,
    shape,
    codes: checkpoint.mapped(name),
    layout: codebook ? "bytes" : "signed",
    scales,
    zeros: await readZeroPoints(checkpoint, module, scheme, shape),
    groupIndex: await readColumnGroups(checkpoint, module, settings.weights, scheme, shape[1], warn),
  }
}

/** One zero point a stored scale. Old writers store zeros for symmetric weights, in the weight's own type. */
async function readZeroPoints(
  checkpoint: Checkpoint,
  module: string,
  scheme: Scheme,
  shape: readonly [number, number],
): Promise<Uint8Array | null> {
  const name = `${module}.weight_zero_point`
  if (scheme.symmetric) {
    if (checkpoint.has(name) && (await checkpoint.readBytes(name)).some(byte => byte !== 0))
      throw new TsqError(
        "ERR_FORMAT",
        `${checkpoint.directory}: tensor ${name} has zero points other than 0, although quantization_config says that weights are symmetric`,
      )
    return null
  }
  const { bytes } = expectEntry(checkpoint, name, ["I8"])
  const expected = storedScales(scheme, shape)
  if (bytes !== expected)
    throw new TsqError(
      "ERR_SHAPE",
      `${checkpoint.directory}: tensor ${name} has ${bytes} zero points, expected ${expected}, one for each scale`,
    )
  return expandScales(scheme, shape, await unsignedCodes(checkpoint.mapped(name), expected, scheme.bits))
}

/** A module whose codes are two to a byte, the even column in the lower half. */
export async function nibblesInit(
  checkpoint: Checkpoint,
  module: string,
  settings: ModuleSettings,
): Promise<StoredTensorInit> {
  const name = `${module}.weight_packed`
  const [n, half] = matrixShape(checkpoint, expectEntry(checkpoint, name, ["U8"]))
  const shape: [number, number] = [n, 2 * half]
  const codes = { codes: checkpoint.mapped(name), layout: "nibbles" as const, zeros: null }
  if (settings.format === "mxfp4-pack-quantized")
    return { shape, ...codes, ...(await readScaledScheme(checkpoint, module, settings, shape)) }
  const scheme = schemeOf(settings, shape[1], "levels")
  const names = { bytes: `${module}.weight_scale`, global: `${module}.weight_global_scale` }
  const groups = Math.ceil(shape[1] / nvfp4Group)
  expectEntry(checkpoint, names.bytes, ["F8_E4M3"], [n, groups])
  const global = await readScalar(checkpoint, names.global)
  const levels = await nvfp4Scales(await checkpoint.readBytes(names.bytes), [n, groups], global, true, names)
  return { scheme, shape, ...codes, ...levels }
}
