// The model benchmark end to end on a tiny model, without peers: every field, finite figures; never how fast.
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { bytesOfStep } from "../../../lib/bench/model-llama.ts"
import { modelPage } from "../../../lib/bench/model-page.ts"
import { type ModelRow, ratiosOf } from "../../../lib/bench/model-results.ts"
import { modelText } from "../../../lib/bench/model-table.ts"
import { benchModel } from "../../../lib/bench/models.ts"
import type { ModelShape } from "../../../lib/bench/shapes.ts"
import { writeSyntheticCheckpoint } from "../../../lib/bench/synthetic-checkpoint.ts"
import { syntheticVocabulary, tokenizerFiles } from "../../../lib/bench/synthetic-tokenizer.ts"
import type { Progress } from "../../../lib/core/progress.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { native } from "../../../lib/native.ts"

const shape: ModelShape = {
  ...{ name: "tiny", modelType: "llama", hidden: 64, intermediate: 96, layers: 2, heads: 4, kvHeads: 2, headDim: 16 },
  ...{ vocabulary: 300, tied: true, ropeTheta: 10000, rmsNormEps: 1e-5 },
}
const quick = { promptTokens: 6, newTokens: 3, threads: 1, rounds: 2, starts: 1 }

t.test("our own rows, and what is missing", async t => {
  const workDir = join(t.testdir(), "work")
  const threads = native.threads()
  const notes: string[] = []
  const progress: Progress[] = []
  const report = await benchModel(shape, {
    ...quick,
    ...{ workDir, gguf: [join(workDir, "none.gguf")], kvCache: { keys: "int8", values: "f16", window: 20 } },
    onNote: text => notes.push(text),
    onProgress: step => progress.push(step),
  })
  t.equal(native.threads(), threads, "threads are put back")
  t.match(report, {
    model: {
      name: "tiny",
      path: null,
      synthetic: true,
      parameters: 300 * 64 + 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 96),
    },
    options: { ...quick, resident: true, compiled: false },
  })
  // The file is missing whether or not the peer is installed.
  t.match(report.unavailable, [{ backend: /^node-llama-cpp/, reason: /is not installed|there is no file/ }])
  t.equal(notes.filter(text => text.startsWith("node-llama-cpp")).length, 1)
  t.strictSame([...new Set(progress.map(({ stage }) => stage))], ["write", "start", "bench"])
  t.strictSame(
    report.results.map(({ backend, weights, activations }) => [backend, weights, activations]),
    [
      ["tsq", "w4 g128, head w8", "exact"],
      ["tsq", "w4 g128, head w8", "int8"],
    ],
  )
  for (const row of report.results) {
    t.match(row, { isa: native.cpu().kernels, threads: 1, promptTokens: 6, newTokens: 3 })
    t.equal(row.kvCache, "keys int8, values f16, first 16 and last 33 tokens f16")
    for (const summary of [row.prefill, row.decode, row.firstTokenMs]) {
      t.equal(summary.count, 2)
      t.ok(summary.min > 0 && summary.min <= summary.median && summary.median <= summary.max)
      t.ok(Number.isFinite(summary.max))
    }
    t.ok(row.weightBytes! > 30_000 && row.weightBytes! < 200_000, `${row.weightBytes} bytes of weights`)
    t.ok(Math.abs(row.decodeGBps! - (row.weightBytes! * row.decode.median) / 1e9) < 1e-9)
    t.ok(row.percentOfRoof! > 0)
    t.ok(row.bitsPerWeight! > 4 && row.bitsPerWeight! < 5)
    t.ok(row.residentBytes > 2 ** 24 && row.peakBytes >= row.residentBytes * 0.9)
    t.strictSame(
      row.starts.map(({ from, importMs, loadMs }) => [from, importMs.count, loadMs.count]),
      [
        ["cold", 1, 1],
        ["cache", 1, 1],
      ],
    )
  }
  t.match(modelText(report), /tiny, .*random weights.*\n.*\n\nmodel +prefill\/s.*\ntsq w4 g128, head w8 .*\[int8\]/s)
  t.match(modelText(report), /\nkeys and values: tsq keys int8, values f16, first 16 and last 33 tokens f16\n/)
  const peer = { ...report.results[0]!, backend: "node-llama-cpp", kvCache: "f16" }
  t.match(modelPage({ ...report, results: [...report.results, peer] }), /tokens f16; node-llama-cpp its own f16/)
  t.match(modelPage(report), /<svg.*Prefill, 6 tokens.*<svg.*Decoding, 3 new tokens/s)

  // The folder is kept, and what is in it is used again.
  const [checkpoint] = readdirSync(workDir).filter(name => name.startsWith("tiny-w4-g128-head8-"))
  writeFileSync(join(workDir, checkpoint!, "used-again"), "")
  const again = await benchModel(shape, { ...quick, rounds: 1, starts: 0, activations: "int8", ggufTypes: [], workDir })
  t.ok(readdirSync(join(workDir, checkpoint!)).includes("used-again"))
  t.equal(again.results.length, 1)
  t.strictSame(again.results[0]!.starts, [])
  t.strictSame(again.unavailable, [])
})

