// Generation: a prompt's tokens in, one sampled token after another out.
import { randomInt } from "node:crypto"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import { sharedInts } from "../core/tensor.ts"
import { type Activations, readActivations } from "../kernels/packed-weight.ts"
import type { GenerationDefaults } from "../models/generation-config.ts"
import { PageAllocator, pagesFor, SequenceCache } from "../models/sequence.ts"
import type { NativeHandle, StepSampling } from "../native.ts"
import type { Model } from "./model.ts"
import { StopStrings } from "./stop-strings.ts"

export interface GenerateOptions {
  /** New tokens at most. Default: generation_config.json's max_new_tokens, else 256. Never more than the context has room for. */
  maxTokens?: number
  /** 0: greedy. This and the next four default to generation_config.json (greedy unless do_sample is true there). */
  temperature?: number
  /** Only the k most likely tokens; 0: all. */
  topK?: number
  /** Only the most likely tokens that together reach this probability; 1: all. */
  topP?: number
  /** Only tokens at least this probable relative to the most likely one; 0: all. */
  minP?: number
  /** Divides positive and multiplies negative logits of tokens in the prompt and the text so far; 1: off. */
  repetitionPenalty?: number
  /** Same seed, prompt and options: same text. Default: random. */
  seed?: number
  /** Text ends before the first of these. */
  stop?: string | readonly string[]
  /** Go on after an end-of-sequence token. */
  ignoreEos?: boolean
  /** A string prompt is encoded with the tokenizer's BOS. Default true; false for rendered chat templates. */
  addSpecial?: boolean
  /** Default: the model's. */
  activations?: Activations
  /** Name of a loaded LoRA adapter (Model.loadAdapter) to run with. Default null: none. */
  adapter?: string | null
  signal?: AbortSignal
}

/** One token, and the text that it completes: often a word, empty while a character or a stop string is undecided. */
export interface GenerationChunk {
  token: number
  text: string
}

export interface GenerationResult {
  /** Without special tokens, up to the stop string. */
  text: string
  /** Every token sampled, an end-of-sequence token included. */
  tokens: number[]
  promptTokens: number
  newTokens: number
  /** Prompt tokens by the time until the first new token was there. */
  prefillTokensPerSecond: number
  /** Further new tokens by the time they took; 0 where there are none. */
  decodeTokensPerSecond: number
  /** An end-of-sequence token, a stop string, maxTokens reached, or the context full. */
  finishReason: "eos" | "stop" | "length" | "context"
  seed: number
}

/** Options with everything filled in. */
export interface GenerationSettings {
  maxTokens: number
  sampling: Omit<StepSampling, "position" | "history">
  stops: readonly string[]
  ignoreEos: boolean
  addSpecial: boolean
  activations: Activations
  adapter: NativeHandle | undefined
  signal: AbortSignal | undefined
}

/** Prompt tokens that one step takes; bounds the memory of the slots and the time until an abort is seen. */
export const prefillRows = 512
const defaultMaxTokens = 256

const optionNames = [
  "maxTokens",
  "temperature",
  "topK",
  "topP",
  "minP",
  "repetitionPenalty",
  "seed",
  "stop",
  "ignoreEos",
  "addSpecial",
  "activations",
  "adapter",
  "signal",
]

export function parseGenerateOptions(
  values: GenerateOptions | undefined,
  defaults: GenerationDefaults,
  activations: Activations,
  adapterOf: (options: Options) => NativeHandle | undefined,
): GenerationSettings {
  const options = new Options("generate", values, optionNames)
  return {
    maxTokens: options.integer("maxTokens", { min: 1 }, defaults.maxTokens ?? defaultMaxTokens),
    sampling: {
      temperature: options.number("temperature", { min: 0 }, defaults.temperature),
      topK: options.integer("topK", { min: 0, max: 2 ** 31 - 1 }, defaults.topK),
      topP: options.number("topP", { min: 0, aboveMin: true, max: 1 }, defaults.topP),
      minP: options.number("minP", { min: 0, max: 1 }, defaults.minP),
      repetitionPenalty: options.number("repetitionPenalty", { min: 0, aboveMin: true }, defaults.repetitionPenalty),
      seed: options.integer("seed", { min: 0 }, undefined) ?? randomInt(2 ** 32),
    },
    stops: parseStops(options),
    ignoreEos: options.boolean("ignoreEos", false),
    addSpecial: options.boolean("addSpecial", true),
    activations: readActivations(options, activations),
    adapter: adapterOf(options),
    signal: options.signal(),
  }
}

function parseStops(options: Options): readonly string[] {
  const value = options.raw("stop")
  if (value === undefined) return []
  const list: unknown[] = Array.isArray(value) ? value : [value]
  if (!list.every(item => typeof item === "string" && item !== ""))
    options.fail("stop", "a string or an array of strings, none of them empty")
  return list as string[]
}

