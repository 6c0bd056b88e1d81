// A rotation leaves a model's function as it is, on every architecture; what it cannot turn is refused by what stands in the way.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t, { type Test } from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import type { ModelProgram, Op, Section } from "../../../lib/models/program.ts"
import { describeModel } from "../../../lib/models/registry.ts"
import { streamAccess } from "../../../lib/models/residual-stream.ts"
import { prepareRotation, rotate } from "../../../lib/transforms/hadamard.ts"
import { writeDense } from "../models/support/dense-checkpoint.ts"
import { families, familyWeights } from "../models/support/family-models.ts"
import { writeCheckpoint as writeTiny } from "../models/support/tiny-checkpoint.ts"
import { folder, logits, relativeDistance, smallCheckpoint, smallConfig, tokens } from "../quantize/support.ts"

/** The rotated model, unquantized, in a folder of its own. */
async function rotated(t: Test, source: string, keepsFloats: boolean, seed = 0): Promise<string> {
  const out = join(folder(t), "rotated")
  const checkpoint = await Checkpoint.open(source)
  try {
    const program = prepareRotation(
      checkpoint,
      describeModel(checkpoint.config, name => checkpoint.has(name)),
    )
    rotate(checkpoint, program, seed, () => keepsFloats)
    await writeDense(checkpoint, out)
  } finally {
    checkpoint.dispose()
  }
  return out
}

const ids = tokens(48)
const norms = ({ length }: { length: number }) => Float64Array.from({ length }, (_, i) => 0.5 + ((i * 7) % 13) / 9)

for (const [name, change] of [
  ["tied", {}],
  ["untied", { tie_word_embeddings: false }],
  ["biases everywhere", { attention_bias: true, mlp_bias: true, tie_word_embeddings: false }],
  ["qwen2, grouped queries", { model_type: "qwen2", num_key_value_heads: 1 }],
  ["qwen3, norms of heads", { model_type: "qwen3", head_dim: 24 }],
  ["mistral, windows", { model_type: "mistral", sliding_window: 8 }],
  ["mixtral", { model_type: "mixtral", num_local_experts: 4, num_experts_per_tok: 2 }],
  [
    "qwen3_moe, some blocks without experts",
    {
      ...{ model_type: "qwen3_moe", num_experts: 5, num_experts_per_tok: 3, moe_intermediate_size: 32 },
      ...{ norm_topk_prob: true, mlp_only_layers: [1], head_dim: 16 },
    },
  ],
  ["a hidden size of 5 * 16", { hidden_size: 80, num_attention_heads: 5, num_key_value_heads: 5 }],
  ["blocks of 2 in a hidden size of 3 * 2", { hidden_size: 6, num_attention_heads: 3, num_key_value_heads: 3 }],
] as const)
  t.test(`the function stays: ${name}`, async t => {
    const source = smallCheckpoint(t, change, "F32", weights => {
      for (const [tensor, { values }] of Object.entries(weights)) if (tensor.includes("norm")) values.set(norms(values))
    })
    const [before, out] = [await logits(source, ids), await rotated(t, source, true)]
    const distance = relativeDistance(await logits(out, ids), before)
    t.ok(distance < 1e-5, `the same logits: ${distance.toExponential(1)}`)
    const config = JSON.parse(readFileSync(join(out, "config.json"), "utf8"))
    t.equal(config.tie_word_embeddings, false)
    const [plain, turned] = [await Checkpoint.open(source), await Checkpoint.open(out)]
    t.teardown(() => {
      plain.dispose()
      turned.dispose()
    })
    t.ok(turned.has("lm_head.weight"))
    const q = "model.layers.0.self_attn.q_proj.weight"
    t.ok(relativeDistance(await turned.floats(q), await plain.floats(q)) > 0.5, "weights are others")
    t.ok((await turned.floats("model.norm.weight")).every(value => value === 1))
  })

const reasons: Record<string, RegExp> = {
  gemma2: /gemma2 models unchanged: the output of post_attention_layernorm\.weight is added to the residual stream/,
  gemma3: /the output of post_attention_layernorm\.weight is added to the residual stream/,
  gemma3_text: /the output of post_attention_layernorm\.weight is added to the residual stream/,
  gpt_neox: /input_layernorm\.weight reads the residual stream, and changes with the stream's coordinates/,
  gpt2: /the output of (transformer\.)?wpe is added to the residual stream/,
}
for (const [name, config] of Object.entries(families))
  t.test(`families: ${name}`, async t => {
    const source = t.testdir()
    writeTiny(source, config, familyWeights(config, 11, "F32"), "F32")
    const reason = reasons[config.model_type as string]
    if (reason) {
      await t.rejects(rotated(t, source, true), { code: "ERR_UNSUPPORTED", message: reason })
      return
    }
    const short = tokens(24, config.vocab_size as number)
    const distance = relativeDistance(await logits(await rotated(t, source, true), short), await logits(source, short))
    t.ok(distance < 1e-5, `the same logits: ${distance.toExponential(1)}`)
  })

t.test("what stays in 16 bits is rounded once, other seeds turn otherwise", async t => {
  const source = smallCheckpoint(t)
  const before = await logits(source, ids)
  const out = await rotated(t, source, false)
  const distance = relativeDistance(await logits(out, ids), before)
  t.ok(distance > 1e-5 && distance < 2e-2, `rounded to bfloat16: ${distance.toExponential(1)}`)
  const [a, b] = [await Checkpoint.open(out), await Checkpoint.open(await rotated(t, source, false, 1))]
  t.teardown(() => {
    a.dispose()
    b.dispose()
  })
  t.equal(a.entry("lm_head.weight").dtype, "BF16")
  t.notSame(await a.floats("lm_head.weight"), await b.floats("lm_head.weight"))
})

