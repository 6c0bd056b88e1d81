// Scores the ends of token sequences of any length: many as one step, long ones over several, what they share once.
import { throwIfAborted } from "../core/errors.ts"
import { sharedInts } from "../core/tensor.ts"
import type { Activations } from "../kernels/packed-weight.ts"
import type { KvCacheHandle } from "../models/runner.ts"
import { PageAllocator, pagesFor, SequenceCache } from "../models/sequence.ts"
import type { NativeHandle } from "../native.ts"
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
/** Tokens in common that are worth running sequences one after the other. */
const leastShared = 32

export interface SequenceScorerOptions {
  activations?: Activations | undefined
  /** LoRA adapter (Model.adapterOf) to run with. */
  adapter?: NativeHandle | undefined
  signal?: AbortSignal | undefined
  /** Told of every batch: sequences scored so far. */
  onDone?: ((done: number) => void) | undefined
}

/** What all steps have in common. longest: tokens of a sequence, on which rope may depend. */
interface StepOptions {
  model: Model
  activations: Activations
  adapter: NativeHandle | undefined
  longest: number
  signal: AbortSignal | undefined
}

/** Tokens to run through the model after `context` ones of the sequence, and where their scores go. */
interface Piece {
  sequence: SequenceCache
  context: number
  tokens: Int32Array
  /** The first row that is scored; there is one for each target. */
  first: number
  targets: Int32Array
  out: SequenceScores
  /** The sequence goes back behind it: it is not cut, because a cache may keep recent positions in another form than older ones. */
  whole: boolean
}

/** Sequences whose first `shared` tokens are the same. */
interface Group {
  shared: number
  indices: number[]
}

/** In the order of the sequences. What neighbours have in common (the context of several choices) is run once. */
export async function scoreSequences(
  model: Model,
  sequences: readonly ScoredSequence[],
  options: SequenceScorerOptions = {},
): Promise<SequenceScores[]> {
  // Sequences that turn differently (longLength) share no step.
  const limit = model.longLength ?? Number.POSITIVE_INFINITY
  const results = new Array<SequenceScores>(sequences.length)
  let before = 0
  for (const long of [false, true]) {
    const chosen = [...sequences.keys()].filter(i => sequences[i]!.tokens.length - 1 > limit === long)
    if (chosen.length === 0) continue
    const own = chosen.map(i => sequences[i]!)
    const scores = await scoreAlike(model, own, { ...options, onDone: done => options.onDone?.(before + done) })
    chosen.forEach((index, i) => {
      results[index] = scores[i]!
    })
    before += chosen.length
  }
  return results
}

async function scoreAlike(
  model: Model,
  sequences: readonly ScoredSequence[],
  { activations = model.activations, adapter, signal, onDone }: SequenceScorerOptions,
): Promise<SequenceScores[]> {
  const longest = Math.max(...sequences.map(({ tokens }) => tokens.length - 1))
  const step: StepOptions = { model, activations, adapter, longest, signal }
  const results = sequences.map(
    ({ tokens, from }) => new Float64Array(new SharedArrayBuffer(8 * columns * (tokens.length - from))),
  )
  const positionsOf = ({ indices }: Group) => Math.max(...indices.map(index => sequences[index]!.tokens.length - 1))
  const batches = batchesOf(groupsOf(sequences), positionsOf)
  let done = 0
  for (const batch of batches) {
    const pages = batch.reduce((sum, group) => sum + pagesFor(positionsOf(group)), 0)
    const cache = model.createCache(pages, batch.length)
    try {
      const allocator = new PageAllocator(cache.pages, cache.exact)
      const groups = batch.map(group => ({ ...group, sequence: new SequenceCache(allocator) }))
      const run = (pieces: Piece[]) => runPieces(step, cache, pieces)
      const heads = groups.filter(({ shared }) => shared > 0)
      await run(heads.map(group => headOf(group, sequences[group.indices[0]!]!.tokens)))
      const rounds = groups.reduce((most, { indices }) => Math.max(most, indices.length), 0)
      for (let round = 0; round < rounds; round++)
        await run(
          groups
            .filter(({ indices }) => round < indices.length)
            .map(group => tailOf(group, sequences[group.indices[round]!]!, results[group.indices[round]!]!)),
        )
    } finally {
      cache.dispose()
    }
    done += batch.reduce((sum, { indices }) => sum + indices.length, 0)
    onDone?.(done)
  }
  return results
}

