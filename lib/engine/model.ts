// A loaded model: its tokenizer, its weights, and what can be done with them.
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { sharedInts, Tensor } from "../core/tensor.ts"
import type { Activations } from "../kernels/packed-weight.ts"
import type { GenerationDefaults } from "../models/generation-config.ts"
import { type KvFormat, kvCacheBytes } from "../models/kv-cache.ts"
import { longLength, type ModelConfig, type ModelProgram } from "../models/program.ts"
import type { BoundSection, KvCacheHandle, ModelRunner, Step, StepRun } from "../models/runner.ts"
import { PageAllocator, pagesFor, SequenceCache } from "../models/sequence.ts"
import type { Tokenizer } from "../models/tokenizer.ts"
import type { NativeHandle } from "../native.ts"
import { AdapterSet, LoadedAdapter } from "./adapters.ts"
import {
  type GenerateOptions,
  type GenerationChunk,
  type GenerationResult,
  generateTokens,
  parseGenerateOptions,
  prefillRows,
  promptTokens,
} from "./generate.ts"
import {
  type Likelihood,
  type LikelihoodOptions,
  type LikelihoodRequest,
  logLikelihoods,
  rollingLogLikelihoods,
  type TextOrIds,
} from "./loglikelihood.ts"
import { type PerplexityOptions, type PerplexityResult, perplexity } from "./perplexity.ts"
import { SerialQueue } from "./serial-queue.ts"

const isContinuation = (value: unknown): boolean =>
  typeof value === "string" || (typeof value === "object" && value !== null && "length" in value)

/** How a checkpoint stores its linears. */
export interface WeightSummary {
  /** Of the blocks' linears with scales and zero points: of the quantized ones where there are any, otherwise of all. */
  bitsPerWeight: number
  /** Modules stored quantized. */
  quantizedModules: readonly string[]
  /** Of these, modules whose codes no kernel takes: held as f32 values (PackedWeight.kernel). */
  referenceModules: readonly string[]
  /** Modules whose schemes say that activations are rounded, which `activations: "scheme"` does. */
  roundedModules: readonly string[]
  /** Scheme that linears of the blocks stored as floats were rounded to as they were loaded; null: none. */
  onLoad: string | null
  /** Native bytes of all packed weights. */
  bytes: number
}

export interface ModelParts {
  path: string
  runner: ModelRunner
  tokenizer: Tokenizer
  generationDefaults: GenerationDefaults
  maxContext: number
  activations: Activations
  kvFormat: KvFormat
  prologue: BoundSection
  blocks: readonly BoundSection[]
  epilogue: BoundSection
  weights: WeightSummary
}

/** Made by loadModel. Steps run one after another; several generations may be under way at once and take turns. */
export class Model {
  readonly path: string
  readonly tokenizer: Tokenizer
  readonly program: ModelProgram
  readonly generationDefaults: GenerationDefaults
  /** Tokens that a sequence may have, prompt and generated ones together. */
  readonly maxContext: number
  /** What the weights are multiplied with where a call does not say so itself; "scheme" only where some scheme rounds activations. */
  readonly activations: Activations
  /** How keys and values are cached. */
  readonly kvFormat: KvFormat
  readonly weights: WeightSummary
  readonly #parts: ModelParts
  readonly #queue = new SerialQueue()
  readonly #adapters = new AdapterSet()
  /** By what decides them: with the epilogue or not, constants of long sequences or not. */
  readonly #runs = new Map<string, readonly StepRun[]>()
  #eosTokenIds: readonly number[] | null = null
  #disposed = false

  constructor(parts: ModelParts) {
    this.#parts = parts
    this.path = parts.path
    this.tokenizer = parts.tokenizer
    this.program = parts.runner.program
    this.generationDefaults = parts.generationDefaults
    this.maxContext = parts.maxContext
    this.activations = parts.activations
    this.kvFormat = parts.kvFormat
    this.weights = parts.weights
  }

  /** Tokens that end a text: generation_config.json's, otherwise config.json's and the tokenizer's. */
  get eosTokenIds(): readonly number[] {
    const { eosTokenIds } = this.generationDefaults
    this.#eosTokenIds ??=
      eosTokenIds.length > 0 ? eosTokenIds : [...new Set([...this.config.eosTokenIds, ...this.tokenizer.eosTokenIds])]
    return this.#eosTokenIds
  }

  get config(): ModelConfig {
    return this.program.config
  }

  get bitsPerWeight(): number {
    return this.weights.bitsPerWeight
  }

  get disposed(): boolean {
    return this.#disposed
  }

  /** Names of the LoRA adapters that calls may choose. */
  get adapters(): string[] {
    return this.#adapters.names
  }

