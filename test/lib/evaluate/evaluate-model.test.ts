import t from "tap"
import type { Progress } from "../../../lib/core/progress.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import { native } from "../../../lib/native.ts"
import { fable } from "../models/support/reference-models.ts"
import { random, randomWeights, tinyConfig, writeCheckpoint } from "../models/support/tiny-checkpoint.ts"

const model = await loadModel(fable.directory)
t.teardown(() => model.dispose())
const text = fable.text("text/fable-eval.txt")!

/** Negative log-likelihoods of positions first ... of one window, from all logits. */
async function likelihoods(window: number[], first: number): Promise<number[]> {
  const data = (await model.forward(window)).data as Float32Array
  const vocabulary = model.config.vocabularySize
  return window.slice(first).map((token, i) => {
    const row = data.subarray((first - 1 + i) * vocabulary, (first + i) * vocabulary)
    const top = Math.max(...row)
    const total = row.reduce((sum, value) => sum + Math.exp(value - top), 0)
    return Math.log(total) + top - row[token]!
  })
}

const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length

t.test("protocols against logits", async t => {
  const ids = model.tokenizer.encode(text).slice(0, 150)
  const slice = (begin: number, length: number) => ids.slice(begin, begin + length)

  const llama = await evaluateModel(model, { ids, protocol: "llama.cpp", window: 64 })
  const halves = [await likelihoods([0, ...slice(1, 63)], 33), await likelihoods([0, ...slice(65, 63)], 33)].flat()
  t.equal(llama.tokenCount, 62)
  t.ok(Math.abs(llama.nll - mean(halves)) < 1e-5)

  const strided = await evaluateModel(model, { ids, window: 64, stride: 40 })
  const ends = [0, 40, 80].map(begin => likelihoods(slice(begin, 64), 24))
  t.match(strided, { tokenCount: 120, stride: 40, window: 64, protocol: "gptq" })
  t.ok(Math.abs(strided.nll - mean((await Promise.all(ends)).flat())) < 1e-5)
})

t.test("the result has the fields of evaluate --json", async t => {
  const result = await evaluateModel(fable.directory, { text: text.slice(0, 20000), window: 256 })
  t.match(result, { model: fable.directory, protocol: "gptq", window: 256, stride: 256, bitsPerWeight: 16 })
  t.ok(Math.abs(Math.exp(result.nll) - result.perplexity) < 1e-9)
  t.ok(result.nllStdError > 0)
  t.notOk("against" in result)
})

t.test("a model against itself and against another", async t => {
  const same = await evaluateModel(model, { text: text.slice(0, 10000), window: 128, against: fable.directory })
  t.match(same.against, { model: fable.directory, perplexity: same.perplexity, topAgreement: 1 })
  for (const key of ["klMean", "klMedian", "klP99", "klMax"] as const) t.ok(Math.abs(same.against![key]) < 1e-6, key)

  t.test("KL computed from both models' logits", async t => {
    const ids = Array.from({ length: 100 }, (_, i) => (i * 7) % 37)
    const config = { ...tinyConfig, hidden_size: 32, model_type: "qwen3", head_dim: 8 }
    const directory = t.testdir()
    writeCheckpoint(`${directory}/a`, tinyConfig, randomWeights(tinyConfig, 1))
    writeCheckpoint(`${directory}/b`, config, randomWeights(config, 2))
    const [candidate, reference] = [await loadModel(`${directory}/a`), await loadModel(`${directory}/b`)]
    t.teardown(() => {
      candidate.dispose()
      reference.dispose()
    })
    const result = await evaluateModel(candidate, { ids, window: 20, stride: 15, against: reference })
    const divergences: number[] = []
    let agree = 0
    for (let begin = 0; begin + 20 <= 100; begin += 15) {
      const window = ids.slice(begin, begin + 20)
      const [p, q] = [await distributions(reference, window), await distributions(candidate, window)]
      for (let row = 4; row < 19; row++) {
        divergences.push(p[row]!.reduce((sum, value, i) => sum + value * Math.log(value / q[row]![i]!), 0))
        if (p[row]!.indexOf(Math.max(...p[row]!)) === q[row]!.indexOf(Math.max(...q[row]!))) agree++
      }
    }
    t.equal(result.tokenCount, divergences.length)
    const { klMean, klMax, klMedian, klStdError, topAgreement, perplexity } = result.against!
    t.ok(Math.abs(klMean - mean(divergences)) < 1e-5, `${klMean} is close to ${mean(divergences)}`)
    t.ok(Math.abs(klMax - Math.max(...divergences)) < 1e-5)
    t.ok(klMedian > 0 && klMedian < klMax)
    const deviation = Math.sqrt(
      divergences.reduce((sum, value) => sum + (value - klMean) ** 2, 0) / (divergences.length - 1),
    )
    t.ok(Math.abs(klStdError - deviation / Math.sqrt(divergences.length)) < 1e-6)
    t.equal(topAgreement, agree / divergences.length)
    const alone = await reference.perplexity(ids, { window: 20, stride: 15 })
    t.ok(Math.abs(perplexity / alone.perplexity - 1) < 1e-6)
  })

  t.test("a reference given by its directory is not rounded as it is loaded", async t => {
    const directory = t.testdir()
    writeCheckpoint(`${directory}/a`, tinyConfig, randomWeights(tinyConfig, 1))
    const ids = Array.from({ length: 60 }, (_, i) => (i * 7) % 37)
    const [path, load] = [`${directory}/a`, { quantize: "w4a16" }] as const
    const { against, bitsPerWeight } = await evaluateModel(path, { ids, window: 20, against: path, load })
    t.ok(bitsPerWeight < 8)
    t.ok(against!.klMean > 1e-5, `${against!.klMean}`)
    t.not(against!.perplexityRatio, 1)
  })
})

