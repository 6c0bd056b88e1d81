// Scores the ends of token sequences of any length: many as one step, long ones over several, what they share once.
import { throwIfAborted } from "../core/errors.ts"
import { sharedInts } from "../core/tensor.ts"
import type { Activations } from "../kernels/packed-weight.ts"
import type { KvCacheHandle } from "../models/runner.ts"
import { PageAllocator, pagePositions, pagesFor } from "../models/sequence.ts"
import type { Model } from "./model.ts"

/** A sequence of at least two tokens, of which those from `from` (1 at least) on are scored. Its last token is never run: context + 1 fit. */
export interface ScoredSequence {
  tokens: Int32Array
  from: number
}

/** [tokens.length - from, 2]: NLL of the token in nats, 1 where it is the most likely one. */
export type SequenceScores = Float64Array

/** Values of a scored token. */
const columns = 2
/** Rows of a step, and positions of the cache that sequences are taken together in. */
const stepRows = 2048
const batchPositions = 16384

export interface SequenceScorerOptions {
  activations?: Activations | undefined
  signal?: AbortSignal | undefined
  /** Told of every batch: sequences scored so far. */
  onDone?: ((done: number) => void) | undefined
}

/** Tokens to run through the model after `context` ones whose pages hold them, and where their scores go. */
interface Piece {
  tokens: Int32Array
  context: number
  pages: readonly number[]
  /** Rows from the first that is scored on, one for each target. */
  first: number
  targets: Int32Array
  out: Float64Array | null
}

/** Sequences that begin with the same whole pages of the cache. */
interface Group {
  shared: number
  indices: number[]
}

/** In the order of the sequences. Neighbours that share a long beginning (the choices of one question) run it once. */
export async function scoreSequences(
  model: Model,
  sequences: readonly ScoredSequence[],
  { activations = model.activations, signal, onDone }: SequenceScorerOptions = {},
): Promise<SequenceScores[]> {
  const results = sequences.map(
    ({ tokens, from }) => new Float64Array(new SharedArrayBuffer(8 * columns * (tokens.length - from))),
  )
  const batches = batchesOf(sequences)
  const pages = batches.reduce(
    (most, batch) =>
      Math.max(
        most,
        batch.reduce((sum, group) => sum + pagesOf(group, sequences), 0),
      ),
    0,
  )
  if (pages === 0) return results
  const cache = model.createCache(pages)
  let done = 0
  try {
    for (const batch of batches) {
      const allocator = new PageAllocator(cache.pages)
      const take = (positions: number) => Array.from({ length: pagesFor(positions) }, () => allocator.allocate())
      const [heads, tails]: [Piece[], Piece[]] = [[], []]
      for (const { shared, indices } of batch) {
        const common = take(shared)
        if (shared > 0) heads.push({ ...unscored(sequences[indices[0]!]!.tokens.subarray(0, shared)), pages: common })
        for (const index of indices) {
          const { tokens, from } = sequences[index]!
          tails.push({
            tokens: tokens.subarray(shared, tokens.length - 1),
            context: shared,
            pages: [...common, ...take(tokens.length - 1 - shared)],
            first: from - 1 - shared,
            targets: tokens.subarray(from),
            out: results[index]!,
          })
        }
      }
      const run = (pieces: readonly Piece[]) => runPieces(model, cache, pieces, activations, signal)
      await run(heads)
      await run(tails)
      done += batch.reduce((sum, { indices }) => sum + indices.length, 0)
      onDone?.(done)
    }
  } finally {
    cache.dispose()
  }
  return results
}

const unscored = (tokens: Int32Array) => ({
  ...{ tokens, context: 0, first: tokens.length, targets: new Int32Array(0), out: null },
})

const pagesOf = ({ shared, indices }: Group, sequences: readonly ScoredSequence[]): number =>
  indices.reduce((sum, index) => sum + pagesFor(sequences[index]!.tokens.length - 1 - shared), pagesFor(shared))