  /**
   * Loads a LoRA adapter as PEFT saves it (a folder), under a name that calls give as their option "adapter". Its products run beside the
   * weights as they are stored, for which it should have been trained; several may be loaded, and calls with different ones take turns.
   * ERR_OPTION for a name that is taken; ERR_IO, ERR_FORMAT, ERR_SHAPE and ERR_UNSUPPORTED for a folder that is no such adapter of this model.
   */
  async loadAdapter(
    name: string,
    directory: string,
    options?: { onWarning?: (message: string) => void },
  ): Promise<void> {
    const given = new Options("loadAdapter", options, ["onWarning"])
    if (given.has("onWarning") && typeof given.raw("onWarning") !== "function") given.fail("onWarning", "a function")
    this.#adapters.checkNew("loadAdapter", name)
    if (typeof directory !== "string" || directory === "")
      throw new TsqError("ERR_OPTION", `loadAdapter: the folder is ${describe(directory)}, expected a path`)
    this.#checkOpen()
    const warn = options?.onWarning ?? (message => process.emitWarning(message, "TsqWarning"))
    const adapter = await LoadedAdapter.load(directory, this.#parts.blocks, warn)
    try {
      this.#checkOpen()
      this.#adapters.checkNew("loadAdapter", name)
    } catch (error) {
      adapter.dispose()
      throw error
    }
    this.#adapters.add(name, adapter)
  }

  /** Frees an adapter; calls under way with it end with ERR_OPTION at their next step. ERR_OPTION for a name that is none. */
  unloadAdapter(name: string): void {
    this.#adapters.remove(name)
  }

  /** The adapter that a call's options choose. ERR_OPTION for a name that is none. */
  adapterOf(options: Options): NativeHandle | undefined {
    return this.adapterHandle(options.caller, options.raw("adapter") ?? null)
  }

  /** For steps; `caller` is named in errors. */
  adapterHandle(caller: string, name: unknown): NativeHandle | undefined {
    return name === null ? undefined : this.#adapters.get(caller, name).handle
  }

  /** Logits after every token: f32 [ids.length, vocabularySize]. Takes that much memory: for long texts use perplexity. */
  async forward(ids: ArrayLike<number>, values?: { adapter?: string | null; signal?: AbortSignal }): Promise<Tensor> {
    const options = new Options("forward", values, ["adapter", "signal"])
    const signal = options.signal()
    const adapter = this.adapterOf(options)
    const tokens = this.checkTokens(ids, "ids")
    this.#checkLength(tokens.length)
    const vocabulary = this.config.vocabularySize
    const out = Tensor.empty([tokens.length, vocabulary])
    const cache = this.createCache(pagesFor(tokens.length))
    try {
      const sequence = new SequenceCache(new PageAllocator(cache.pages, cache.exact))
      const runs = this.runs(true, tokens.length)
      for (let begin = 0; begin < tokens.length; begin += prefillRows) {
        throwIfAborted(signal)
        const rows = Math.min(prefillRows, tokens.length - begin)
        const chosen = sharedInts(rows)
        for (let i = 0; i < rows; i++) chosen[i] = i
        const logits = (out.data as Float32Array).subarray(begin * vocabulary, (begin + rows) * vocabulary)
        await this.step({
          runs,
          rows,
          tokens: tokens.subarray(begin, begin + rows),
          sequences: [{ ...sequence.next(rows), adapter }],
          cache,
          epilogue: { mode: "logits", rows: chosen, logits },
          signal,
        })
        sequence.advance(rows)
      }
      return out
    } finally {
      cache.dispose()
    }
  }

  /**
   * Continues a prompt (text or token ids). Iterate for chunks as they come; the generator's return value is the whole with
   * its figures, see `complete`. Options are checked at once, ERR_OPTION; leaving the loop early frees everything.
   */
  generate(
    prompt: string | ArrayLike<number>,
    options?: GenerateOptions,
  ): AsyncGenerator<GenerationChunk, GenerationResult, undefined> {
    this.#checkOpen()
    const settings = parseGenerateOptions(options, this.generationDefaults, this.activations, given =>
      this.adapterOf(given),
    )
    return generateTokens(this, promptTokens(this, prompt, settings.addSpecial), settings)
  }

  /** Generates to the end. */
  async complete(prompt: string | ArrayLike<number>, options?: GenerateOptions): Promise<GenerationResult> {
    const generation = this.generate(prompt, options)
    for (;;) {
      const next = await generation.next()
      if (next.done) return next.value
    }
  }

  /** Perplexity of a text or of token ids; see docs/evaluation.md for the protocols. */
  async perplexity(
    text: string | ArrayLike<number>,
    options?: PerplexityOptions & LongWork,
  ): Promise<PerplexityResult> {
    this.#checkOpen()
    return perplexity(this, text, options)
  }

  /**
   * log p(continuation | context), as lm-evaluation-harness defines it (docs/evaluation.md), of one pair or of many: texts, or token ids that
   * are taken as they are. Long contexts lose their beginning; neighbours that share a context run it once.
   */
  async loglikelihood(requests: readonly LikelihoodRequest[], options?: LikelihoodOptions): Promise<Likelihood[]>
  async loglikelihood(context: TextOrIds, continuation: TextOrIds, options?: LikelihoodOptions): Promise<Likelihood>
  async loglikelihood(
    first: TextOrIds | readonly LikelihoodRequest[],
    second?: TextOrIds | LikelihoodOptions,
    third?: LikelihoodOptions,
  ): Promise<Likelihood | Likelihood[]> {
    this.#checkOpen()
    if (Array.isArray(first) && typeof first[0] !== "number" && !isContinuation(second))
      return logLikelihoods(this, first as readonly LikelihoodRequest[], second as LikelihoodOptions)
    const pair = { context: first as TextOrIds, continuation: second as TextOrIds }
    return (await logLikelihoods(this, [pair], third))[0]!
  }

  /** log p(text) of one text or of many, from BOS, in windows of the whole context where it is longer; see loglikelihood. */
  async loglikelihoodRolling(texts: readonly string[], options?: LikelihoodOptions): Promise<Likelihood[]>
  async loglikelihoodRolling(text: TextOrIds, options?: LikelihoodOptions): Promise<Likelihood>
  async loglikelihoodRolling(
    text: TextOrIds | readonly string[],
    options?: LikelihoodOptions,
  ): Promise<Likelihood | Likelihood[]> {
    this.#checkOpen()
    if (Array.isArray(text) && typeof text[0] !== "number") return rollingLogLikelihoods(this, text, options)
    return (await rollingLogLikelihoods(this, [text as TextOrIds], options))[0]!
  }

  /** One native step, after those asked for before. ERR_OPTION once the model is disposed. */
  step(request: Step): Promise<void> {
    return this.#queue.run(async () => {
      this.#checkOpen()
      throwIfAborted(request.signal)
      await this.#parts.runner.step({ activations: this.activations, ...request })
    })
  }

  /**
   * The whole model as runs of a step; without the epilogue where nothing is asked of the last hidden state. tokens: of the sequences
   * altogether, on which rope may depend (longLength). The same list for the same runs, so that a step knows it (Step.runs).
   */
  runs(epilogue: boolean, tokens: number): readonly StepRun[] {
    this.#checkOpen()
    const { longLength } = this
    const long = longLength !== null && tokens > longLength
    const key = `${epilogue} ${long}`
    const known = this.#runs.get(key)
    if (known) return known
    const { prologue, blocks, epilogue: last } = this.#parts
    const runs: StepRun[] = [
      { section: prologue },
      ...blocks.map((section, layer) => ({ section: section.forLength(tokens), layer })),
      ...(epilogue ? [{ section: last }] : []),
    ]
    this.#runs.set(key, runs)
    return runs
  }

  /** Sequences of more tokens than this run with other constants from their first token on; null: there are none. */
  get longLength(): number | null {
    return longLength(this.program)
  }

  /** Where the logits operation reads: run and op to observe (the op before it), slot, width, the head's handle, and the logits' soft cap. */
  get logitsInput(): { run: number; op: number; slot: number; width: number; head: number; softcap: number } {
    this.#checkOpen()
    const { sections, slots, blocks } = this.program
    const ops = sections.at(-1)!.ops
    const logits = ops.at(-1)!
    const slot = logits.in[0]!
    const head = this.#parts.epilogue.weights[logits.weights[0]!]!
    return { run: blocks.length + 1, op: ops.length - 2, slot, width: slots[slot]!, head, softcap: logits.p[0]! }
  }

  /** A KV cache for this model's layers and so many sequences at once. */
  createCache(pages: number, sequences = 1): KvCacheHandle {
    this.#checkOpen()
    return this.#parts.runner.createCache(this.config.layers, pages, this.kvFormat, sequences)
  }

  /** Bytes of the cache of so many sequences of `tokens` each. */
  kvCacheBytes(tokens: number, sequences = 1): number {
    return kvCacheBytes(this.config, this.kvFormat, tokens, sequences)
  }

  /** Token ids on shared memory. ERR_OPTION for what is not in the vocabulary. */
  checkTokens(ids: ArrayLike<number>, what: string): Int32Array {
    if (typeof ids !== "object" || ids === null || !Number.isSafeInteger(ids.length))
      throw new TsqError("ERR_OPTION", `${what} is ${describe(ids)}, expected token ids`)
    const tokens = sharedInts(ids.length)
    const vocabulary = this.config.vocabularySize
    for (let i = 0; i < tokens.length; i++) {
      const id = ids[i]!
      if (!Number.isInteger(id) || id < 0 || id >= vocabulary)
        throw new TsqError(
          "ERR_OPTION",
          `${what}[${i}] is ${describe(id)}, expected a token id from 0 to ${vocabulary - 1} (the model's vocabulary)`,
        )
      tokens[i] = id
    }
    return tokens
  }

  /** Frees weights and program. Work under way ends with ERR_OPTION at its next step. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    const { prologue, blocks, epilogue, runner } = this.#parts
    this.#adapters.dispose()
    for (const section of [prologue, ...blocks, epilogue]) section.dispose()
    runner.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  #checkOpen(): void {
    if (this.#disposed)
      throw new TsqError("ERR_OPTION", `the model ${this.path} was disposed and cannot be used any more; load it again`)
  }

  #checkLength(length: number): void {
    if (length === 0) throw new TsqError("ERR_OPTION", "forward: ids is empty, expected at least one token")
    if (length > this.maxContext)
      throw new TsqError(
        "ERR_OPTION",
        `forward: ids has ${length} tokens, expected at most the context of ${this.maxContext}`,
      )
  }
}