t.test("a checkpoint that exists, with a head of its own", async t => {
  const directory = join(t.testdir(), "model")
  await writeSyntheticCheckpoint(directory, { ...shape, tied: false }, { bits: 4, groupSize: 32, headBits: 16 })
  const model = await loadModel(directory)
  const embedding = 300 * 64 * 2
  const all = model.weights.bytes
  t.equal(model.config.tiedEmbeddings, false)
  model.dispose()
  const report = await benchModel(directory, { ...quick, rounds: 1, starts: 0, activations: "exact", ggufTypes: [] })
  t.match(report.model, { name: "model", path: directory, synthetic: false })
  const [row] = report.results
  t.match(row, { weights: "checkpoint", activations: "exact", kvCache: "f32" })
  t.ok(row!.weightBytes! <= all - embedding, "a token reads one row of the embedding")
  t.strictSame(readdirSync(directory).sort(), [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
  ])
})

t.test("refusals", async t => {
  const none = { ...quick, ggufTypes: [] }
  await t.rejects(benchModel("llama-3.2-1", none), { code: "ERR_OPTION", message: /did you mean "llama-3\.2-1b"/ })
  await t.rejects(benchModel("/no/such/folder", none), { code: "ERR_IO", message: /there is no folder/ })
  await t.rejects(benchModel({ ...shape, vocabulary: 257 }, none), { code: "ERR_OPTION", message: /at least 258/ })
  await t.rejects(benchModel(shape, { headBits: 6 }), { code: "ERR_OPTION", message: /4, 8 or 16/ })
  await t.rejects(benchModel(shape, { ggufTypes: ["q5_0"] }), { code: "ERR_OPTION", message: /"q4_0" or "q4_k_m"/ })
  await t.rejects(benchModel(shape, { newTokens: 1 }), { code: "ERR_OPTION" })
  await t.rejects(benchModel(shape, { kvCache: "int9" as never }), {
    code: "ERR_OPTION",
    message: /benchModel: .*kvCache/,
  })
  await t.rejects(benchModel(shape, { kvCache: "checkpoint" }), { code: "ERR_OPTION", message: /random weights/ })
  await t.rejects(benchModel(t.testdir({}), none), { code: "ERR_IO", message: /config\.json/ })
  const signal = AbortSignal.timeout(300)
  await t.rejects(benchModel(shape, { ...none, newTokens: 20000, signal }), { code: "ERR_ABORTED" })
})

t.test("a model that does not load names the reason", async t => {
  const directory = join(t.testdir(), "model")
  await writeSyntheticCheckpoint(directory, shape, { bits: 4, groupSize: 32, headBits: 8 })
  const path = join(directory, "model.safetensors")
  writeFileSync(path, readFileSync(path).subarray(0, 1000))
  await t.rejects(benchModel(directory, { ...quick, ggufTypes: [] }), {
    code: /ERR_(CORRUPT|FORMAT)/,
    message: /model\.safetensors/,
  })
})

t.test("every width of codes and ends loads and generates", async t => {
  for (const [bits, headBits, modelType] of [
    [2, 4, "qwen2"],
    [3, 8, "qwen3"],
    [8, 16, "mistral"],
    [4, 16, "gemma2"],
  ] as const) {
    const directory = join(t.testdir(), "model")
    await writeSyntheticCheckpoint(directory, { ...shape, modelType }, { bits, groupSize: 32, headBits })
    const model = await loadModel(directory)
    const { tokens } = await model.complete([1, 2, 3], { maxTokens: 4, ignoreEos: true })
    t.equal(tokens.length, 4, `${modelType}, ${bits} bits`)
    const logits = (await model.forward([1, 2, 3])).data as Float32Array
    t.ok(logits.every(Number.isFinite))
    t.ok(Math.max(...logits) > Math.min(...logits))
    model.dispose()
  }
})

t.test("the made-up tokenizer encodes and decodes any text", async t => {
  const vocabulary = syntheticVocabulary(2000)
  t.equal(vocabulary.tokens.length, 2000)
  t.equal(new Set(vocabulary.tokens).size, 2000)
  t.equal(vocabulary.merges.length, 2000 - 258)
  const { Tokenizer } = await import("../../../lib/models/tokenizer.ts")
  const files = tokenizerFiles(vocabulary) as Record<string, Record<string, unknown>>
  const tokenizer = new Tokenizer("made-up", files["tokenizer.json"]!, files["tokenizer_config.json"]!, new Map())
  const text = "Grüße, 世界!\n"
  t.equal(tokenizer.decode(tokenizer.encode(text)), text)
  t.equal(tokenizer.vocabularySize, 2000)
})

t.test("bytes that llama.cpp reads for a token", async t => {
  const tensors = [
    { name: "output.weight", fileOffset: 100, filePart: 1 },
    { name: "token_embd.weight", fileOffset: 40n, filePart: 1 },
    { name: "blk.0.attn_q.weight", fileOffset: 70, filePart: 1 },
  ]
  t.equal(bytesOfStep(tensors, 150), 80)
  t.equal(bytesOfStep(tensors.slice(1), 150), 110, "the embedding is the head")
  t.equal(bytesOfStep([{ ...tensors[0]!, filePart: 2 }], 150), null)
  t.equal(bytesOfStep([], 150), null)
})

t.test("ratios", async t => {
  const row = (backend: string, weights: string, activations: "exact" | "int8", prefill: number, decode: number) =>
    ({ backend, weights, activations, prefill: { median: prefill }, decode: { median: decode } }) as ModelRow
  t.strictSame(ratiosOf([row("tsq", "w4", "exact", 120, 30), row("node-llama-cpp", "Q4_0", "int8", 100, 20)]), [
    { weights: "w4", activations: "exact", peer: "node-llama-cpp Q4_0", prefill: 1.2, decode: 1.5 },
  ])
})
