// The quantization_config that a compressed-tensors checkpoint is written with: a config group for each scheme, and the ignore list.
import { TsqError } from "../core/errors.ts"
import { activationArguments, formatOf, weightArguments } from "./compressed-tensors-scheme.ts"
import { className } from "./compressed-tensors-targets.ts"
import type { FormatSummary, WriteOptions } from "./format.ts"
import { expertNames, modulePatterns } from "./module-patterns.ts"

/** First release that writes 3, 5, 6 and 7 bits as dense streams, which is what is written here. */
const writtenVersion = "0.17.0"

export function compressedTensorsConfiguration(
  summary: FormatSummary,
  _options: WriteOptions,
): { quantizationConfig: Record<string, unknown>; files: Record<string, unknown> } {
  const byScheme = new Map<string, string[]>()
  for (const [module, scheme] of summary.modules) {
    const key = JSON.stringify({
      weights: weightArguments(scheme),
      input_activations: activationArguments(scheme.activations),
      output_activations: null,
      format: formatOf(scheme),
    })
    byScheme.set(key, [...(byScheme.get(key) ?? []), module])
  }
  if (byScheme.size === 0)
    throw new TsqError(
      "ERR_FORMAT",
      "no module is quantized, so there is nothing that a compressed-tensors configuration could describe",
    )
  const all = [...summary.modules.keys(), ...summary.unquantized]
  const groups = [...byScheme].map(([key, modules]) => {
    const { format, ...settings } = JSON.parse(key) as { format: string }
    const targets =
      byScheme.size === 1
        ? uniformTargets(modules)
        : modulePatterns(modules, all, false).map(pattern => `re:${pattern}`)
    return { format, group: { targets, ...settings } }
  })
  const formats = new Set(groups.map(({ format }) => format))
  const mixed = formats.size > 1
  const { kv_cache_scheme = null } = summary.carried ?? {}
  return {
    quantizationConfig: {
      quant_method: "compressed-tensors",
      format: mixed ? "mixed-precision" : groups[0]?.format,
      quantization_status: "compressed",
      config_groups: Object.fromEntries(
        groups.map(({ format, group }, index) => [`group_${index}`, mixed ? { ...group, format } : group]),
      ),
      // "Linear" would match the head.
      ignore: [
        ...new Set([
          ...summary.unquantized,
          ...expertNames(summary.unquantized),
          ...(summary.modules.has("lm_head") ? [] : ["lm_head"]),
        ]),
      ],
      kv_cache_scheme,
      global_compression_ratio: null,
      version: writtenVersion,
    },
    files: {},
  }
}

/** All linears by their class; an embedding is no linear and is named. */
function uniformTargets(modules: string[]): string[] {
  const embeddings = modules.filter(module => className(module) !== "Linear")
  return embeddings.length < modules.length ? ["Linear", ...embeddings] : embeddings
}
