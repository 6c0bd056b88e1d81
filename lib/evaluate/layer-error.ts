// Where a model goes away from its reference: the error of the residual stream after every block, on the same tokens.
import { TsqError, throwIfAborted } from "../core/errors.ts"
import type { LongWork } from "../core/progress.ts"
import { sharedFloats } from "../core/tensor.ts"
import type { Model } from "../engine/model.ts"
import { progressOf } from "../engine/progress.ts"
import type { WindowPlan } from "../engine/windows.ts"
import type { Activations } from "../kernels/packed-weight.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { Observer } from "../models/runner.ts"
import { PageAllocator, pagesFor, SequenceCache } from "../models/sequence.ts"
import type { NativeHandle } from "../native.ts"

export interface LayerError {
  layer: number
  /** Σ (x − r)² / Σ r² of the residual stream x after the block and the reference's r, over all tokens. */
  relativeSquaredError: number
}

/** Rows of a step, fewer where the reference's states of all layers would take more than so many bytes. */
const mostRows = 2048
const mostBytes = 2 ** 28

/** ERR_SHAPE for models that differ in layers or width. */
export function checkSameLayers(candidate: Model, reference: Model): void {
  const { layers, hiddenSize } = candidate.config
  const other = reference.config
  if (layers !== other.layers || hiddenSize !== other.hiddenSize)
    throw new TsqError(
      "ERR_SHAPE",
      `evaluateModel: ${candidate.path} has ${layers} layers of width ${hiddenSize}, ${reference.path} ${other.layers} of ${other.hiddenSize}; errors by layer need models of one shape`,
    )
}

/**
 * Over the windows of a plan, without the first token of each: models that rest their attention on it give it values thousands of times
 * those of all others. The models have passed checkSameLayers.
 */
export async function layerErrors(
  candidate: Model,
  reference: Model,
  plan: WindowPlan,
  {
    activations,
    adapter,
    signal,
    onProgress,
  }: LongWork & { activations: Activations; adapter: NativeHandle | undefined },
): Promise<LayerError[]> {
  const { layers, hiddenSize } = candidate.config
  const chunk = Math.max(1, Math.min(mostRows, plan.window, Math.floor(mostBytes / (4 * layers * hiddenSize))))
  const states = Array.from({ length: layers }, () => sharedFloats(chunk * hiddenSize))
  const sums = Array.from({ length: layers }, () => new Accumulator("squaredError", hiddenSize))
  const sides = [new Side(reference, plan.window), new Side(candidate, plan.window, activations, adapter)] as const
  const report = progressOf("layers", plan.count, onProgress)
  try {
    for (let index = 0; index < plan.count; index++) {
      const tokens = plan.tokens(index)
      for (let begin = 0; begin < tokens.length; begin = begin === 0 ? 1 : begin + chunk) {
        throwIfAborted(signal)
        const part = tokens.subarray(begin, begin === 0 ? 1 : Math.min(begin + chunk, tokens.length))
        const seen = states.map(state => state.subarray(0, part.length * hiddenSize))
        const watch = begin > 0
        await sides[0].step(part, watch ? layer => ({ reduction: "copy", out: seen[layer]! }) : null, signal)
        const compare = (layer: number): Watch => ({
          ...{ reduction: "squaredError", accumulator: sums[layer]!.handle, reference: seen[layer]! },
        })
        await sides[1].step(part, watch ? compare : null, signal)
      }
      for (const side of sides) side.restart()
      report(index + 1)
    }
    return sums.map((sum, layer) => {
      const [error, square] = sum.read(2)
      return { layer, relativeSquaredError: error! / square! }
    })
  } finally {
    for (const sum of sums) sum.dispose()
    for (const side of sides) side.dispose()
  }
}

type Watch = Omit<Observer, "run" | "op" | "slot">

/** One model on its way through a window. */
class Side {
  readonly #model: Model
  readonly #activations: Activations
  readonly #adapter: NativeHandle | undefined
  readonly #window: number
  readonly #cache: ReturnType<Model["createCache"]>
  readonly #sequence: SequenceCache

  constructor(model: Model, window: number, activations: Activations = model.activations, adapter?: NativeHandle) {
    this.#model = model
    this.#window = window
    this.#adapter = adapter
    this.#activations = activations
    this.#cache = model.createCache(pagesFor(window))
    this.#sequence = new SequenceCache(new PageAllocator(this.#cache.pages, this.#cache.exact))
  }

  /** The next tokens of the window. `watch`: what to do with the residual stream after a layer. */
  async step(
    tokens: Int32Array,
    watch: ((layer: number) => Watch) | null,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { sections, blocks } = this.#model.program
    const observers = blocks.map((section, layer) => ({
      ...{ run: layer + 1, op: sections[section]!.ops.length - 1, slot: 0 },
      ...watch?.(layer),
    }))
    await this.#model.step({
      runs: this.#model.runs(false, this.#window),
      rows: tokens.length,
      tokens,
      sequences: [{ ...this.#sequence.next(tokens.length), adapter: this.#adapter }],
      cache: this.#cache,
      activations: this.#activations,
      observers: watch ? (observers as Observer[]) : [],
      signal,
    })
    this.#sequence.advance(tokens.length)
  }

  restart(): void {
    this.#sequence.release()
  }

  dispose(): void {
    this.#cache.dispose()
  }
}