const headOf = ({ sequence, shared }: Group & { sequence: SequenceCache }, tokens: Int32Array): Piece => ({
  ...{ sequence, context: 0, tokens: tokens.subarray(0, shared), first: shared, whole: false },
  ...{ targets: new Int32Array(0), out: new Float64Array(0) },
})

const tailOf = (
  { sequence, shared }: Group & { sequence: SequenceCache },
  { tokens, from }: ScoredSequence,
  out: SequenceScores,
): Piece => ({
  ...{ sequence, context: shared, tokens: tokens.subarray(shared, tokens.length - 1), first: from - 1 - shared },
  ...{ targets: tokens.subarray(from), out, whole: shared > 0 },
})

function batchesOf(groups: readonly Group[], positionsOf: (group: Group) => number): Group[][] {
  const batches: Group[][] = []
  let positions = Number.POSITIVE_INFINITY
  for (const group of groups) {
    const size = positionsOf(group)
    if (positions + size > batchPositions) {
      batches.push([])
      positions = 0
    }
    batches.at(-1)!.push(group)
    positions += size
  }
  return batches
}

function groupsOf(sequences: readonly ScoredSequence[]): Group[] {
  const groups: Group[] = []
  sequences.forEach((sequence, index) => {
    const last = groups.at(-1)
    const common = last ? commonTokens(sequences[last.indices.at(-1)!]!, sequence) : 0
    if (last && common > 0 && (last.indices.length === 1 || last.shared === common)) {
      last.shared = common
      last.indices.push(index)
    } else groups.push({ shared: 0, indices: [index] })
  })
  return groups
}

/** Tokens that both begin with, before the row that predicts what is scored of either; 0 where they are few or what follows is longer than a step. */
function commonTokens(a: ScoredSequence, b: ScoredSequence): number {
  const most = Math.min(a.from, b.from) - 1
  let equal = 0
  while (equal < most && a.tokens[equal] === b.tokens[equal]) equal++
  const rest = Math.max(a.tokens.length, b.tokens.length) - 1 - equal
  return equal < leastShared || rest > stepRows ? 0 : equal
}

/** Rows begin ... begin + rows of a piece. */
interface Part {
  piece: Piece
  begin: number
  rows: number
}

/** A piece is cut only where a step is full, so that no step has two parts of one. */
async function runPieces(step: StepOptions, cache: KvCacheHandle, pieces: readonly Piece[]): Promise<void> {
  let parts: Part[] = []
  let rows = 0
  const flush = async () => {
    throwIfAborted(step.signal)
    if (rows > 0) await runParts(step, cache, parts)
    parts = []
    rows = 0
  }
  for (const piece of pieces) {
    if (piece.whole && rows + piece.tokens.length > stepRows) await flush()
    for (let begin = 0; begin < piece.tokens.length; ) {
      const part = { piece, begin, rows: Math.min(stepRows - rows, piece.tokens.length - begin) }
      parts.push(part)
      begin += part.rows
      rows += part.rows
      if (rows === stepRows) await flush()
    }
  }
  await flush()
}

async function runParts(
  { model, activations, adapter, longest, signal }: StepOptions,
  cache: KvCacheHandle,
  parts: readonly Part[],
): Promise<void> {
  const rows = parts.reduce((sum, part) => sum + part.rows, 0)
  const scored = parts.map(({ piece, begin, rows }) => {
    const from = Math.max(begin, piece.first)
    return { from, count: Math.max(0, begin + rows - from) }
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
    runs: model.runs(count > 0, longest),
    rows,
    tokens,
    sequences: parts.map(({ piece: { sequence, context }, begin, rows }) => {
      sequence.advance(context + begin - sequence.length)
      return { ...sequence.next(rows), adapter }
    }),
    cache,
    activations,
    ...(count > 0 && { epilogue: { mode: "score" as const, rows: chosen, targets, values } }),
    signal,
  })
  next = 0
  parts.forEach(({ piece }, i) => {
    const { from, count } = scored[i]!
    piece.out.set(values.subarray(columns * next, columns * (next + count)), columns * (from - piece.first))
    next += count
  })
}
