// What context fits a given memory: weights, working memory and the cache of keys and values.
import type { ModelProgram } from "../models/program.ts"
import { pagePositions } from "../models/sequence.ts"

/** How keys and values can be cached, and the bits of one value with its share of scales: one 32-bit scale a token and head, two for int4. */
const cachedValues = {
  f32: () => 32,
  f16: () => 16,
  int8: (headDim: number) => 8 + 32 / headDim,
  fp8: (headDim: number) => 8 + 32 / headDim,
  int4: (headDim: number) => 4 + 64 / headDim,
}

export type CacheKind = keyof typeof cachedValues
export const cacheKinds = Object.keys(cachedValues) as CacheKind[]

type Heads = Pick<ModelProgram["config"], "layers" | "kvHeads" | "headDim">

/** Bytes of the keys and values of one token in all layers. */
export function kvBytesPerToken({ layers, kvHeads, headDim }: Heads, kind: CacheKind): number {
  return (2 * layers * kvHeads * headDim * cachedValues[kind](headDim)) / 8
}

export interface MemoryFit {
  /** Bytes given, and the sequences that share them. */
  memory: number
  batch: number
  /** About: of the weights once loaded, and of what steps compute in. */
  weightBytes: number
  workBytes: number
  /** By how keys and values are cached: the most tokens of every sequence, at most the model's context; 0 where not even a page fits. */
  contexts: Record<CacheKind, number>
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
  const contexts = cacheKinds.map(kind => {
    const pages = Math.floor(free / (kvBytesPerToken(config, kind) * batch * pagePositions))
    return [kind, Math.max(0, Math.min(pages * pagePositions, config.maxContext))]
  })
  return { memory, batch, weightBytes, workBytes, contexts: Object.fromEntries(contexts) as MemoryFit["contexts"] }
}
