// What a conversion keeps that belongs to no module: settings and scales of the KV cache, between checkpoints of the same format.
import type { FormatName, FormatReader } from "../formats/format.ts"

/** Settings for the target's configuration, and tensors that are left out, of which `warn` is told. */
export function carriedOver(
  reader: FormatReader,
  from: FormatName,
  to: string,
  warn: (message: string) => void,
): { carried: FormatReader["carried"]; left: readonly string[] } {
  if (from === to) return { carried: reader.carried, left: [] }
  const { kvScales = [], carried = {} } = reader
  if (kvScales.length > 0)
    warn(
      `${kvScales.length} scales of a quantized KV cache (${kvScales[0]} …) are left out: they are kept from ${from} to ${from} only; engines run the result with an unquantized cache, or with scales of 1`,
    )
  for (const key of Object.keys(carried))
    warn(`quantization_config.${key} of ${from} has no place in ${to}; it is left out`)
  return { carried: undefined, left: kvScales }
}
