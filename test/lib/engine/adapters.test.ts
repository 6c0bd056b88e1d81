// LoRA adapters beside a model's weights: held against the same adapter merged into f32 weights, several in one step.
import { cpSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t, { type Test } from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { SafetensorsWriter } from "../../../lib/containers/safetensors-writer.ts"
import { sharedFloats, sharedInts } from "../../../lib/core/tensor.ts"
import { convertModel, evaluateModel, loadModel, type Model, quantizeModel } from "../../../lib/index.ts"
import { pagesFor } from "../../../lib/models/sequence.ts"
import { tsqError } from "../containers/support.ts"
import { adapter, f32, type Pair, pair } from "../quantize/adapter-files.ts"
import { folder, relativeDistance, smallCheckpoint } from "../quantize/support.ts"

const q = (layer: number) => `model.layers.${layer}.self_attn.q_proj`
const first: Record<string, Pair> = {
  [q(0)]: pair(1, 64, 64, 4),
  [q(1)]: pair(2, 64, 64, 4),
  "model.layers.0.mlp.up_proj": pair(3, 96, 64, 4),
  "model.layers.1.mlp.down_proj": pair(4, 64, 96, 4),
}
const second: Record<string, Pair> = {
  "model.layers.0.self_attn.v_proj": pair(5, 32, 64, 3),
  [q(1)]: pair(6, 64, 64, 3),
}
const ids = [1, 17, 5, 31, 44, 7, 9, 20, 3, 63, 11]

async function logitsOf(model: Model, name: string | null): Promise<Float32Array> {
  return (await model.forward(ids, { adapter: name })).data as Float32Array
}

/** A copy of a dense checkpoint in f32 with W + scale · B·A for some weights. */
async function mergedCheckpoint(t: Test, source: string, pairs: Record<string, Pair>, scale: number): Promise<string> {
  const out = join(folder(t), "merged")
  cpSync(source, out, {
    recursive: true,
    filter: path => !path.endsWith(".safetensors") && !path.endsWith("index.json"),
  })
  const config = JSON.parse(readFileSync(join(out, "config.json"), "utf8")) as Record<string, unknown>
  writeFileSync(join(out, "config.json"), JSON.stringify({ ...config, torch_dtype: "float32", dtype: "float32" }))
  const checkpoint = await Checkpoint.open(source)
  const writer = new SafetensorsWriter(out)
  try {
    for (const name of checkpoint.names) {
      const { shape } = checkpoint.entry(name)
      const values = (await checkpoint.floats(name)).slice()
      const own = pairs[name.replace(/\.weight$/, "")]
      if (own)
        for (let i = 0; i < values.length; i++) {
          const [row, column] = [Math.floor(i / shape[1]!), i % shape[1]!]
          values[i]! += scale * own.a.reduce((sum, inputs, r) => sum + own.b[row]![r]! * inputs[column]!, 0)
        }
      await writer.add({ name, dtype: "F32", shape, data: new Uint8Array(values.buffer) })
    }
    await writer.finish()
  } finally {
    checkpoint.dispose()
  }
  return out
}

t.test("products beside the weights equal weights with the products merged", async t => {
  const source = smallCheckpoint(t)
  const one = await adapter(t, {}, first)
  const two = await adapter(t, { r: 3, use_rslora: true }, second)
  const model = await loadModel(source, { adapters: { one } })
  t.teardown(() => model.dispose())
  await model.loadAdapter("two", two)
  t.same(model.adapters, ["one", "two"])
  const plain = await logitsOf(model, null)
  for (const [name, pairs, scale] of [
    ["one", first, 2],
    ["two", second, 8 / Math.sqrt(3)],
  ] as const) {
    const merged = await loadModel(await mergedCheckpoint(t, source, pairs, scale))
    const expected = await logitsOf(merged, null)
    merged.dispose()
    const found = await logitsOf(model, name)
    t.ok(relativeDistance(found, expected) < 2e-6, `${name}: ${relativeDistance(found, expected)}`)
    t.ok(relativeDistance(found, plain) > 1e-3, "and differ from the model without them")
  }
  t.same(await logitsOf(model, null), plain, "which is what it was")
})

t.test("over quantized weights", async t => {
  const source = smallCheckpoint(t)
  const path = await adapter(t, {}, first)
  for (const options of [
    { scheme: "nf4", groupSize: 32 },
    { scheme: "w4a16", groupSize: 32 },
  ] as const) {
    const [quantized, dense] = [join(folder(t), "quantized"), join(folder(t), "dense")]
    await quantizeModel(source, quantized, { ...options, onWarning: () => {} })
    await convertModel(quantized, dense, { format: "dense" })
    const [model, exact] = await Promise.all([quantized, dense].map(at => loadModel(at, { adapters: { one: path } })))
    const [found, expected] = [await logitsOf(model!, "one"), await logitsOf(exact!, "one")]
    const distance = relativeDistance(found, expected)
    t.ok(distance < 2e-6, `${options.scheme}: ${distance}`)
    t.ok(relativeDistance(found, await logitsOf(model!, null)) > 1e-3)
    model!.dispose()
    exact!.dispose()
  }
})

t.test("sequences of one step choose for themselves", async t => {
  const source = smallCheckpoint(t)
  const model = await loadModel(source, {
    adapters: { one: await adapter(t, {}, first), two: await adapter(t, { r: 3 }, second) },
  })
  t.teardown(() => model.dispose())
  const names = ["one", null, "two", "one"] as const
  const handleOf = (name: string | null) => model.adapterHandle("test", name)
  const rows = names.length * ids.length
  const pages = pagesFor(ids.length)
  const cache = model.createCache(names.length * pages)
  t.teardown(() => cache.dispose())
  const vocabulary = model.config.vocabularySize
  const logits = sharedFloats(rows * vocabulary)
  await model.step({
    runs: model.runs(true, rows),
    rows,
    tokens: sharedInts(rows).map((_, i) => ids[i % ids.length]!),
    sequences: names.map((name, s) => ({
      rows: ids.length,
      context: 0,
      pages: Array.from({ length: pages }, (_, page) => s * pages + page),
      adapter: handleOf(name),
    })),
    cache,
    epilogue: { mode: "logits", rows: sharedInts(rows).map((_, i) => i), logits },
  })
  for (const [s, name] of names.entries()) {
    const part = logits.subarray(s * ids.length * vocabulary, (s + 1) * ids.length * vocabulary)
    const distance = relativeDistance(part, await logitsOf(model, name))
    t.ok(distance < 1e-6, `sequence ${s}, ${name}: ${distance}`)
  }
})

t.test("in generation, perplexity and evaluation", async t => {
  const source = smallCheckpoint(t)
  const path = await adapter(t, {}, first)
  const merged = await mergedCheckpoint(t, source, first, 2)
  const model = await loadModel(source, { adapters: { one: path } })
  const exact = await loadModel(merged)
  t.teardown(() => model.dispose())
  t.teardown(() => exact.dispose())
  const greedy = { temperature: 0, maxTokens: 12, ignoreEos: true }
  const [mine, theirs] = [await model.complete(ids, { ...greedy, adapter: "one" }), await exact.complete(ids, greedy)]
  t.same(mine.tokens, theirs.tokens)
  const text = Array.from({ length: 130 }, (_, i) => (i * 37) % 64)
  const scored = await model.perplexity(text, { window: 64, adapter: "one" })
  t.ok(Math.abs(scored.nll - (await exact.perplexity(text, { window: 64 })).nll) < 1e-5)
  const result = await evaluateModel(source, {
    ids: text,
    window: 64,
    adapter: "one",
    load: { adapters: { one: path } },
    against: source,
  })
  t.ok(Math.abs(result.nll - scored.nll) < 1e-9)
  t.ok(result.against!.klMean > 1e-4, "the reference runs without")
})

t.test("what cannot run", async t => {
  const source = smallCheckpoint(t)
  const model = await loadModel(source)
  t.teardown(() => model.dispose())
  const good = await adapter(t, {}, first)
  const load = async (
    config: Record<string, unknown>,
    pairs: Record<string, Pair>,
    more: Parameters<typeof adapter>[3] = [],
  ) => model.loadAdapter("x", await adapter(t, config, pairs, more))
  await t.rejects(load({}, { [q(7)]: pair(1, 64, 64, 4) }), tsqError("ERR_FORMAT", /layers\.7.*another model/))
  await t.rejects(load({}, { [q(0)]: pair(1, 64, 32, 4) }), tsqError("ERR_SHAPE", /\[64, 32\].*\[64, 64\]/))
  await t.rejects(load({}, { lm_head: pair(1, 64, 64, 4) }), tsqError("ERR_UNSUPPORTED", /lm_head/))
  await t.rejects(
    load({}, first, [f32(`${q(0)}.base_layer.weight`, pair(1, 64, 64, 4).a)]),
    tsqError("ERR_UNSUPPORTED", /replaces/),
  )
  await t.rejects(load({ use_dora: true }, first), tsqError("ERR_UNSUPPORTED", /use_dora/))
  await t.rejects(model.loadAdapter("", good), tsqError("ERR_OPTION", /name/))
  await t.rejects(model.loadAdapter("x", join(good, "absent")), tsqError("ERR_IO"))
  await t.rejects(model.forward(ids, { adapter: "x" }), tsqError("ERR_OPTION", /no adapter is loaded/))
  await t.rejects(loadModel(source, { adapters: "x" as never }), tsqError("ERR_OPTION", /adapters/))
  await model.loadAdapter("x", good)
  await t.rejects(model.loadAdapter("x", good), tsqError("ERR_OPTION", /loaded already/))
  t.throws(() => model.generate(ids, { adapter: "y" }), tsqError("ERR_OPTION", /"x" or null/))
  const stream = model.generate(ids, { adapter: "x", maxTokens: 9, ignoreEos: true })
  await stream.next()
  model.unloadAdapter("x")
  await t.rejects(stream.next(), tsqError("ERR_OPTION", /disposed/))
  t.same(model.adapters, [])
  t.throws(() => model.unloadAdapter("x"), tsqError("ERR_OPTION", /no adapter/))
})