async function distributions(of: typeof model, ids: number[]): Promise<number[][]> {
  const { data } = await of.forward(ids)
  const vocabulary = of.config.vocabularySize
  return ids.map((_, i) => {
    const row = Array.from(data.subarray(i * vocabulary, (i + 1) * vocabulary))
    const exponentials = row.map(Math.exp)
    const total = exponentials.reduce((a, b) => a + b, 0)
    return exponentials.map(value => value / total)
  })
}

t.test("errors of the residual stream by layer", async t => {
  const directory = t.testdir()
  writeCheckpoint(`${directory}/a`, tinyConfig, randomWeights(tinyConfig, 5))
  writeCheckpoint(`${directory}/b`, tinyConfig, randomWeights(tinyConfig, 6))
  const [candidate, reference] = [await loadModel(`${directory}/a`), await loadModel(`${directory}/b`)]
  t.teardown(() => {
    candidate.dispose()
    reference.dispose()
  })
  const ids = Array.from({ length: 60 }, (_, i) => (i * 11) % 37)
  const result = await evaluateModel(candidate, { ids, window: 20, against: reference, layers: true })
  const [error, square] = [new Float64Array(3), new Float64Array(3)]
  for (let begin = 0; begin < 60; begin += 20) {
    const [x, r] = [await residuals(candidate, begin), await residuals(reference, begin)]
    for (let layer = 0; layer < 3; layer++)
      for (let i = tinyConfig.hidden_size; i < x[layer]!.length; i++) {
        error[layer]! += (x[layer]![i]! - r[layer]![i]!) ** 2
        square[layer]! += r[layer]![i]! ** 2
      }
  }
  const { layers } = result.against!
  t.same(
    layers!.map(({ layer }) => layer),
    [0, 1, 2],
  )
  for (const { layer, relativeSquaredError } of layers!)
    t.ok(Math.abs(relativeSquaredError / (error[layer]! / square[layer]!) - 1) < 1e-5, `${relativeSquaredError}`)
  const same = await evaluateModel(candidate, { ids, window: 20, against: candidate, layers: true })
  for (const { relativeSquaredError } of same.against!.layers!) t.equal(relativeSquaredError, 0)

  async function residuals(of: typeof model, begin: number): Promise<Float32Array[]> {
    const copies = Array.from(
      { length: 3 },
      () => new Float32Array(new SharedArrayBuffer(4 * 20 * tinyConfig.hidden_size)),
    )
    const cache = of.createCache(2)
    const [tokens, op] = [of.checkTokens(ids.slice(begin, begin + 20), "ids"), of.program.sections[1]!.ops.length - 1]
    const observers = copies.map((out, layer) => ({ run: layer + 1, op, slot: 0, reduction: "copy" as const, out }))
    const sequences = [{ rows: 20, context: 0, pages: [0, 1] }]
    await of.step({ runs: of.runs(false, 40), rows: 20, tokens, sequences, cache, observers })
    cache.dispose()
    return copies
  }
})

t.test("bits per byte and per character of the scored text", async t => {
  const part = text.slice(0, 12000)
  const ids = model.tokenizer.encode(part)
  const whole = await evaluateModel(model, { ids: ids.slice(1), protocol: "whole", window: 128 })
  const scored = model.tokenizer.decode(ids.slice(1, 1 + whole.tokenCount))
  const bits = (whole.nll * whole.tokenCount) / Math.LN2
  t.ok(Math.abs(whole.bitsPerByte! / (bits / Buffer.byteLength(scored)) - 1) < 1e-3, `${whole.bitsPerByte}`)
  t.ok(Math.abs(whole.bitsPerCharacter! / (bits / [...scored].length) - 1) < 1e-3)
  t.ok(whole.bitsPerByte! <= whole.bitsPerCharacter!)
  // The first token of a window is not scored: its text does not count.
  const one = ids.slice(0, 64)
  const gptq = await evaluateModel(model, { ids: one, window: 64 })
  const bytes =
    Buffer.byteLength(model.tokenizer.decode(one)) - Buffer.byteLength(model.tokenizer.decode(one.slice(0, 1)))
  t.ok(Math.abs(gptq.bitsPerByte! - (gptq.nll * 63) / Math.LN2 / bytes) < 1e-12)
  const strided = await evaluateModel(model, { ids: one, window: 64, stride: 10 })
  const end =
    Buffer.byteLength(model.tokenizer.decode(one)) - Buffer.byteLength(model.tokenizer.decode(one.slice(0, 54)))
  t.ok(Math.abs(strided.bitsPerByte! - (strided.nll * 10) / Math.LN2 / end) < 1e-12)
})

