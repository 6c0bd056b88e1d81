// Scales of activations that a file stores, for engines that quantize activations with them.
import type { Checkpoint } from "../containers/checkpoint.ts"
import type { NamedTensor } from "../containers/safetensors-writer.ts"
import { TsqError } from "../core/errors.ts"
import type { ActivationParameters, QuantizedTensor } from "../core/quantized-tensor.ts"
import type { ActivationScheme, FloatScaleType } from "../core/scheme.ts"
import { bytesOf, encodeScales, expectEntry, readScales } from "./arrays.ts"

export interface ActivationNames {
  scale: string
  zero?: string
}

/** The one number of a tensor that has to have one. */
export async function readScalar(checkpoint: Checkpoint, name: string): Promise<number> {
  const { values } = await readScales(checkpoint, name)
  if (values.length !== 1)
    throw new TsqError(
      "ERR_SHAPE",
      `${checkpoint.directory}: tensor ${name} has ${values.length} elements, expected one number for the whole tensor`,
    )
  return values[0] as number
}

/** What `names` store where activations are static; null where nothing needs to be stored. */
export async function readActivation(
  checkpoint: Checkpoint,
  scheme: ActivationScheme | undefined,
  names: ActivationNames,
): Promise<ActivationParameters | null> {
  if (!scheme || scheme.dynamic) return null
  const scale = Float32Array.of(await readScalar(checkpoint, names.scale))
  if (scheme.symmetric || names.zero === undefined) return { scale, zero: null }
  expectEntry(checkpoint, names.zero, ["I8"])
  const bytes = await checkpoint.readBytes(names.zero)
  if (bytes.length !== 1)
    throw new TsqError(
      "ERR_SHAPE",
      `${checkpoint.directory}: tensor ${names.zero} has ${bytes.length} elements, expected 1`,
    )
  return { scale, zero: Int32Array.from(new Int8Array(bytes.buffer, bytes.byteOffset, 1)) }
}

/** The tensors of static activations, in the first of `types` that holds the scale exactly, of this shape; none without them. */
export async function activationTensors(
  { activation }: Pick<QuantizedTensor, "activation">,
  names: ActivationNames,
  types: readonly FloatScaleType[],
  shape: readonly number[],
): Promise<NamedTensor[]> {
  if (!activation) return []
  const encoded = await encodeScales(activation.scale, [...types, "f32"])
  const tensors: NamedTensor[] = [{ name: names.scale, shape, ...(encoded as NonNullable<typeof encoded>) }]
  if (activation.zero && names.zero !== undefined)
    tensors.push({ name: names.zero, dtype: "I8", shape, data: bytesOf(Int8Array.from(activation.zero)) })
  return tensors
}
