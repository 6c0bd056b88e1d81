// The text inside a cache file: what the packed weights are called and what they were made from.
import { isObject } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"
import { packageVersion } from "../core/version.ts"
import type { WeightSummary } from "./model.ts"
import type { SourceFile } from "./pack-sources.ts"

export interface PackMeta {
  /** Of tsq-native: what a version read or packed wrongly must not outlive it. */
  version: string
  /** Options of loading that change how weights are packed. */
  packing: Readonly<Record<string, string>>
  sources: readonly SourceFile[]
  tokenizer: readonly SourceFile[]
  /** Modules, in the order of the file's weights. */
  linears: readonly string[]
  /** Tensors in the order in which the file's floats hold them, and their sizes. */
  vectors: readonly (readonly [name: string, size: number])[]
  summary: WeightSummary
}

export const writeMeta = (meta: Omit<PackMeta, "version">): string =>
  JSON.stringify({ version: packageVersion, ...meta } satisfies PackMeta)

/** The checksums say that a file is as it was written, not who wrote it: everything that is used is checked. ERR_CORRUPT. */
export function readMeta(text: string, weights: number, floats: number): PackMeta {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw wrong("is not JSON", cause)
  }
  if (!isObject(value)) throw wrong("is no object")
  const { version, packing, sources, tokenizer, linears, vectors, summary } = value as Record<string, unknown>
  if (typeof version !== "string" || !isObject(packing)) throw wrong("names no version or way of packing")
  if (!isList(sources, isSource) || !isList(tokenizer, isSource)) throw wrong("names no sources")
  if (!isList(linears, isString) || linears.length !== weights || new Set(linears).size !== weights)
    throw wrong(`does not name the ${weights} weights`)
  if (!isList(vectors, isVector) || vectors.reduce((sum, [, size]) => sum + size, 0) !== floats)
    throw wrong(`does not name vectors of ${floats} elements`)
  if (!isSummary(summary)) throw wrong("has no summary")
  return { version, packing: packing as Record<string, string>, sources, tokenizer, linears, vectors, summary }
}

const wrong = (what: string, cause?: unknown): TsqError =>
  new TsqError("ERR_CORRUPT", `its description ${what}`, { cause })

const isString = (value: unknown): value is string => typeof value === "string"
const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

const isList = <T>(value: unknown, valid: (item: unknown) => item is T): value is T[] =>
  Array.isArray(value) && value.every(valid)

const isSource = (value: unknown): value is SourceFile =>
  isObject(value) &&
  isString(value.name) &&
  isSize(value.bytes) &&
  /^-?\d{1,30}$/.test(String(value.modified)) &&
  isString(value.modified) &&
  isString(value.digest)

const isVector = (value: unknown): value is [string, number] =>
  Array.isArray(value) && value.length === 2 && isString(value[0]) && isSize(value[1])

const isSummary = (value: unknown): value is WeightSummary =>
  isObject(value) &&
  typeof value.bitsPerWeight === "number" &&
  isList(value.quantizedModules, isString) &&
  isList(value.referenceModules, isString) &&
  isList(value.roundedModules, isString) &&
  (value.onLoad === null || isString(value.onLoad)) &&
  isSize(value.bytes)
