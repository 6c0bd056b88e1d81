// A loaded model: its tokenizer, its weights, and what can be done with them.
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { sharedInts, Tensor } from "../core/tensor.ts"
import type { Activations } from "../kernels/packed-weight.ts"
import type { GenerationDefaults } from "../models/generation-config.ts"
import type { ModelConfig, ModelProgram } from "../models/program.ts"
import type { BoundSection, KvCacheHandle, ModelRunner, Step, StepRun } from "../models/runner.ts"
import { PageAllocator, pagesFor, SequenceCache } from "../models/sequence.ts"
import type { Tokenizer } from "../models/tokenizer.ts"
import {
  type GenerateOptions,
  type GenerationChunk,
  type GenerationResult,
  generateTokens,
  parseGenerateOptions,
  prefillRows,
  promptTokens,
} from "./generate.ts"
import { type PerplexityOptions, type PerplexityResult, perplexity } from "./perplexity.ts"
import { SerialQueue } from "./serial-queue.ts"

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
  readonly weights: WeightSummary
  readonly #parts: ModelParts
  readonly #queue = new SerialQueue()
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

  /** Logits after every token: f32 [ids.length, vocabularySize]. Takes that much memory: for long texts use perplexity. */
  async forward(ids: ArrayLike<number>, options?: { signal?: AbortSignal }): Promise<Tensor> {
    const signal = new Options("forward", options, ["signal"]).signal()
    const tokens = this.checkTokens(ids, "ids")
    this.#checkLength(tokens.length)
    const vocabulary = this.config.vocabularySize
    const out = Tensor.empty([tokens.length, vocabulary])
    const cache = this.createCache(pagesFor(tokens.length))
    try {
      const sequence = new SequenceCache(new PageAllocator(cache.pages))
      for (let begin = 0; begin < tokens.length; begin += prefillRows) {
        throwIfAborted(signal)
        const rows = Math.min(prefillRows, tokens.length - begin)
        const chosen = sharedInts(rows)
        for (let i = 0; i < rows; i++) chosen[i] = i
        const logits = (out.data as Float32Array).subarray(begin * vocabulary, (begin + rows) * vocabulary)
        await this.step({
          runs: this.runs(true),
          rows,
          tokens: tokens.subarray(begin, begin + rows),
          sequences: [sequence.next(rows)],
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
    const settings = parseGenerateOptions(options, this.generationDefaults, this.activations)
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

  /** One native step, after those asked for before. ERR_OPTION once the model is disposed. */
  step(request: Step): Promise<void> {
    return this.#queue.run(async () => {
      this.#checkOpen()
      throwIfAborted(request.signal)
      await this.#parts.runner.step({ activations: this.activations, ...request })
    })
  }

  /** The whole model as runs of a step; without the epilogue where nothing is asked of the last hidden state. */
  runs(epilogue: boolean): StepRun[] {
    this.#checkOpen()
    const { prologue, blocks, epilogue: last } = this.#parts
    const runs: StepRun[] = [{ section: prologue }, ...blocks.map((section, layer) => ({ section, layer }))]
    return epilogue ? [...runs, { section: last }] : runs
  }

  /** Where the logits operation reads: run and op to observe (the op before it), slot, width, and the head's handle. */
  get logitsInput(): { run: number; op: number; slot: number; width: number; head: number } {
    this.#checkOpen()
    const { sections, slots, blocks } = this.program
    const ops = sections.at(-1)!.ops
    const logits = ops.at(-1)!
    const slot = logits.in[0]!
    const head = this.#parts.epilogue.weights[logits.weights[0]!]!
    return { run: blocks.length + 1, op: ops.length - 2, slot, width: slots[slot]!, head }
  }

  /** A KV cache for this model's layers. */
  createCache(pages: number): KvCacheHandle {
    this.#checkOpen()
    return this.#parts.runner.createCache(this.config.layers, pages)
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
