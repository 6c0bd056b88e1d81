// Perplexity: the exponential of the mean negative log-likelihood of a text's tokens.
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { type Activations, readActivations } from "../kernels/packed-weight.ts"
import type { Model } from "./model.ts"
import { progressOf } from "./progress.ts"
import { scoredTextSize } from "./text-size.ts"
import { WindowScorer } from "./window-scorer.ts"
import { type Protocol, planWindows, protocols, type WindowPlan, wantsSpecial } from "./windows.ts"

export interface PerplexityOptions {
  /** Default "gptq". */
  protocol?: Protocol
  /** Tokens of a window. Default 2048 (gptq) or 512, or the model's context where that is less. */
  window?: number
  /** gptq: tokens from one window to the next, of which only the last `stride` are scored. Default: the window. */
  stride?: number
  /** Default: the model's. */
  activations?: Activations
  /** Name of a loaded LoRA adapter to run with. Default null: none. */
  adapter?: string | null
}

export interface PerplexityResult {
  protocol: Protocol
  /** Tokens scored. */
  tokenCount: number
  /** Mean negative log-likelihood of a token in nats, and its standard error taking tokens as independent. */
  nll: number
  nllStdError: number
  perplexity: number
  /** NLL of the scored tokens in bits, over the UTF-8 bytes and the code points of their text: comparable between tokenizers. null where they have no text. */
  bitsPerByte: number | null
  bitsPerCharacter: number | null
  window: number
  stride: number
  activations: Activations
}

export const perplexityOptionNames = ["protocol", "window", "stride", "activations", "adapter", "signal", "onProgress"]

export async function perplexity(
  model: Model,
  text: string | ArrayLike<number>,
  values?: PerplexityOptions & LongWork,
): Promise<PerplexityResult> {
  const options = new Options("perplexity", values, perplexityOptionNames)
  const signal = options.signal()
  const onProgress = options.onProgress()
  const activations = readActivations(options, model.activations)
  const plan = await planText(model, text, options)
  const scorer = new WindowScorer(model, plan.window, activations, model.adapterOf(options))
  try {
    const scores: Float64Array[] = []
    for await (const windows of batches(plan, scorer.batch, signal, onProgress))
      scores.push(await scorer.nll(windows, plan.first, signal))
    return { ...(await summarizeLikelihood(model, plan, moments(scores, 1, 0), signal)), activations }
  } finally {
    scorer.dispose()
  }
}

/** Windows of a text (or token ids) as the options "protocol", "window" and "stride" ask for. */
export async function planText(model: Model, text: string | ArrayLike<number>, options: Options): Promise<WindowPlan> {
  const protocol = options.oneOf("protocol", protocols, "gptq")
  const window = options.integer("window", { min: 2 }, Math.min(protocol === "gptq" ? 2048 : 512, model.maxContext))
  if (window > model.maxContext)
    throw new TsqError(
      "ERR_OPTION",
      `${options.caller}: window is ${window}, expected at most the context of ${model.maxContext}`,
    )
  const stride = options.integer("stride", { min: 1, max: window }, window)
  const ids = model.checkTokens(
    typeof text === "string" ? await model.tokenizer.encodeAsync(text, { addSpecial: wantsSpecial(protocol) }) : text,
    "ids",
  )
  return planWindows(ids, { protocol, window, stride, bos: model.tokenizer.bosTokenId })
}

export async function summarizeLikelihood(
  model: Model,
  { protocol, window, stride, ...plan }: WindowPlan,
  { mean, stdError, count }: Moments,
  signal: AbortSignal | undefined,
): Promise<Omit<PerplexityResult, "activations">> {
  const size = await scoredTextSize(model.tokenizer, plan, signal)
  const bits = (mean * count) / Math.LN2
  return {
    ...{ protocol, tokenCount: count, nll: mean, nllStdError: stdError, perplexity: Math.exp(mean) },
    bitsPerByte: size.bytes > 0 ? bits / size.bytes : null,
    bitsPerCharacter: size.characters > 0 ? bits / size.characters : null,
    ...{ window, stride },
  }
}

/** The windows of a plan, so many at a time. */
export async function* batches(
  plan: WindowPlan,
  size: number,
  signal: AbortSignal | undefined,
  onProgress: LongWork["onProgress"],
): AsyncGenerator<Int32Array[]> {
  const report = progressOf("evaluate", plan.count, onProgress)
  for (let begin = 0; begin < plan.count; begin += size) {
    throwIfAborted(signal)
    const end = Math.min(begin + size, plan.count)
    yield Array.from({ length: end - begin }, (_, i) => plan.tokens(begin + i))
    report(end)
  }
}

export interface Moments {
  mean: number
  stdError: number
  count: number
}

/** Mean of one column of row-major chunks, and the standard error of that mean. */
export function moments(chunks: readonly Float64Array[], columns: number, column: number): Moments {
  let count = 0
  let sum = 0
  for (const chunk of chunks)
    for (let i = column; i < chunk.length; i += columns) {
      sum += chunk[i]!
      count++
    }
  const mean = sum / count
  let squares = 0
  for (const chunk of chunks) for (let i = column; i < chunk.length; i += columns) squares += (chunk[i]! - mean) ** 2
  return { mean, stdError: count > 1 ? Math.sqrt(squares / (count - 1) / count) : 0, count }
}
