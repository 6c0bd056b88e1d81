// Mixtures of experts as GGUF files: stacked matrices, metadata, importance, and what is refused.
import { cpSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { Gguf } from "../../../lib/containers/gguf.ts"
import { GgufWriter } from "../../../lib/containers/gguf-writer.ts"
import { readImportance } from "../../../lib/containers/imatrix-files.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { decodeBlocks } from "../../../lib/formats/gguf-blocks.ts"
import { convertModel } from "../../../lib/quantize/convert-model.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { fable, folder, logits, relativeDistance, smallCheckpoint, tokens } from "./support.ts"

const mixtral = { model_type: "mixtral", num_local_experts: 8, num_experts_per_tok: 2, num_hidden_layers: 2 }
const qwen = {
  model_type: "qwen3_moe",
  num_experts: 6,
  num_experts_per_tok: 3,
  moe_intermediate_size: 32,
  norm_topk_prob: true,
  num_hidden_layers: 2,
  head_dim: 16,
}
const ids = tokens(40, 64, 9)

/** GGUF files need a tokenizer of theirs: fable-5m's. */
function withTokenizer(t: Parameters<typeof smallCheckpoint>[0], change: Record<string, unknown>): string {
  const source = smallCheckpoint(t, { ...change, vocab_size: 2048 })
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join(fable, file), join(source, file))
  return source
}

for (const [name, change, architecture] of [
  ["mixtral", mixtral, "llama"],
  ["qwen3_moe", qwen, "qwen3moe"],
] as const)
  t.test(`${name} as a GGUF file computes the same`, async t => {
    const source = withTokenizer(t, change)
    const dense = await logits(source, ids)
    const out = join(folder(t), "model.gguf")
    await quantizeModel(source, out, { preset: "f32" })
    t.ok(relativeDistance(await logits(out, ids), dense) < 1e-5)
    const gguf = await Gguf.open(out)
    t.teardown(() => gguf.dispose())
    const number = (key: string) => Number(gguf.metadata.get(`${architecture}.${key}`)?.value)
    const { count, perToken, inner } =
      name === "mixtral" ? { count: 8, perToken: 2, inner: 96 } : { count: 6, perToken: 3, inner: 32 }
    t.equal(number("expert_count"), count)
    t.equal(number("expert_used_count"), perToken)
    t.equal(gguf.metadata.get(`${architecture}.expert_feed_forward_length`)?.value, name === "mixtral" ? undefined : 32)
    t.same(gguf.entry("blk.1.ffn_gate_exps.weight").shape, [count, inner, 64])
    t.same(gguf.entry("blk.1.ffn_down_exps.weight").shape, [count, 64, inner])
    t.equal(gguf.entry("blk.1.ffn_gate_inp.weight").type.name, "F32")

    for (const preset of ["q8_0", "q4_0"] as const) {
      const quantized = join(folder(t), "model.gguf")
      const saveImatrix = join(folder(t), "imatrix.gguf")
      const weighed = { calibration: tokens(8 * 32), samples: 8, sequenceLength: 32, saveImatrix }
      const report = await quantizeModel(source, quantized, { preset, ...weighed })
      const distance = relativeDistance(await logits(quantized, ids), dense)
      t.ok(distance < (preset === "q8_0" ? 0.05 : 0.5), `${preset}: ${distance}`)
      const types = new Map(report.tensors.map(({ name, type }) => [name, type]))
      t.equal(types.get("blk.0.ffn_gate_inp.weight"), "F32")
      t.equal(types.get("blk.0.attn_k.weight"), count === 8 ? "Q8_0" : preset.toUpperCase())
      const { entries } = await readImportance(saveImatrix)
      const entry = entries.get("blk.1.ffn_down_exps.weight")!
      t.equal(entry.counts.length, count)
      t.equal(entry.sums.length, count * inner)
      t.equal(
        entry.counts.reduce((a, b) => a + b, 0),
        8 * 32 * perToken,
        "every token reached as many experts as it goes through",
      )
      t.equal(entries.get("blk.1.ffn_gate_exps.weight")!.sums.length, count * 64)
      const requantized = join(folder(t), "model.gguf")
      await convertModel(out, requantized, { preset })
      t.ok(relativeDistance(await logits(requantized, ids), dense) < (preset === "q8_0" ? 0.05 : 0.5))
      const file = await Gguf.open(requantized)
      t.equal(file.entry("blk.1.ffn_down_exps.weight").type.name, preset.toUpperCase())
      file.dispose()
    }
  })

t.test("experts lie one behind the other", async t => {
  const source = withTokenizer(t, qwen)
  const out = join(folder(t), "model.gguf")
  await quantizeModel(source, out, { preset: "f32" })
  const gguf = await Gguf.open(out)
  t.teardown(() => gguf.dispose())
  const name = "blk.0.ffn_up_exps.weight"
  const all = await decodeBlocks(gguf.entry(name), gguf.mapped(name))
  const checkpoint = await Checkpoint.open(source)
  t.teardown(() => checkpoint.dispose())
  for (let e = 0; e < 6; e++)
    t.same(
      all.slice(e * 32 * 64, (e + 1) * 32 * 64),
      await checkpoint.floats(`model.layers.0.mlp.experts.${e}.up_proj.weight`),
    )
})

