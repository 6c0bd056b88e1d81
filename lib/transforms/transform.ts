// The interface of transforms: what is reshaped in a block before rounding, leaving its function unchanged.
import type { LongWork } from "../core/progress.ts"
import type { BlockWeights } from "../models/block-weights.ts"
import type { ModelProgram } from "../models/program.ts"
import type { BoundSection, KvCacheHandle, ModelRunner, StepSequence } from "../models/runner.ts"
import type { Grid } from "../native.ts"

/** A sample of the calibration set that a transform may run a block on: rows of hidden states entering the block. */
export interface BlockSample {
  rows: number
  /** f32 [rows, hiddenSize] on shared memory. */
  hidden: Float32Array
  sequences: readonly StepSequence[]
}

export interface TransformInput extends LongWork {
  program: ModelProgram
  layer: number
  runner: ModelRunner
  cache: KvCacheHandle
  /** The block's original weights as they run. */
  bound: BoundSection
  /** f32 working copies; the transform changes them in place. */
  weights: BlockWeights
  sample: BlockSample
  /** Grid that a linear will be rounded to, null where it stays as it is. */
  gridOf(module: string): Grid | null
}

export interface TransformReport {
  transform: string
  /** What was found for every scale group of the block. */
  groups: { source: string; targets: string[]; ratio: number; error: number; errorBefore: number }[]
}

export interface Transform {
  name: "awq"
  apply(input: TransformInput): Promise<TransformReport>
}
