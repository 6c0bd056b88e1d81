// Every family through quantizeModel: the result loads, computes what it should, and transforms leave the function as it was.
import { join } from "node:path"
import t, { type Test } from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { sharedFloats } from "../../../lib/core/shared-array.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { BlockWeights } from "../../../lib/models/block-weights.ts"
import type { ScaleGroup } from "../../../lib/models/program.ts"
import { describeModel } from "../../../lib/models/registry.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { familyForward, familyWeights } from "../models/support/family-models.ts"
import type { Weights } from "../models/support/float64-forward.ts"
import { random, writeCheckpoint } from "../models/support/tiny-checkpoint.ts"
import { folder } from "./support.ts"

type Config = Record<string, unknown>

const shared = { vocab_size: 64, max_position_embeddings: 64, torch_dtype: "float32" }
const tiny = { ...shared, hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 4 }
const gemma = { ...tiny, num_key_value_heads: 2, head_dim: 16, sliding_window: 9, query_pre_attn_scalar: 12 }
const longrope = { type: "longrope", short_factor: new Array(8).fill(1), long_factor: new Array(8).fill(3) }
const configs: Record<string, Config> = {
  phi3: {
    ...tiny,
    model_type: "phi3",
    num_key_value_heads: 2,
    original_max_position_embeddings: 20,
    rope_scaling: longrope,
  },
  gemma2: { ...gemma, model_type: "gemma2" },
  gemma3: {
    model_type: "gemma3",
    torch_dtype: "float32",
    text_config: { ...gemma, model_type: "gemma3_text", sliding_window_pattern: 2 },
  },
  gpt_neox: { ...tiny, model_type: "gpt_neox", rotary_pct: 0.5 },
  gpt2: { ...shared, model_type: "gpt2", n_embd: 64, n_layer: 2, n_head: 4, n_positions: 64 },
}

function checkpoint(t: Test, config: Config): { directory: string; weights: Weights } {
  const directory = join(folder(t), "model")
  const weights = familyWeights(config, 17)
  writeCheckpoint(directory, config, weights)
  return { directory, weights }
}

const next = random(7)
const tokens = (count: number) => Array.from({ length: count }, () => Math.floor(next() * 64))
const calibration = tokens(32 * 24)
const ids = tokens(24)

/** Difference of logits relative to the size of the expected ones. */
async function errorOf(path: string, expected: Float64Array[]): Promise<number> {
  const model = await loadModel(path, { onWarning: () => {} })
  try {
    const logits = (await model.forward(ids)).data
    let difference = 0
    let size = 0
    expected.forEach((row, i) => {
      row.forEach((value, j) => {
        difference += (value - logits[i * row.length + j]!) ** 2
        size += value ** 2
      })
    })
    return Math.sqrt(difference / size)
  } finally {
    model.dispose()
  }
}

for (const [name, config] of Object.entries(configs)) {
  t.test(`${name}: nearest, GPTQ and AWQ`, async t => {
    const { directory, weights } = checkpoint(t, config)
    const expected = familyForward(config, weights, ids)
    const common = { format: "gptq", scheme: "w8a16", groupSize: 32, onWarning: () => {} } as const
    const calibrated = { calibration, samples: 32, sequenceLength: 24 }
    const recipes = {
      nearest: {},
      gptq: { rounding: "gptq", ...calibrated },
      awq: { rounding: "nearest", transforms: ["awq"], ...calibrated },
      "awq-gptq": { rounding: "gptq", transforms: ["awq"], ...calibrated },
    } as const
    for (const [recipe, options] of Object.entries(recipes)) {
      const out = join(folder(t), recipe)
      const report = await quantizeModel(directory, out, { ...common, ...options })
      t.ok(report.tensors.length >= 8, `${report.tensors.length} modules are quantized`)
      const error = await errorOf(out, expected)
      t.ok(error < 0.03, `${recipe}: logits differ by ${error}`)
    }
    const fine = await errorOf(directory, expected)
    t.ok(fine < 1e-5, `unquantized they differ by ${fine}`)
  })

  t.test(`${name}: dividing the source of a group and multiplying its targets changes nothing`, async t => {
    const { directory, weights } = checkpoint(t, config)
    const opened = await Checkpoint.open(directory)
    t.teardown(() => opened.dispose())
    const program = describeModel(opened.config, tensor => opened.has(tensor))
    const changed: Weights = { ...weights }
    for (let layer = 0; layer < program.blocks.length; layer++) {
      const prefix = program.blockPrefix(layer)
      const block = new BlockWeights(opened, prefix, program.sections[program.blocks[layer]!]!)
      const groups = program.scaleGroups(layer)
      t.ok(groups.length >= 3, `${groups.length} groups`)
      for (const group of groups) {
        const [, k] = block.shape(group.targets[0]!)
        const scale = Float32Array.from({ length: k / group.repeat }, () => 0.4 + 2 * next())
        const effective = await block.divideSource(group.source, scale)
        const columns = sharedFloats(k)
        for (let column = 0; column < k; column++) columns[column] = effective[sourceOf(column, group)]!
        for (const target of group.targets) await block.scaleLinear(target, null, columns)
      }
      for (const module of block.changedLinears) {
        const tensor = `${prefix}${module}.weight`
        const [n, k] = block.shape(module)
        const values = await block.linear(module)
        const { shape } = weights[tensor]!
        // GPT-2's are [in, out].
        const at = (i: number) => (shape[0] === n && config.model_type !== "gpt2" ? i : (i % n) * k + Math.floor(i / n))
        changed[tensor] = { shape, values: Float64Array.from(values, (_, i) => values[at(i)]!) }
      }
      for (const [tensor, values] of block.changedVectors)
        changed[prefix + tensor] = { shape: [values.length], values: Float64Array.from(values) }
    }
    t.not(Object.keys(changed).filter(tensor => changed[tensor] !== weights[tensor]).length, 0)
    const before = familyForward(config, weights, ids)
    const after = familyForward(config, changed, ids)
    const size = Math.max(...before.map(row => Math.max(...row.map(Math.abs))))
    const worst = Math.max(
      ...before.map((row, i) => Math.max(...row.map((value, j) => Math.abs(value - after[i]![j]!)))),
    )
    t.ok(worst < 1e-5 * size, `largest difference ${worst} of logits up to ${size}`)
  })
}

/** Query heads that share a KV head are scaled alike. */
function sourceOf(column: number, { repeat, blockWidth }: ScaleGroup): number {
  if (repeat === 1) return column
  return Math.floor(column / blockWidth / repeat) * blockWidth + (column % blockWidth)
}

t.test("weights stored [in, out] go into GPTQ files only", async t => {
  const { directory } = checkpoint(t, configs.gpt2!)
  for (const format of ["awq", "compressed-tensors"] as const)
    await t.rejects(quantizeModel(directory, join(folder(t), format), { format, groupSize: 32, onWarning: () => {} }), {
      code: "ERR_UNSUPPORTED",
      message: new RegExp(
        `h.0.attn.c_attn: its weight is stored \\[in, out\\], which ${format} has no place for: use format gptq`,
      ),
    })
  const out = join(folder(t), "gptq")
  await quantizeModel(directory, out, { format: "gptq", groupSize: 32, ignore: ["mlp.c_fc"], onWarning: () => {} })
  const quantized = await Checkpoint.open(out)
  t.teardown(() => quantized.dispose())
  t.same(quantized.entry("transformer.h.0.mlp.c_fc.weight").shape, [64, 256], "left as it was")
  t.same(quantized.entry("transformer.h.0.attn.c_attn.qweight").shape, [8, 192], "packed along the inputs")
})
