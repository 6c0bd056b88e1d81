import t from "tap"
import { describeModel } from "../../../lib/models/registry.ts"
import { tinyConfig } from "./support/tiny-checkpoint.ts"

const program = describeModel({ ...tinyConfig, model_type: "qwen3", head_dim: 6 })

t.test("a block reads the residual first, writes it last, and every other slot once", async t => {
  const { ops } = program.sections[program.blocks[0]!]!
  t.ok(ops[0]!.in.includes(0))
  const written = ops.map(op => op.out)
  t.equal(written.indexOf(0), ops.length - 1, "slot 0 is written by the last operation only")
  t.equal(new Set(written).size, written.length)
  const known = new Set([0])
  for (const op of ops) {
    for (const slot of op.in) t.ok(known.has(slot), `${op.kind} reads slot ${slot} after it was written`)
    known.add(op.out)
  }
})

t.test("linears of one input follow each other, so that they run as one call", async t => {
  const { ops } = program.sections[program.blocks[0]!]!
  const runs: number[] = []
  ops.forEach((op, i) => {
    if (op.kind !== "linear") return
    const before = ops[i - 1]!
    if (before.kind === "linear" && before.in[0] === op.in[0]) runs[runs.length - 1]!++
    else runs.push(1)
  })
  t.same(runs, [3, 1, 2, 1], "q, k and v; o; gate and up; down")
})

t.test("scale groups follow GQA", async t => {
  const groups = program.scaleGroups(0)
  t.same(
    groups.map(group => [...group.targets]),
    [
      ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
      ["self_attn.o_proj"],
      ["mlp.gate_proj", "mlp.up_proj"],
      ["mlp.down_proj"],
    ],
  )
  t.match(groups[1], { source: { kind: "linear", module: "self_attn.v_proj" }, repeat: 2, blockWidth: 6 })
  t.same(
    groups.map(group => group.repeat),
    [1, 2, 1, 1],
  )
})

t.test("names", async t => {
  t.equal(program.blockPrefix(2), "model.layers.2.")
  t.equal(program.head, "lm_head")
  t.equal(describeModel({ ...tinyConfig, tie_word_embeddings: true }).head, "model.embed_tokens")
})

t.test("layers with the same window share a template", async t => {
  const mixed = describeModel({
    ...tinyConfig,
    model_type: "qwen2",
    use_sliding_window: true,
    sliding_window: 4,
    max_window_layers: 2,
  })
  t.same(mixed.blocks, [1, 1, 2])
  t.equal(mixed.sections.length, 4)
})
