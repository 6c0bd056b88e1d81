// Log-likelihoods of continuations and of texts, as lm-evaluation-harness defines them (lm_eval/api/model.py and
// lm_eval/models/huggingface.py): what its multiple-choice, cloze and perplexity tasks are made of.
import { setImmediate } from "node:timers/promises"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { type Activations, readActivations } from "../kernels/packed-weight.ts"
import type { Model } from "./model.ts"
import { progressOf } from "./progress.ts"
import { type ScoredSequence, type SequenceScores, scoreSequences } from "./sequence-scorer.ts"

export interface LikelihoodOptions extends LongWork {
  /** Default: the model's. */
  activations?: Activations
  /** Name of a loaded LoRA adapter to run with. Default null: none. */
  adapter?: string | null
}

/** Text, or token ids that are taken as they are: without BOS, if none is given. */
export type TextOrIds = string | ArrayLike<number>

export interface LikelihoodRequest {
  /** May be empty: then BOS, or EOS where the tokenizer has no BOS. */
  context: TextOrIds
  /** With the space that parts it from the context. */
  continuation: TextOrIds
}

export interface Likelihood {
  /** Of the whole continuation, in nats: the sum of tokenLogprobs. */
  logprob: number
  /** Whether greedy decoding of the context would have given the continuation. */
  isGreedy: boolean
  /** Of the continuation. */
  tokens: number[]
  tokenLogprobs: number[]
}

const optionNames = ["activations", "adapter", "signal", "onProgress"]
/** Encoding that long keeps the event loop waiting; then others have their turn. */
const turnMs = 5

/**
 * log p(continuation | context) of each request. Context and continuation are encoded as one text and split where the context's own tokens
 * end; spaces at the end of the context go to the continuation first. A context that is too long loses its beginning.
 */
export async function logLikelihoods(
  model: Model,
  requests: readonly LikelihoodRequest[],
  values?: LikelihoodOptions,
): Promise<Likelihood[]> {
  const options = new Options("loglikelihood", values, optionNames)
  const sequences = await encodeAll(requests, options, (request, i) => encodePair(model, request, `requests[${i}]`))
  return (await score(model, sequences, options)).map((scores, i) => {
    const { tokens, from } = sequences[i]!
    return summarize(tokens.subarray(from), scores)
  })
}

/**
 * log p(text) of each text, every token predicted once: the first from BOS (EOS where there is none), the others with as many tokens before
 * them as the context holds (its get_rolling_token_windows with context_len 1). isGreedy is of all tokens.
 */
export async function rollingLogLikelihoods(
  model: Model,
  texts: readonly TextOrIds[],
  values?: LikelihoodOptions,
): Promise<Likelihood[]> {
  const options = new Options("loglikelihoodRolling", values, optionNames)
  const all = await encodeAll(texts, options, async (text, i) => {
    const tokens = await encode(model, text, `texts[${i}]`, false)
    if (tokens.length === 0)
      throw new TsqError("ERR_OPTION", `loglikelihoodRolling: texts[${i}] has no tokens, expected at least one`)
    return tokens
  })
  const windows = all.map(tokens => rollingWindows(tokens, prefixToken(model), model.maxContext))
  const scores = await score(model, windows.flat(), options)
  let next = 0
  return all.map((tokens, i) => {
    const own = scores.slice(next, next + windows[i]!.length)
    next += own.length
    return summarize(tokens, Float64Array.from(own.flatMap(part => [...part])))
  })
}

async function encodeAll<T, Result>(
  items: readonly T[],
  options: Options,
  encodeOne: (item: T, index: number) => Promise<Result>,
): Promise<Result[]> {
  const signal = options.signal()
  const results: Result[] = []
  let turn = performance.now()
  for (const [i, item] of items.entries()) {
    results.push(await encodeOne(item, i))
    if (performance.now() - turn < turnMs) continue
    await setImmediate()
    throwIfAborted(signal)
    turn = performance.now()
  }
  return results
}