t.test("what llama.cpp cannot compute, and what this version does not round", async t => {
  const out = join(folder(t), "model.gguf")
  const refused = async (change: Record<string, unknown>, message: RegExp) =>
    t.rejects(quantizeModel(withTokenizer(t, change), out, { preset: "q8_0" }), { code: "ERR_UNSUPPORTED", message })
  await refused({ ...qwen, norm_topk_prob: false }, /norm_topk_prob false/)
  await refused({ ...qwen, mlp_only_layers: [1] }, /layers without experts/)
  await refused({ ...qwen, mlp_only_layers: [0, 1] }, /no layer with experts/)
  await refused({ ...mixtral, sliding_window: 8 }, /sliding window of 8/)
  const source = withTokenizer(t, mixtral)
  const calibrated = { calibration: tokens(8 * 32), samples: 8, sequenceLength: 32 }
  await t.rejects(quantizeModel(source, out, { preset: "q4_0", rounding: "gptq", ...calibrated }), {
    code: "ERR_UNSUPPORTED",
    message: /does not know mixtures of experts \(mixtral\)/,
  })
})

for (const [name, change] of [
  ["mixtral", mixtral],
  ["qwen3_moe", qwen],
] as const)
  t.test(`${name} is converted both ways, value by value`, async t => {
    const source = withTokenizer(t, change)
    const dense = await logits(source, ids)
    const file = join(folder(t), "model.gguf")
    const report = await convertModel(source, file)
    t.ok(report.exact)
    t.ok(relativeDistance(await logits(file, ids), dense) < 1e-6)
    const back = join(folder(t), "out")
    await convertModel(file, back, { format: "dense" })
    t.ok(relativeDistance(await logits(back, ids), dense) < 1e-6)
    const [first, second] = [await Checkpoint.open(source), await Checkpoint.open(back)]
    t.teardown(() => {
      first.dispose()
      second.dispose()
    })
    t.same([...second.names].sort(), [...first.names].sort())
    for (const tensor of first.names) t.same(await second.floats(tensor), await first.floats(tensor), tensor)
    t.equal(second.config.model_type, name)
  })

t.test("codes of experts become blocks, and codes again", async t => {
  const source = withTokenizer(t, qwen)
  const gptq = join(folder(t), "gptq")
  const recipe = { scheme: "w4a16", groupSize: 32, rounding: "nearest", format: "gptq" } as const
  await quantizeModel(source, gptq, recipe)
  const expected = await logits(gptq, ids)
  const file = join(folder(t), "model.gguf")
  await convertModel(gptq, file)
  const gguf = await Gguf.open(file)
  t.teardown(() => gguf.dispose())
  t.equal(gguf.entry("blk.1.ffn_down_exps.weight").type.name, "Q4_0")
  t.equal(gguf.entry("blk.1.ffn_gate_inp.weight").type.name, "F32")
  t.ok(relativeDistance(await logits(file, ids), expected) < 1e-5)
  const back = join(folder(t), "back")
  await convertModel(file, back, { format: "gptq" })
  t.ok(relativeDistance(await logits(back, ids), expected) < 1e-5)
  const module = "model.layers.0.mlp.experts.3.up_proj.qweight"
  const [first, second] = [await Checkpoint.open(gptq), await Checkpoint.open(back)]
  t.teardown(() => {
    first.dispose()
    second.dispose()
  })
  t.same(await second.readBytes(module), await first.readBytes(module))
})

t.test("experts of several types", async t => {
  const source = withTokenizer(t, qwen)
  const mixed = join(folder(t), "mixed")
  const recipe = { scheme: "w4a16", groupSize: 32, rounding: "nearest", format: "compressed-tensors" } as const
  await quantizeModel(source, mixed, { ...recipe, overrides: [{ pattern: "*.experts.2.up_proj", scheme: "w8a16" }] })
  const file = join(folder(t), "model.gguf")
  await t.rejects(convertModel(mixed, file), {
    code: "ERR_UNSUPPORTED",
    message: /experts.2.up_proj.*beside experts that are Q4_0/s,
  })
  await convertModel(mixed, file, { preset: "q8_0", allowRequantize: true })
  t.ok(relativeDistance(await logits(file, ids), await logits(mixed, ids)) < 0.05)
})

t.test("files whose experts do not fit their metadata", async t => {
  const source = withTokenizer(t, mixtral)
  const good = join(folder(t), "model.gguf")
  await quantizeModel(source, good, { preset: "f32" })
  const gguf = await Gguf.open(good)
  t.teardown(() => gguf.dispose())
  const rewritten = async (
    edit: (tensor: { name: string; shape: readonly number[] }) => number[] | null,
    count?: number,
  ) => {
    const path = join(folder(t), "bad.gguf")
    const metadata = new Map(gguf.metadata)
    if (count !== undefined) metadata.set("llama.expert_count", { type: "u32", value: count })
    const tensors = [...gguf.entries.values()].flatMap(entry => {
      const shape = edit(entry)
      return shape === null ? [] : [{ name: entry.name, type: entry.type, shape }]
    })
    const writer = await GgufWriter.create(path, { metadata, tensors, force: false, signal: undefined })
    for (const { name, shape } of tensors)
      await writer.write(name, new Uint8Array(new SharedArrayBuffer(4 * shape.reduce((a, b) => a * b, 1))))
    await writer.finish()
    return path
  }
  const exps = "blk.1.ffn_up_exps.weight"
  const same = ({ shape }: { shape: readonly number[] }) => [...shape]
  const cases: [string, RegExp][] = [
    [await rewritten(same, 9), /ffn_gate_inp.weight is \[8, 64\], expected \[9, 64\]/],
    [await rewritten(e => (e.name === exps ? [4, 96, 64] : same(e))), /ffn_up_exps.weight is \[4, 96, 64\]/],
    [await rewritten(e => (e.name === exps ? [8 * 96, 64] : same(e))), /ffn_up_exps.weight is \[768, 64\]/],
    [await rewritten(e => (e.name === exps ? null : same(e))), /ffn_up_exps.weight" is missing/],
    [await rewritten(same, 0), /expert_used_count is 2, expected/],
  ]
  for (const [path, message] of cases) await t.rejects(loadModel(path), { message })
})