/** A prompt as token ids, checked against the model. ERR_OPTION says what does not fit. */
export function promptTokens(model: Model, prompt: string | ArrayLike<number>, addSpecial: boolean): Int32Array {
  if (typeof prompt !== "string" && (typeof prompt !== "object" || prompt === null || !("length" in prompt)))
    throw new TsqError("ERR_OPTION", `generate: the prompt is ${describe(prompt)}, expected a string or token ids`)
  const ids = model.checkTokens(
    typeof prompt === "string" ? model.tokenizer.encode(prompt, { addSpecial }) : prompt,
    "prompt",
  )
  if (ids.length === 0)
    throw new TsqError(
      "ERR_OPTION",
      "generate: the prompt is empty and the tokenizer adds no BOS token; give at least one token",
    )
  if (ids.length >= model.maxContext)
    throw new TsqError(
      "ERR_OPTION",
      `generate: the prompt has ${ids.length} tokens and the context is ${model.maxContext}: no room for a new one; shorten the prompt`,
    )
  return ids
}

/** Yields a chunk for every token; returns the whole. Frees its part of the KV cache when it ends or is left. */
export async function* generateTokens(
  model: Model,
  prompt: Int32Array,
  settings: GenerationSettings,
): AsyncGenerator<GenerationChunk, GenerationResult, undefined> {
  const { activations, adapter, sampling, signal } = settings
  const limit = Math.min(settings.maxTokens, model.maxContext - prompt.length)
  const cache = model.createCache(pagesFor(prompt.length + limit))
  try {
    let sequence = new SequenceCache(new PageAllocator(cache.pages, cache.exact))
    const decoder = model.tokenizer.streamDecoder(Array.from(prompt.subarray(-16)))
    const stops = new StopStrings(settings.stops)
    const history = sharedInts(prompt.length + limit)
    history.set(prompt)
    const sampled = sharedInts(1)
    const lastRow = sharedInts(1)
    const penalised = sampling.repetitionPenalty !== 1
    const runsOf = (tokens: number) => ({ prompt: model.runs(false, tokens), last: model.runs(true, tokens) })
    let runs = runsOf(prompt.length)
    const { longLength } = model

    /** Runs history[begin ... end); samples the token after it where asked. */
    const run = async (begin: number, end: number, sample: boolean): Promise<void> => {
      throwIfAborted(signal)
      const rows = end - begin
      lastRow[0] = rows - 1
      await model.step({
        runs: sample ? runs.last : runs.prompt,
        rows,
        tokens: history.subarray(begin, end),
        sequences: [{ ...sequence.next(rows), adapter }],
        cache,
        activations,
        ...(sample && {
          epilogue: {
            mode: "sample" as const,
            rows: lastRow,
            tokens: sampled,
            sampling: { ...sampling, position: end, history: penalised ? history.subarray(0, end) : null },
          },
        }),
        signal,
      })
      sequence.advance(rows)
    }

    const start = performance.now()
    let length = prompt.length
    const prefill = async (): Promise<void> => {
      for (let begin = 0; begin < length; begin += prefillRows) {
        const end = Math.min(begin + prefillRows, length)
        await run(begin, end, end === length)
      }
    }
    await prefill()
    const prefillSeconds = (performance.now() - start) / 1000

    const tokens: number[] = []
    let text = ""
    // Time that the consumer of the chunks takes is not the model's.
    let decodeSeconds = 0
    for (;;) {
      const token = sampled[0]!
      history[length++] = token
      tokens.push(token)
      const eos = !settings.ignoreEos && model.eosTokenIds.includes(token)
      const full = tokens.length === limit
      const last = eos || full
      let piece = stops.push(decoder.push(token) + (last ? decoder.finish() : ""))
      if (last) piece += stops.finish()
      text += piece
      yield { token, text: piece }
      if (last || stops.stopped) {
        const finishReason = stops.stopped ? "stop" : eos ? "eos" : limit < settings.maxTokens ? "context" : "length"
        return {
          text,
          tokens,
          promptTokens: prompt.length,
          newTokens: tokens.length,
          prefillTokensPerSecond: prompt.length / prefillSeconds,
          decodeTokensPerSecond: decodeSeconds > 0 ? (tokens.length - 1) / decodeSeconds : 0,
          finishReason,
          seed: sampling.seed,
        }
      }
      const before = performance.now()
      if (length - 1 === longLength) {
        // What the cache holds was computed for short texts.
        sequence = new SequenceCache(new PageAllocator(cache.pages, cache.exact))
        runs = runsOf(length)
        await prefill()
      } else await run(length - 1, length, true)
      decodeSeconds += (performance.now() - before) / 1000
    }
  } finally {
    cache.dispose()
  }
}
