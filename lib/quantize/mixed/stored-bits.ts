// What a module takes in a file: formats store more than codes and scales (zero points of symmetric weights, group indices, shapes).
import { QuantizedTensor } from "../../core/quantized-tensor.ts"
import { isIntegerScheme, type Scheme } from "../../core/scheme.ts"
import { sharedBytes, sharedFloats } from "../../core/tensor.ts"
import { formatByName } from "../../formats/registry.ts"
import { nearest } from "../../rounding/nearest.ts"
import type { QuantizationJob } from "../job.ts"
import { scaleTypeOf } from "../plan.ts"

/** Bits by shape and scheme, found by writing a weight of zeros once for each; of unquantized modules as the checkpoint has them. */
export async function storedBits(
  job: QuantizationJob,
): Promise<(module: string, shape: readonly [number, number], scheme: Scheme | null) => Promise<number>> {
  const { recipe, program, checkpoint } = job
  const format = formatByName(recipe.format)
  const options = { scaleType: scaleTypeOf(recipe.format, program), gptqVersion: recipe.gptqVersion }
  const known = new Map<string, number>()
  return async (module, shape, scheme) => {
    if (!scheme) return checkpoint.entry(`${module}.weight`).bytes * 8
    const key = JSON.stringify([shape, scheme])
    const found = known.get(key)
    if (found !== undefined) return found
    const parts = await format.write(module, await blank(module, shape, scheme), options)
    const bits = parts.reduce((sum, { data }) => sum + 8 * ("bytes" in data ? data.bytes : data.byteLength), 0)
    known.set(key, bits)
    return bits
  }
}

async function blank(name: string, shape: readonly [number, number], scheme: Scheme): Promise<QuantizedTensor> {
  const [n, k] = shape
  const weight = sharedFloats(n * k)
  if (!isIntegerScheme(scheme))
    return (await nearest.round({ name, weight, n, k, scheme, minZero: 0, options: {} })).tensor
  const groups = Math.ceil(k / scheme.groupSize)
  return new QuantizedTensor({
    scheme,
    shape,
    codes: sharedBytes(n * k),
    scales: sharedFloats(n * groups).fill(1),
    zeros: scheme.symmetric ? null : sharedBytes(n * groups).fill(1),
  })
}