function batchesOf(sequences: readonly ScoredSequence[]): Group[][] {
  const batches: Group[][] = []
  let positions = Number.POSITIVE_INFINITY
  for (const group of groupsOf(sequences)) {
    const size = pagesOf(group, sequences) * pagePositions
    if (positions + size > batchPositions) {
      batches.push([])
      positions = 0
    }
    batches.at(-1)!.push(group)
    positions += size
  }
  return batches
}

/** Whole pages only: a page belongs to one sequence or is not written any more. */
function groupsOf(sequences: readonly ScoredSequence[]): Group[] {
  const groups: Group[] = []
  sequences.forEach((sequence, index) => {
    const last = groups.at(-1)
    const before = last && sequences[last.indices.at(-1)!]!
    const common = before ? commonPages(before, sequence) : 0
    if (last && common > 0 && (last.indices.length === 1 || last.shared === common)) {
      last.shared = common
      last.indices.push(index)
    } else groups.push({ shared: 0, indices: [index] })
  })
  return groups
}

/** Positions of the whole pages that both begin with, before what is scored of either. */
function commonPages(a: ScoredSequence, b: ScoredSequence): number {
  const most = Math.min(a.from, b.from) - 1
  let equal = 0
  while (equal < most && a.tokens[equal] === b.tokens[equal]) equal++
  return Math.floor(equal / pagePositions) * pagePositions
}

/** Rows begin ... begin + rows of a piece. */
interface Part {
  piece: Piece
  begin: number
  rows: number
}

/** A piece is cut only where a step is full, so that no step has two parts of one. */
async function runPieces(
  model: Model,
  cache: KvCacheHandle,
  pieces: readonly Piece[],
  activations: Activations,
  signal: AbortSignal | undefined,
): Promise<void> {
  let parts: Part[] = []
  let rows = 0
  const flush = async () => {
    throwIfAborted(signal)
    if (rows > 0) await runParts(model, cache, parts, activations, signal)
    parts = []
    rows = 0
  }
  for (const piece of pieces)
    for (let begin = 0; begin < piece.tokens.length; ) {
      const part = { piece, begin, rows: Math.min(stepRows - rows, piece.tokens.length - begin) }
      parts.push(part)
      begin += part.rows
      rows += part.rows
      if (rows === stepRows) await flush()
    }
  await flush()
}

async function runParts(
  model: Model,
  cache: KvCacheHandle,
  parts: readonly Part[],
  activations: Activations,
  signal: AbortSignal | undefined,
): Promise<void> {
  const rows = parts.reduce((sum, part) => sum + part.rows, 0)
  const scored = parts.map(({ piece, begin, rows }) => {
    const from = Math.max(begin, piece.first)
    return { from, count: piece.out ? Math.max(0, begin + rows - from) : 0 }
  })
  const count = scored.reduce((sum, { count }) => sum + count, 0)
  const [tokens, chosen, targets] = [sharedInts(rows), sharedInts(count), sharedInts(count)]
  let [row, next] = [0, 0]
  parts.forEach(({ piece, begin, rows }, i) => {
    tokens.set(piece.tokens.subarray(begin, begin + rows), row)
    const { from, count } = scored[i]!
    targets.set(piece.targets.subarray(from - piece.first, from - piece.first + count), next)
    for (let j = 0; j < count; j++) chosen[next++] = row + from - begin + j
    row += rows
  })
  const values = new Float64Array(new SharedArrayBuffer(8 * columns * count))
  await model.step({
    runs: model.runs(count > 0),
    rows,
    tokens,
    sequences: parts.map(({ piece, begin, rows }) => ({ rows, context: piece.context + begin, pages: piece.pages })),
    cache,
    activations,
    ...(count > 0 && { epilogue: { mode: "score" as const, rows: chosen, targets, values } }),
    signal,
  })
  next = 0
  parts.forEach(({ piece }, i) => {
    const { from, count } = scored[i]!
    piece.out?.set(values.subarray(columns * next, columns * (next + count)), columns * (from - piece.first))
    next += count
  })
}
