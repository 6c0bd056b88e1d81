// Modules of FP8 E4M3 with float scales, as fp8, fbgemm_fp8 and ModelOpt checkpoints store them under names and shapes of their own.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { type ActivationScheme, isFloatScale, type Scheme, storedScales } from "../core/scheme.ts"
import { StoredTensor } from "../core/stored-tensor.ts"
import { encodeScales, expandScales, expectEntry, matrixShape, pinned, readScales, storedScalesOf } from "./arrays.ts"
import type { NamedTensor, TensorTraits } from "./format.ts"
import { activationTensors, readActivation } from "./static-activations.ts"

/** Activations whose scales are taken from each token, and such whose one scale is stored. */
export const perToken: ActivationScheme = { type: "e4m3", symmetric: true, dynamic: true, granularity: "token" }
export const staticTensor: ActivationScheme = { type: "e4m3", symmetric: true, dynamic: false, granularity: "tensor" }
export const perGroup = (groupSize: number): ActivationScheme => ({
  type: "e4m3",
  symmetric: true,
  dynamic: true,
  granularity: "group",
  groupSize,
})

export const sameActivations = (a: ActivationScheme | undefined, b: ActivationScheme | undefined): boolean =>
  a === b ||
  (a !== undefined &&
    b !== undefined &&
    a.type === b.type &&
    a.symmetric === b.symmetric &&
    a.dynamic === b.dynamic &&
    a.granularity === b.granularity &&
    a.groupSize === b.groupSize)

/** "e4m3 dynamic per token", for messages. */
export const activationText = (scheme: ActivationScheme | undefined): string =>
  scheme
    ? `${scheme.type} ${scheme.dynamic ? "dynamic" : "static"} per ${scheme.granularity}${scheme.groupSize ? ` of ${scheme.groupSize}` : ""}`
    : "left as they are"

/** Who shares a scale. */
export type ScaleSharing =
  | { granularity: "tensor" | "channel" }
  | { granularity: "block"; blockRows: number; columns: number }

/** Why a tensor is no FP8 E4M3 with float scales; null when it is. */
export function refusesFloat8(format: string, { codebook, scaleType }: Scheme, traits: TensorTraits): string | null {
  if (codebook !== "e4m3")
    return `${format} stores FP8 E4M3, not ${codebook ? `codes of ${codebook}` : "whole numbers"}`
  if (!isFloatScale(scaleType))
    return `${format} stores float scales, not ${scaleType === "e8m0" ? "powers of two" : "levels"}`
  if (traits.groupIndex) return `${format} stores no reordered columns`
  if (traits.inputScale) return `${format} cannot store a scale per input; fold it into the layer before`
  return null
}

/** Modules with a weight of FP8 (or another type) and a scale of one of these names, in the checkpoint's order. */
export function scaledModules(checkpoint: Checkpoint, dtypes: readonly string[], scales: readonly string[]): string[] {
  return checkpoint.names
    .filter(name => name.endsWith(".weight") && dtypes.includes(checkpoint.entry(name).dtype))
    .map(name => name.slice(0, -".weight".length))
    .filter(module => scales.some(scale => checkpoint.has(`${module}.${scale}`)))
}

/** A module; `activations` static: with the scale named `input`. */
export async function readFloat8(
  checkpoint: Checkpoint,
  module: string,
  names: { scale: string; input: string },
  sharing: ScaleSharing,
  activations: ActivationScheme | undefined,
): Promise<StoredTensor> {
  const weight = `${module}.weight`
  const shape = matrixShape(checkpoint, expectEntry(checkpoint, weight, ["F8_E4M3"]))
  const { values, scaleType } = await readScales(checkpoint, names.scale)
  const scheme: Scheme = {
    bits: 8,
    symmetric: true,
    ...(sharing.granularity === "block"
      ? { granularity: "block", blockRows: sharing.blockRows, groupSize: Math.min(sharing.columns, shape[1]) }
      : { granularity: sharing.granularity, groupSize: shape[1] }),
    scaleType,
    codebook: "e4m3",
    ...(activations && { activations }),
  }
  const expected = storedScales(scheme, shape)
  if (values.length !== expected)
    throw new TsqError(
      "ERR_SHAPE",
      `${checkpoint.directory}: tensor ${names.scale} has ${values.length} scales, expected ${expected} for ${weight} [${shape.join(", ")}] with one for each ${sharing.granularity}; its quantization_config does not describe it`,
    )
  return new StoredTensor({
    scheme,
    shape,
    codes: checkpoint.mapped(weight),
    layout: "bytes",
    scales: await expandScales(scheme, shape, values),
    zeros: null,
    activation: await readActivation(checkpoint, activations, { scale: names.input }),
  })
}

/** The tensors of a module that the format holds; `shape` is that of its scales: f32, but those of blocks in their own type (Qwen's are bf16). */
export async function writeFloat8(
  module: string,
  tensor: QuantizedTensor,
  scale: { name: string; shape: readonly number[] },
): Promise<NamedTensor[]> {
  const stored = await storedScalesOf(tensor)
  if (!stored)
    throw new TsqError("ERR_FORMAT", `${module}: scales differ where its scheme says that rows or groups share them`)
  const { granularity, scaleType } = tensor.scheme
  const own = granularity === "block" && isFloatScale(scaleType) ? [scaleType] : []
  const encoded = await encodeScales(stored, [...own, "f32"])
  return [
    { name: `${module}.weight`, dtype: "F8_E4M3", shape: [...tensor.shape], data: pinned(tensor.codes) },
    { name: `${module}.${scale.name}`, shape: scale.shape, ...(encoded as NonNullable<typeof encoded>) },
    ...(await activationTensors(tensor, { scale: `${module}.input_scale` }, ["f32"], [])),
  ]
}
