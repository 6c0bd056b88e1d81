// What context fits a given memory: weights, working memory and the cache of keys and values.
import { Options } from "../core/options.ts"
import { type KvCacheSettings, type KvType, kvCacheBytes, kvFormat, kvTypes, readKvCache } from "../models/kv-cache.ts"
import type { ModelConfig, ModelProgram } from "../models/program.ts"
import { pagePositions } from "../models/sequence.ts"

/** One value for each type that loadModel's option kvCache names. */
export const forTypes = (value: (type: KvType) => number): Record<KvType, number> =>
  Object.fromEntries(kvTypes.map(type => [type, value(type)])) as Record<KvType, number>

/** Bytes of the keys and values of `batch` sequences of `tokens` each, with what the type keeps in 16 bits. */
export function kvBytes(config: ModelConfig, type: KvType, tokens: number, batch: number): number {
  const settings = readKvCache(new Options("inspectModel", { kvCache: type }, ["kvCache"]))
  return kvCacheBytes(config, kvFormat(settings as KvCacheSettings, config), tokens, batch)
}

/** Bytes that one more token takes in all layers. */
export function kvBytesPerToken(config: ModelConfig, type: KvType): number {
  const bytes = (pages: number) => kvBytes(config, type, pages * pagePositions, 1)
  return (bytes(2) - bytes(1)) / pagePositions
}

export interface MemoryFit {
  /** Bytes given, and the sequences that share them. */
  memory: number
  batch: number
  /** About: of the weights once loaded, and of what steps compute in. */
  weightBytes: number
  workBytes: number
  /** By how keys and values are cached: the most tokens of every sequence, at most the model's context; 0 where not even a page fits. */
  contexts: Record<KvType, number>
}

/** Rows of a step, and what logits of one chunk take at most. */
const stepRows = 2048
const logitBytes = 2 ** 25

export function fitMemory(
  { config, slots }: ModelProgram,
  weightBytes: number,
  { memory, batch }: { memory: number; batch: number },
): MemoryFit {
  const workBytes = 4 * stepRows * slots.reduce((sum, width) => sum + width, 0) + logitBytes
  const free = memory - weightBytes - workBytes
  const contexts = forTypes(type => {
    let [fits, fails] = [0, Math.ceil(config.maxContext / pagePositions) + 1]
    while (fails - fits > 1) {
      const pages = (fits + fails) >> 1
      if (kvBytes(config, type, pages * pagePositions, batch) <= free) fits = pages
      else fails = pages
    }
    return Math.min(fits * pagePositions, config.maxContext)
  })
  return { memory, batch, weightBytes, workBytes, contexts }
}
