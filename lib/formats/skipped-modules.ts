// Configurations that describe a whole file at once: what all modules have in common, and which are left out.
import { isDeepStrictEqual } from "node:util"
import { TsqError } from "../core/errors.ts"
import type { Scheme } from "../core/scheme.ts"
import type { FormatSummary } from "./format.ts"

/** The settings that every module has; ERR_UNSUPPORTED, naming two modules, where they differ. */
export function commonSettings<T>(format: string, { modules }: FormatSummary, settings: (scheme: Scheme) => T): T {
  let first: { module: string; own: T } | null = null
  for (const [module, scheme] of modules) {
    const own = settings(scheme)
    first ??= { module, own }
    if (!isDeepStrictEqual(first.own, own))
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${format} has the same settings for all modules: ${first.module} has ${JSON.stringify(first.own)}, ${module} has ${JSON.stringify(own)}; use compressed-tensors`,
      )
  }
  if (!first)
    throw new TsqError(
      "ERR_FORMAT",
      `no module is quantized, so there is nothing that a configuration of ${format} could describe`,
    )
  return first.own
}

/** Modules to leave alone. Loaders look for each entry anywhere in a module's name, so none may occur in a quantized one's. */
export function notConverted(format: string, summary: FormatSummary, entries = summary.unquantized): string[] {
  const quantized = [...summary.modules.keys()]
  for (const entry of entries) {
    const caught = quantized.find(module => module.includes(entry))
    if (caught)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${format} cannot leave ${entry} unquantized and quantize ${caught}: its loaders match names by their parts; use compressed-tensors`,
      )
  }
  return [...entries]
}

/** Says where a file stores quantized what its configuration lists as left alone. */
export function warnOfSkipped(
  modules: readonly string[],
  skips: (module: string) => boolean,
  warn: (message: string) => void,
): void {
  const module = modules.find(skips)
  if (module !== undefined)
    warn(`${module} is stored quantized although quantization_config lists it as left alone; the tensors are believed`)
}