t.test("outliers of channels are spread", async t => {
  const source = smallCheckpoint(t, {}, "F32", weights => {
    const { shape, values } = weights["model.embed_tokens.weight"]!
    for (let row = 0; row < shape[0]!; row++) values[row * shape[1]! + 5]! *= 100
  })
  const checkpoint = await Checkpoint.open(source)
  t.teardown(() => checkpoint.dispose())
  const peak = async () => {
    const values = await checkpoint.floats("model.embed_tokens.weight")
    return Math.max(...values.map(Math.abs)) / Math.sqrt(values.reduce((sum, v) => sum + v * v, 0) / values.length)
  }
  const before = await peak()
  rotate(
    checkpoint,
    prepareRotation(
      checkpoint,
      describeModel(checkpoint.config, name => checkpoint.has(name)),
    ),
    0,
    () => true,
  )
  t.ok((await peak()) < before / 2)
  t.throws(() => checkpoint.tensor("model.embed_tokens.weight"), { code: "ERR_UNSUPPORTED", message: /is computed/ })
  await t.rejects(checkpoint.readBytes("model.norm.weight"), { code: "ERR_UNSUPPORTED" })
})

/** The program of the small model with other operations in its blocks. */
function changed(edit: (section: Section) => readonly Op[]): ModelProgram {
  const program = describeModel(smallConfig)
  const sections = program.sections.map((section, index) =>
    index === program.blocks[0] ? { ...section, ops: edit(section) } : section,
  )
  return { ...program, sections }
}

t.test("programs whose stream is not free are refused", t => {
  const refused = (edit: (section: Section) => readonly Op[], message: RegExp) =>
    t.throws(() => streamAccess(changed(edit)), { code: "ERR_UNSUPPORTED", message })
  const at = (section: Section, kind: string, nth = 0) => section.ops.filter(op => op.kind === kind)[nth]!
  refused(section => {
    const o = at(section, "linear", 3)
    const norm: Op = { ...at(section, "rmsNorm", 1), in: [o.out], out: o.out }
    return section.ops.flatMap(op => (op === o ? [o, norm] : [op]))
  }, /the output of post_attention_layernorm\.weight is added to the residual stream/)
  refused(
    section => section.ops.map(op => (op.kind === "rmsNorm" ? { ...op, kind: "layerNorm" as Op["kind"] } : op)),
    /input_layernorm\.weight reads the residual stream, and changes with the stream's coordinates/,
  )
  refused(section => {
    const [gate, up] = [at(section, "linear", 4), at(section, "gated")]
    return section.ops.map(op => (op === up ? { ...op, in: [gate.in[0]!, op.in[1]!] } : op))
  }, /gated reads the residual stream/)
  refused(section => {
    const down = at(section, "linear", 6)
    const gated: Op = { ...at(section, "gated"), in: [down.out, down.out], out: at(section, "gated").out }
    return section.ops.flatMap(op => (op === down ? [down, gated] : [op]))
  }, /mlp\.down_proj feeds more than the residual stream/)
  refused(section => section.ops.slice(0, -1).concat({ ...section.ops[0]!, out: 0 }), /not the residual stream alone/)
  t.end()
})

t.test("who reads and who writes", t => {
  const [prologue, block, epilogue] = streamAccess(describeModel({ ...smallConfig, model_type: "qwen3" }))
  t.strictSame(prologue!.tables, ["model.embed_tokens"])
  t.strictSame(
    block!.readers.map(({ module, norm }) => [module, norm?.tensor]),
    [
      ...["q", "k", "v"].map(part => [`self_attn.${part}_proj`, "input_layernorm.weight"]),
      ...["gate", "up"].map(part => [`mlp.${part}_proj`, "post_attention_layernorm.weight"]),
    ],
  )
  t.strictSame(block!.writers, ["self_attn.o_proj", "mlp.down_proj"])
  t.strictSame(block!.values, [{ source: "self_attn.v_proj", targets: ["self_attn.o_proj"], headDim: 128 }])
  t.strictSame(epilogue!.readers, [{ module: "model.embed_tokens", norm: { tensor: "model.norm.weight", offset: 0 } }])
  t.end()
})

t.test("router, gate and up of all experts read the stream, their down writes it", t => {
  const mixture = { ...smallConfig, model_type: "mixtral", num_local_experts: 3, num_experts_per_tok: 2 }
  const { readers, writers } = streamAccess(describeModel(mixture))[1]!
  const experts = (part: string) => [0, 1, 2].map(e => `block_sparse_moe.experts.${e}.${part}`)
  const behind = readers.filter(({ norm }) => norm!.tensor === "post_attention_layernorm.weight")
  t.strictSame(
    behind.map(({ module }) => module),
    ["block_sparse_moe.gate", ...experts("w1"), ...experts("w3")],
  )
  t.strictSame(writers, ["self_attn.o_proj", ...experts("w2")])
  t.end()
})

t.test("a hidden size that no matrix divides", async t => {
  const change = { hidden_size: 9, num_attention_heads: 3, num_key_value_heads: 3, head_dim: 4 }
  const checkpoint = await Checkpoint.open(smallCheckpoint(t, change))
  t.teardown(() => checkpoint.dispose())
  t.throws(
    () =>
      prepareRotation(
        checkpoint,
        describeModel(checkpoint.config, name => checkpoint.has(name)),
      ),
    {
      code: "ERR_UNSUPPORTED",
      message: /no Hadamard matrix has an order that divides the hidden size 9/,
    },
  )
})
