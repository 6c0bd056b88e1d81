// What tests of transforms share: a block of a small model with a calibration set, and its output.
import type { Test } from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { sharedFloats } from "../../../lib/core/tensor.ts"
import { CheckpointSource } from "../../../lib/engine/checkpoint-source.ts"
import { BlockWeights } from "../../../lib/models/block-weights.ts"
import { describeModel } from "../../../lib/models/registry.ts"
import type { BoundSection } from "../../../lib/models/runner.ts"
import { CalibrationRun } from "../../../lib/quantize/calibration-run.ts"
import type { TransformInput, Watched } from "../../../lib/transforms/transform.ts"
import { smallCheckpoint, tokens } from "../quantize/support.ts"

/** Configurations whose scale groups differ. */
export const architectures = [
  ["llama, f32", {}, "F32"],
  ["llama, bf16", {}, "BF16"],
  ["biases everywhere", { attention_bias: true, mlp_bias: true }, "F32"],
  ["qwen2, grouped queries", { model_type: "qwen2", num_key_value_heads: 1 }, "F32"],
  ["qwen3", { model_type: "qwen3", head_dim: 16 }, "BF16"],
] as const

export interface BlockUnderTest {
  run: CalibrationRun
  /** All of a transform's input but what will be rounded. */
  input: Omit<TransformInput, "schemeOf">
  bound: BoundSection
  fresh(): BlockWeights
  /** The block's output over the sample. */
  output(block: BoundSection): Promise<Float32Array>
}

export const blockUnderTest = (t: Test, ...small: Tail<Parameters<typeof smallCheckpoint>>): Promise<BlockUnderTest> =>
  blockOf(t, smallCheckpoint(t, ...small), 1)

type Tail<T extends unknown[]> = T extends [unknown, ...infer Rest] ? Rest : never

/** Block `layer` of the checkpoint in a folder. */
export async function blockOf(t: Test, directory: string, layer: number): Promise<BlockUnderTest> {
  const checkpoint = await Checkpoint.open(directory)
  t.teardown(() => checkpoint.dispose())
  const program = describeModel(checkpoint.config, name => checkpoint.has(name))
  const windows = Array.from({ length: 8 }, (_, i) => Int32Array.from(tokens(32, program.config.vocabularySize, i)))
  const set = { windows, sequenceLength: 32, asked: null, tokens: 256 }
  const run = await CalibrationRun.start(program, new CheckpointSource(checkpoint, () => {}), set)
  t.teardown(() => run.dispose())
  const section = program.sections[program.blocks[layer]!]!
  const fresh = () => new BlockWeights(checkpoint, program.blockPrefix(layer), section)
  const bound = run.own(await run.bind(layer))
  const sample = run.sample(128)
  const input = {
    ...{ program, layer, runner: run.runner, cache: run.cache, bound, weights: fresh(), sample, minZero: 0 },
    observe: (watched: readonly Watched[]) => run.watch(bound, watched),
    options: { alpha: 0.5 },
    signal: undefined,
  }
  const output = async (block: BoundSection) => {
    const out = sharedFloats(sample.rows * program.config.hiddenSize)
    const { rows, hidden, sequences } = sample
    await run.runner.step({
      runs: [{ section: block, layer: 0 }],
      ...{ rows, sequences, hidden },
      cache: run.cache,
      observers: [{ run: 0, op: section.ops.length - 1, slot: 0, reduction: "copy", out }],
    })
    return out
  }
  return { run, input, bound, fresh, output }
}
