// The preset "best": every block is quantized by several strategies on the same inputs, and the one stays that disturbs the model least on tokens
// that it was not calibrated on: by the divergence of the model's output with the original blocks behind it, or by the distance of the block's
// output from the original's.
//
// Candidates read what the quantized blocks before them have left, while the original model's hidden states are its own, undisturbed ones: a
// block is then preferred that makes up for errors in front of it.
import { throwIfAborted } from "../../core/errors.ts"
import type { CheckpointSource } from "../../engine/checkpoint-source.ts"
import type { ModelProgram } from "../../models/program.ts"
import type { WeightSource } from "../../models/runner.ts"
import { type BlockInput, type BlockResult, quantizeBlock } from "../block-quantizer.ts"
import type { CalibrationSet } from "../calibration.ts"
import { CalibrationRun, type HeadInput } from "../calibration-run.ts"
import { outputOf, probeSet } from "../mixed/sensitivity.ts"
import { resultSource } from "../stored-source.ts"
import { type Contest, type Strategy, strategyName, strategyRecipe } from "./strategies.ts"

/** Of one block: what was tried, by its error on the probe (relative squared error, or nats per token), and the winner. */
export interface ContestReport {
  chosen: string
  errors: Record<string, number>
}

/** Streams that candidates are judged on: the quantized model's hidden states on probe tokens, and the original model's. */
export class ContestRun {
  readonly #program: ModelProgram
  readonly #contest: Contest
  readonly #dense: CheckpointSource
  readonly #quantized: CalibrationRun
  readonly #original: CalibrationRun
  /** Of the original model; only where the objective is the model's output. */
  readonly #output: HeadInput | null

  private constructor(
    program: ModelProgram,
    contest: Contest,
    dense: CheckpointSource,
    quantized: CalibrationRun,
    output: HeadInput | null,
  ) {
    this.#program = program
    this.#contest = contest
    this.#dense = dense
    this.#quantized = quantized
    this.#original = quantized.fork()
    this.#output = output
  }

  static async start(
    program: ModelProgram,
    contest: Contest,
    dense: CheckpointSource,
    calibration: CalibrationSet,
    signal: AbortSignal | undefined,
  ): Promise<ContestRun> {
    const run = await CalibrationRun.start(program, dense, probeSet(calibration), signal)
    try {
      const output = contest.objective === "kl" ? await outputOf(run, program, signal) : null
      return new ContestRun(program, contest, dense, run, output)
    } catch (error) {
      run.dispose()
      throw error
    }
  }

  /** Quantizes a block by every strategy. Leaves the quantized runs in front of it (and so knows no residual peak), and the original's behind: advance() follows. */
  async choose(input: Omit<BlockInput, "onTensor">, onStrategy: (name: string) => void): Promise<BlockResult> {
    const { layer, recipe, signal } = input
    const original = await this.#quantized.bind(layer)
    try {
      await this.#original.advance(original, signal)
    } finally {
      original.dispose()
    }
    let best: { result: BlockResult; error: number; strategy: Strategy } | null = null
    const errors: Record<string, number> = {}
    for (const strategy of this.#contest.strategies) {
      throwIfAborted(signal)
      const name = strategyName(strategy)
      onStrategy(name)
      const own = strategyRecipe(recipe, strategy)
      const result = await quantizeBlock({ ...input, recipe: own, advance: false, onTensor: () => {} })
      const error = await this.#error(layer, resultSource(result, this.#dense), signal)
      errors[name] = error
      if (best === null || error < best.error || Number.isNaN(best.error)) best = { result, error, strategy }
    }
    return { ...best!.result, contest: { chosen: strategyName(best!.strategy), errors } }
  }

  async #error(layer: number, source: WeightSource, signal: AbortSignal | undefined): Promise<number> {
    const bound = await this.#quantized.bind(layer, source)
    try {
      if (this.#output === null) return await this.#quantized.outputError(bound, this.#original, signal)
      const fork = this.#quantized.fork()
      await fork.advance(bound, signal)
      for (let next = layer + 1; next < this.#program.blocks.length; next++) {
        const rest = await fork.bind(next)
        try {
          await fork.advance(rest, signal)
        } finally {
          rest.dispose()
        }
      }
      return await fork.divergence(this.#output, signal)
    } finally {
      bound.dispose()
    }
  }

  /** Sends the quantized stream through the block that was chosen; after an interruption (`alone`) the original's as well. */
  async advance(layer: number, source: WeightSource, alone: boolean, signal: AbortSignal | undefined): Promise<void> {
    const runs = [[this.#quantized, source], ...(alone ? [[this.#original, this.#dense] as const] : [])] as const
    for (const [run, weights] of runs) {
      const bound = await run.bind(layer, weights)
      try {
        await run.advance(bound, signal)
      } finally {
        bound.dispose()
      }
    }
  }

  dispose(): void {
    this.#original.dispose()
    this.#quantized.dispose()
  }
}
