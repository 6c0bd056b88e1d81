// AWQ leaves a block's function as it is until something is rounded, and says what it found.
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { sharedFloats } from "../../../lib/core/tensor.ts"
import { CheckpointSource } from "../../../lib/engine/checkpoint-source.ts"
import { BlockWeights } from "../../../lib/models/block-weights.ts"
import { describeModel } from "../../../lib/models/registry.ts"
import type { BoundSection } from "../../../lib/models/runner.ts"
import type { Grid } from "../../../lib/native.ts"
import { CalibrationRun } from "../../../lib/quantize/calibration-run.ts"
import { awq } from "../../../lib/transforms/awq.ts"
import { relativeDistance, smallCheckpoint, tokens } from "../quantize/support.ts"

const grid: Grid = { bits: 3, symmetric: false, groupSize: 32, perTensor: false, scaleType: 1, minZero: 0 }

for (const [name, change, dtype] of [
  ["llama, f32", {}, "F32"],
  ["llama, bf16", {}, "BF16"],
  ["biases everywhere", { attention_bias: true, mlp_bias: true }, "F32"],
  ["qwen2, grouped queries", { model_type: "qwen2", num_key_value_heads: 1 }, "F32"],
  ["qwen3", { model_type: "qwen3", head_dim: 16 }, "BF16"],
] as const)
  t.test(name, async t => {
    const checkpoint = await Checkpoint.open(smallCheckpoint(t, change, dtype))
    t.teardown(() => checkpoint.dispose())
    const program = describeModel(checkpoint.config)
    const windows = Array.from({ length: 8 }, (_, i) => Int32Array.from(tokens(32, 64, i)))
    const set = { windows, sequenceLength: 32, asked: null, tokens: 256 }
    const run = await CalibrationRun.start(program, new CheckpointSource(checkpoint, () => {}), set)
    t.teardown(() => run.dispose())
    const layer = 1
    const section = program.sections[program.blocks[layer]!]!
    const weights = new BlockWeights(checkpoint, program.blockPrefix(layer), section)
    const bound = run.own(await run.bind(layer))
    const sample = run.sample(128)
    t.equal(sample.rows, 128)
    t.strictSame(sample.hidden.subarray(0, 64), run.sample(32).hidden.subarray(0, 64))

    const output = async (block: BoundSection) => {
      const out = sharedFloats(sample.rows * program.config.hiddenSize)
      const { rows, hidden, sequences } = sample
      await run.runner.step({
        runs: [{ section: block, layer: 0 }],
        rows,
        sequences,
        cache: run.cache,
        hidden,
        observers: [{ run: 0, op: section.ops.length - 1, slot: 0, reduction: "copy", out }],
      })
      return out
    }
    const before = await output(bound)
    const input = { program, layer, runner: run.runner, cache: run.cache, bound, weights, sample, signal: undefined }
    const report = await awq.apply({ ...input, gridOf: () => grid })
    const after = await output(await run.rebind(bound, weights))

    t.equal(report.groups.length, 4)
    t.strictSame(
      report.groups.map(group => group.source),
      ["input_layernorm.weight", "self_attn.v_proj", "post_attention_layernorm.weight", "mlp.up_proj"],
    )
    for (const { ratio, error, errorBefore } of report.groups)
      t.ok(ratio >= 0 && ratio < 1 && error > 0 && error <= errorBefore)
    t.ok(report.groups.filter(({ error, errorBefore }) => error < errorBefore).length >= 2, "scales were found")
    t.ok(weights.changedVectors.length + weights.changedLinears.length >= 4, "and folded")
    const distance = relativeDistance(after, before)
    t.ok(distance < 2e-6, `the block computes the same: ${distance.toExponential(1)}`)

    const untouched = new BlockWeights(checkpoint, program.blockPrefix(layer), section)
    await awq.apply({ ...input, weights: untouched, gridOf: () => null })
    t.strictSame(untouched.changedLinears, [], "without anything to round nothing is scaled")

    await t.rejects(awq.apply({ ...input, gridOf: () => grid, signal: AbortSignal.abort("stop") }), {
      code: "ERR_ABORTED",
      cause: "stop",
    })
  })
