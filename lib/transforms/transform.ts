// The interface of transforms: what is reshaped in a block before rounding, leaving its function unchanged.
import type { LongWork } from "../core/progress.ts"
import type { Scheme } from "../core/scheme.ts"
import type { Accumulator } from "../models/accumulator.ts"
import type { BlockWeights } from "../models/block-weights.ts"
import type { ModelProgram } from "../models/program.ts"
import type { BoundSection, KvCacheHandle, ModelRunner, StepSequence } from "../models/runner.ts"

/** A sample of the calibration set that a transform may run a block on: rows of hidden states entering the block. */
export interface BlockSample {
  rows: number
  /** f32 [rows, hiddenSize] on shared memory. */
  hidden: Float32Array
  sequences: readonly StepSequence[]
}

/** A slot, an op that reads it, and where it is summed; of one expert where the slot is grouped by routes. */
export interface Watched {
  op: number
  slot: number
  accumulator: Accumulator
  routes?: number
  expert?: number
  /** See Observer. */
  inputs?: number
}

export interface TransformOptions {
  /** smooth: the share of the activations' range that moves into the weights, 0 to 1, or "auto": searched for every scale group. */
  alpha: number | "auto"
}

export interface TransformInput extends LongWork {
  program: ModelProgram
  layer: number
  runner: ModelRunner
  cache: KvCacheHandle
  /** The block's unrounded weights as they run, with what transforms before this one have changed. */
  bound: BoundSection
  /** f32 working copies; the transform changes them in place. */
  weights: BlockWeights
  sample: BlockSample
  /** Runs `bound` over the whole calibration set and reduces slots on the way, each before the op that reads it. */
  observe(watched: readonly Watched[]): Promise<void>
  /** What a linear will be rounded to, null where it stays as it is. */
  schemeOf(module: string): Scheme | null
  /** Smallest zero point that the format can store. */
  minZero: number
  options: TransformOptions
}

export interface TransformReport {
  transform: string
  /** For every scale group of the block: AWQ's exponent or SmoothQuant's alpha (null: left alone), and the block's relative squared error with the
   * group rounded to nearest, scaled and not. */
  groups: { source: string; targets: string[]; ratio: number | null; error: number; errorBefore: number }[]
}

export interface Transform {
  name: "awq" | "smooth"
  apply(input: TransformInput): Promise<TransformReport>
}
