// What the storages of compressed-tensors share: the scheme of a module with its scales, and the groups of its columns.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError } from "../core/errors.ts"
import { type Scheme, storedScales } from "../core/scheme.ts"
import { expandScales, expectEntry, readInts, readScales } from "./arrays.ts"
import type { ModuleSettings } from "./compressed-tensors-config.ts"
import type { WeightSettings } from "./compressed-tensors-scheme.ts"
import { readGroupIndex } from "./group-index.ts"
import { powerScales } from "./stored-scales.ts"

/** The scheme of a weight [n, k] whose scales are of a type; nothing is read. */
export function schemeOf({ weights, activations }: ModuleSettings, k: number, scaleType: Scheme["scaleType"]): Scheme {
  const { bits, codebook, symmetric, strategy, groupSize, blockRows } = weights
  return {
    bits,
    symmetric,
    granularity: strategy === "tensor_group" ? "group" : strategy,
    groupSize: groupSize > 0 ? Math.min(groupSize, k) : k,
    ...(strategy === "block" && { blockRows }),
    scaleType,
    ...(codebook && { codebook }),
    ...(activations && { activations }),
  }
}

/** weight_scale, one of a float type or (U8, F8_E8M0) bytes that are powers of two, for each row and group. */
export async function readScaledScheme(
  checkpoint: Checkpoint,
  module: string,
  settings: ModuleSettings,
  shape: readonly [number, number],
): Promise<{ scheme: Scheme; scales: Float32Array }> {
  const name = `${module}.weight_scale`
  const powers = settings.format === "mxfp4-pack-quantized" || settings.format === "mxfp8-quantized"
  if (powers) expectEntry(checkpoint, name, ["U8", "F8_E8M0"])
  const [n, k] = shape
  const stored = powers
    ? { values: await checkpoint.readBytes(name), scaleType: "e8m0" as const }
    : await readScales(checkpoint, name)
  const scheme = schemeOf(settings, k, stored.scaleType)
  const expected = storedScales(scheme, shape)
  if (stored.values.length !== expected)
    throw new TsqError(
      "ERR_SHAPE",
      `${checkpoint.directory}: tensor ${name} has ${stored.values.length} scales, strategy ${settings.weights.strategy} of [${n}, ${k}] needs ${expected}`,
    )
  const groups = Math.ceil(k / scheme.groupSize)
  const scales =
    stored.values instanceof Float32Array
      ? await expandScales(scheme, shape, stored.values)
      : await powerScales(stored.values, [n, groups], name)
  return { scheme, scales }
}

/** weight_g_idx: null where columns are in order. */
export async function readColumnGroups(
  checkpoint: Checkpoint,
  module: string,
  { strategy, ordered }: WeightSettings,
  { groupSize }: Scheme,
  k: number,
  warn: (message: string) => void,
): Promise<Int32Array | null> {
  const name = `${module}.weight_g_idx`
  if (strategy !== "group" || !checkpoint.has(name)) return null
  expectEntry(checkpoint, name, ["I32"], [k])
  const index = await readInts(checkpoint, name)
  // The library fills an index that it never set with -1.
  if (index.every(group => group === -1)) return null
  return readGroupIndex(index, groupSize, Math.ceil(k / groupSize), ordered, name, warn)
}
