import t from "tap"
import { sharedFloats, sharedInts, Tensor } from "../../../lib/core/tensor.ts"
import { type PackedWeight, prepackDense } from "../../../lib/kernels/packed-weight.ts"
import { describeModel } from "../../../lib/models/registry.ts"
import { type BoundSection, ModelRunner, type WeightSource } from "../../../lib/models/runner.ts"
import { native } from "../../../lib/native.ts"
import { ropeVectors } from "./support/reference-models.ts"
import { randomWeights, tinyConfig } from "./support/tiny-checkpoint.ts"

const program = describeModel(tinyConfig)
const weights = randomWeights(tinyConfig, 5)
const prefix = program.blockPrefix(0)

const floats = (name: string) => {
  const values = sharedFloats(weights[name]!.values.length)
  values.set(weights[name]!.values)
  return values
}
const source: WeightSource = {
  linear: (module, n, k) => prepackDense(Tensor.from(floats(`${module}.weight`), [n, k])),
  vector: async tensor => floats(tensor),
}

const rows = 20
const hidden = sharedFloats(rows * 24).map((_, i) => Math.sin(i))
const input = sharedFloats(rows * 24)
input.set(hidden)

/** Output of one block, over two sequences of 12 and 8 rows. */
async function runBlock(runner: ModelRunner, section: BoundSection): Promise<Float32Array> {
  const out = sharedFloats(rows * 24)
  const cache = runner.createCache(1, 2)
  await runner.step({
    runs: [{ section }],
    rows,
    sequences: [
      { rows: 12, context: 0, pages: [0] },
      { rows: 8, context: 0, pages: [1] },
    ],
    cache,
    hidden: input,
    observers: [{ run: 0, op: program.sections[1]!.ops.length - 1, slot: 0, reduction: "copy", out }],
  })
  cache.dispose()
  return out
}

t.test("a linear or a vector is replaced in a copy", async t => {
  const runner = new ModelRunner(program)
  const section = await runner.bindSection(1, prefix, source)
  const before = await runBlock(runner, section)
  const zeros = await prepackDense(Tensor.empty([24, 40]))
  const silenced = section.set("mlp.down_proj", zeros)
  const after = await runBlock(runner, silenced)
  t.notSame(after, before)
  const doubled = section.setVector(
    "input_layernorm.weight",
    floats(`${prefix}input_layernorm.weight`).map(x => 2 * x),
  )
  t.notSame(await runBlock(runner, doubled), before)
  doubled.dispose()
  t.same(await runBlock(runner, section), before, "the section itself is unchanged")

  t.throws(() => section.set("mlp.other", zeros), { code: "ERR_OPTION", message: /mlp.other is not a linear/ })
  t.throws(() => section.set("mlp.up_proj", zeros), {
    code: "ERR_SHAPE",
    message: /is \[24, 40\], expected \[40, 24\]/,
  })
  t.throws(() => section.setVector("norm", sharedFloats(24)), { code: "ERR_OPTION", message: /norm is not a vector/ })
  t.throws(() => section.setVector("input_layernorm.weight", sharedFloats(3)), {
    code: "ERR_SHAPE",
    message: /3 values, expected 24/,
  })
  for (const item of [section, zeros, runner]) item.dispose()
})

t.test("a suffix of a block runs again on what its slots hold", async t => {
  const runner = new ModelRunner(program)
  const section = await runner.bindSection(1, prefix, source)
  const before = await runBlock(runner, section)
  const { ops } = program.sections[1]!
  const gate = ops.findIndex(op => op.kind === "gated")
  const out = sharedFloats(rows * 24)
  await runner.step({
    runs: [{ section, opBegin: gate }],
    rows,
    sequences: [{ rows, context: 0, pages: [] }],
    observers: [{ run: 0, op: ops.length - 1, slot: 0, reduction: "copy", out }],
  })
  t.same(out, before)
  section.dispose()
  runner.dispose()
})

t.test("everything native is freed, also where binding fails halfway", async t => {
  const before = native.handleCount()
  const runner = new ModelRunner(program)
  const section = await runner.bindSection(1, prefix, source)
  t.ok(native.handleCount() > before + 10)
  section.dispose()
  section.dispose()
  t.throws(() => section.weights, { code: "ERR_OPTION", message: /were disposed/ })
  const failing: WeightSource = {
    ...source,
    vector: async tensor => {
      if (tensor.includes("post_attention")) throw new Error("unreadable")
      return floats(tensor)
    },
  }
  await t.rejects(runner.bindSection(1, prefix, failing), /unreadable/)
  const narrow: WeightSource = { ...source, linear: async (_, n) => prepackDense(Tensor.empty([n, 3])) }
  await t.rejects(runner.bindSection(1, prefix, narrow), {
    code: "ERR_SHAPE",
    message: /q_proj.weight is \[24, 3\], expected \[24, 24\]/,
  })
  t.throws(() => runner.bindSection(9, "", source), { code: "ERR_OPTION", message: /section is 9/ })
  runner.dispose()
  t.equal(native.handleCount(), before)
})

t.test("a source that shares a weight is told when it is free", async t => {
  const runner = new ModelRunner(program)
  const released: string[] = []
  const section = await runner.bindSection(0, "", {
    ...source,
    release: (module, weight: PackedWeight) => {
      released.push(module)
      weight.dispose()
    },
  })
  section.dispose()
  t.same(released, ["model.embed_tokens"])
  runner.dispose()
})

t.test("token ids outside the vocabulary are refused before anything runs", async t => {
  const runner = new ModelRunner(program)
  const section = await runner.bindSection(0, "", source)
  const tokens = sharedInts(1)
  tokens[0] = 37
  await t.rejects(
    async () => runner.step({ runs: [{ section }], rows: 1, tokens, sequences: [{ rows: 1, context: 0, pages: [] }] }),
    { code: "ERR_OPTION", message: /expected a token id from 0 to 36/ },
  )
  section.dispose()
  runner.dispose()
})

t.test("rotation pairs element i with i + d/2", async t => {
  const { x, angles, y } = ropeVectors()["rope-half-split"] as { x: number[]; angles: number[]; y: number[] }
  const runner = new ModelRunner({
    ...program,
    slots: [8, 8],
    sections: [
      {
        ops: [{ kind: "rope", in: [0], out: 1, weights: [0], p: [1, 8, 8, 1] }],
        weights: [{ kind: "constant", values: Float32Array.from(angles) }],
      },
    ],
  })
  const section = await runner.bindSection(0, "", source)
  const hidden = sharedFloats(8)
  hidden.set(x)
  const out = sharedFloats(8)
  await runner.step({
    runs: [{ section }],
    rows: 1,
    // At position 1 the angles are the inverse frequencies.
    sequences: [{ rows: 1, context: 1, pages: [] }],
    hidden,
    observers: [{ run: 0, op: 0, slot: 1, reduction: "copy", out }],
  })
  y.forEach((value, i) => {
    t.ok(Math.abs(out[i]! - value) < 1e-6 * Math.abs(value) + 1e-7, `[${i}]`)
  })
  section.dispose()
  runner.dispose()
})