t.test("windows longer than a step are taken in pieces", async t => {
  const config = { ...tinyConfig, max_position_embeddings: 5000, num_hidden_layers: 1 }
  const directory = t.testdir()
  writeCheckpoint(directory, config, randomWeights(config, 4))
  const long = await loadModel(directory)
  t.teardown(() => long.dispose())
  const next = random(8)
  const ids = Array.from({ length: 4500 }, () => Math.floor(next() * 37))
  // The last 100 positions see 4400 tokens before them, over two borders between steps.
  const result = await long.perplexity(ids, { window: 4500, stride: 2600 })
  t.equal(result.tokenCount, 2600)
  const data = (await long.forward(ids)).data as Float32Array
  const losses = ids.slice(1900).map((token, i) => {
    const row = data.subarray((1899 + i) * 37, (1900 + i) * 37)
    return Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0)) - row[token]!
  })
  t.ok(Math.abs(result.nll - mean(losses)) < 1e-5, `${result.nll} is close to ${mean(losses)}`)
  const compared = await evaluateModel(long, { ids, window: 4500, stride: 2600, against: long })
  t.equal(compared.nll, result.nll)
  t.ok(compared.against!.klMax < 1e-6)
})

t.test("progress and abort", async t => {
  const seen: Progress[] = []
  const options = { text: text.slice(0, 30000), window: 128 }
  await evaluateModel(model, { ...options, onProgress: progress => seen.push(progress) })
  const last = seen.at(-1)!
  t.match(last, { stage: "evaluate", remainingMs: 0 })
  t.equal(last.done, last.total)
  const controller = new AbortController()
  const before = native.handleCount()
  const aborted = evaluateModel(model, {
    ...options,
    signal: controller.signal,
    onProgress: () => controller.abort("stop"),
  })
  await t.rejects(aborted, { code: "ERR_ABORTED", name: "AbortError", cause: "stop" })
  t.equal(native.handleCount(), before)
})

t.test("what cannot be evaluated", async t => {
  const before = native.handleCount()
  const refuses = (values: object, message: RegExp, code = "ERR_OPTION") =>
    t.rejects(evaluateModel(model, values), { code, message })
  await refuses({}, /one of the options "text" and "ids"/)
  await refuses({ text: "a", ids: [1] }, /one of the options "text" and "ids"/)
  await refuses({ text: 5 }, /option "text" is 5/)
  await refuses({ text: "Too short." }, /one window of 512 needs 512; give a longer text or a smaller window/)
  await refuses({ ids: [1, 2, 9999], window: 2 }, /ids\[2\] is 9999/)
  await refuses({ text, window: 513 }, /window is 513, expected at most the context of 512/)
  await refuses({ text, window: 1 }, /"window" is 1/)
  await refuses({ text, window: 64, stride: 65 }, /"stride" is 65/)
  await refuses({ text, protocol: "perplexity" }, /"gptq", "llama.cpp" or "whole"/)
  await refuses({ text, windows: 64 }, /did you mean "window"/)
  await refuses({ text, against: 5 }, /option "against" is 5/)
  await refuses({ text, layers: true }, /"layers" is true, expected false where no other model is given/)
  await refuses({ text, layers: 1, against: model }, /"layers" is 1, expected true or false/)
  await t.rejects(evaluateModel(5 as never, { text }), { code: "ERR_OPTION", message: /the model is 5/ })

  const directory = t.testdir()
  writeCheckpoint(directory, tinyConfig, randomWeights(tinyConfig, 3))
  await refuses({ text, window: 64, against: directory }, /a vocabulary of 2048, .* one of 37/, "ERR_SHAPE")
  const narrow = { ...tinyConfig, vocab_size: 2048, num_hidden_layers: 2 }
  writeCheckpoint(`${directory}/narrow`, narrow, randomWeights(narrow, 3))
  await refuses({ text, against: `${directory}/narrow`, layers: true }, /6 layers of width .* 2 of 24/, "ERR_SHAPE")
  await t.rejects(evaluateModel(directory, { ids: [1, 2, 3, 4], window: 3, protocol: "whole" }), {
    code: "ERR_OPTION",
    message: /the tokenizer adds none/,
  })
  t.equal(native.handleCount(), before)
})