function score(model: Model, sequences: readonly ScoredSequence[], options: Options): Promise<SequenceScores[]> {
  const report = progressOf("evaluate", sequences.length, options.onProgress())
  return scoreSequences(model, sequences, {
    activations: readActivations(options, model.activations),
    adapter: model.adapterOf(options),
    signal: options.signal(),
    onDone: done => report(done),
  })
}

function summarize(tokens: Int32Array, scores: SequenceScores): Likelihood {
  const tokenLogprobs = Array.from(tokens, (_, i) => -scores[2 * i]!)
  return {
    logprob: tokenLogprobs.reduce((sum, value) => sum + value, 0),
    isGreedy: tokens.every((_, i) => scores[2 * i + 1] === 1),
    tokens: Array.from(tokens),
    tokenLogprobs,
  }
}

async function encode(model: Model, text: unknown, what: string, addSpecial: boolean): Promise<Int32Array> {
  if (typeof text === "string") return Int32Array.from(await model.tokenizer.encodeAsync(text, { addSpecial }))
  if (typeof text !== "object" || text === null)
    throw new TsqError("ERR_OPTION", `loglikelihood: ${what} is ${describe(text)}, expected a text or token ids`)
  return model.checkTokens(text as ArrayLike<number>, what)
}

async function encodePair(model: Model, request: LikelihoodRequest, what: string): Promise<ScoredSequence> {
  if (typeof request !== "object" || request === null)
    throw new TsqError(
      "ERR_OPTION",
      `loglikelihood: ${what} is ${describe(request)}, expected { context, continuation }`,
    )
  const { context, continuation } = request
  if ((typeof context === "string") !== (typeof continuation === "string"))
    throw new TsqError(
      "ERR_OPTION",
      `loglikelihood: context and continuation of ${what} are ${describe(context)} and ${describe(continuation)}, expected two texts or two lists of token ids`,
    )
  let head: Int32Array
  let tail: Int32Array
  if (typeof context === "string") {
    head = await encode(model, context.trimEnd(), `${what}.context`, true)
    tail = (await encode(model, context + continuation, `${what}.continuation`, true)).subarray(head.length)
  } else {
    head = await encode(model, context, `${what}.context`, true)
    tail = await encode(model, continuation, `${what}.continuation`, true)
  }
  if (head.length === 0) head = Int32Array.of(prefixToken(model))
  if (tail.length === 0)
    throw new TsqError("ERR_OPTION", `loglikelihood: the continuation of ${what} has no tokens, expected at least one`)
  if (tail.length > model.maxContext)
    throw new TsqError(
      "ERR_OPTION",
      `loglikelihood: the continuation of ${what} has ${tail.length} tokens, expected at most the context of ${model.maxContext}`,
    )
  const kept = head.subarray(Math.max(0, head.length + tail.length - model.maxContext - 1))
  return { tokens: joined(kept, tail), from: kept.length }
}

function joined(a: Int32Array, b: Int32Array): Int32Array {
  const all = new Int32Array(a.length + b.length)
  all.set(a)
  all.set(b, a.length)
  return all
}

/** What the first token of a text is predicted from. ERR_UNSUPPORTED where the tokenizer knows neither BOS nor EOS. */
function prefixToken(model: Model): number {
  const token = model.tokenizer.bosTokenId ?? model.config.bosTokenIds[0] ?? model.eosTokenIds[0]
  if (token === undefined)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `loglikelihood: ${model.path} has neither a BOS nor an EOS token to predict the first token of a text from; give a context`,
    )
  return token
}

/** Windows of at most `context` inputs that predict every token once, the later ones with as much before them as fits. */
export function rollingWindows(tokens: Int32Array, prefix: number, context: number): ScoredSequence[] {
  const all = joined(Int32Array.of(prefix), tokens)
  const windows: ScoredSequence[] = []
  for (let predicted = 0; predicted < tokens.length; ) {
    const end = Math.min(predicted + context, tokens.length)
    // all[i + 1] is tokens[i].
    const begin = Math.max(0, end - context)
    windows.push({ tokens: all.subarray(begin, end + 1), from: predicted + 1 - begin })
    predicted = end
  }
  return windows
}
