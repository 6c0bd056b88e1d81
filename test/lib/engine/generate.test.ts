import t from "tap"
import type { GenerationChunk, GenerationResult } from "../../../lib/engine/generate.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import type { Model } from "../../../lib/engine/model.ts"
import { native } from "../../../lib/native.ts"
import { fable } from "../models/support/reference-models.ts"
import { randomWeights, tinyConfig, writeCheckpoint } from "../models/support/tiny-checkpoint.ts"

const model = await loadModel(fable.directory)
t.teardown(() => model.dispose())
const prompt = fable.reference().prompts[0]!

async function collect(
  generation: AsyncGenerator<GenerationChunk, GenerationResult, undefined>,
): Promise<{ chunks: GenerationChunk[]; result: GenerationResult }> {
  const chunks: GenerationChunk[] = []
  for (;;) {
    const next = await generation.next()
    if (next.done) return { chunks, result: next.value }
    chunks.push(next.value)
  }
}

t.test("chunks add up to the result", async t => {
  const { chunks, result } = await collect(model.generate(prompt.text, { maxTokens: 40 }))
  t.same(
    chunks.map(chunk => chunk.token),
    result.tokens,
  )
  t.equal(chunks.map(chunk => chunk.text).join(""), result.text)
  t.match(result, { promptTokens: prompt.ids.length, newTokens: 40, finishReason: "length" })
  t.ok(result.prefillTokensPerSecond > 0 && result.decodeTokensPerSecond > 0)
  t.equal(
    result.text,
    prompt.greedy_text.startsWith(" ") ? model.tokenizer.decode(prompt.greedy_ids.slice(0, 40)) : result.text,
  )
  t.same(await model.complete(prompt.ids, { maxTokens: 40 }).then(({ tokens }) => tokens), result.tokens, "ids or text")
})

t.test("an end-of-sequence token ends it, unless it is ignored", async t => {
  const { ids, greedy_ids: expected } = fable.reference().prompts[2]!
  t.equal(expected.at(-1), 0)
  const result = await model.complete(ids, { maxTokens: 200 })
  t.match(result, { finishReason: "eos", tokens: expected })
  t.notOk(result.text.includes("<|endoftext|>"))
  const longer = await model.complete(ids, { maxTokens: expected.length + 5, ignoreEos: true })
  t.match(longer, { finishReason: "length", newTokens: expected.length + 5 })
})

t.test("stop strings cut the text and end it", async t => {
  const whole = await model.complete(prompt.ids, { maxTokens: 60 })
  const stop = "loved the color"
  const at = whole.text.indexOf(stop)
  t.ok(at > 0)
  const { chunks, result } = await collect(model.generate(prompt.ids, { maxTokens: 60, stop: ["never said", stop] }))
  t.equal(result.text, whole.text.slice(0, at))
  t.equal(result.finishReason, "stop")
  t.ok(result.newTokens < 60)
  t.equal(chunks.map(chunk => chunk.text).join(""), result.text)
})

t.test("a seed fixes the text, other options change it", async t => {
  const sample = (options: object) => model.complete(prompt.ids, { maxTokens: 40, temperature: 1.5, ...options })
  const first = await sample({ seed: 1 })
  t.equal(first.seed, 1)
  t.same((await sample({ seed: 1 })).tokens, first.tokens)
  t.notSame((await sample({ seed: 2 })).tokens, first.tokens)
  const unseeded = await sample({})
  t.same((await sample({ seed: unseeded.seed })).tokens, unseeded.tokens, "the seed that was drawn is reported")
  const greedy = (await model.complete(prompt.ids, { maxTokens: 40 })).tokens
  for (const narrow of [{ topK: 1 }, { topP: 1e-6 }, { minP: 1 }])
    t.same((await sample({ ...narrow, seed: 1 })).tokens, greedy, JSON.stringify(narrow))
  t.notSame((await model.complete(prompt.ids, { maxTokens: 40, repetitionPenalty: 5 })).tokens, greedy)
})

t.test("sampled tokens obey top-k", async t => {
  const { tokens } = await model.complete(prompt.ids, {
    maxTokens: 60,
    temperature: 2,
    topK: 3,
    seed: 4,
    ignoreEos: true,
  })
  const ids = [...prompt.ids, ...tokens]
  const { data } = await model.forward(ids)
  const vocabulary = model.config.vocabularySize
  let notFirst = 0
  tokens.forEach((token, i) => {
    const begin = (prompt.ids.length - 1 + i) * vocabulary
    const row = data.subarray(begin, begin + vocabulary)
    const rank = row.filter((value: number) => value > row[token]! + 1e-4).length
    t.ok(rank < 3, `token ${i} has rank ${rank}`)
    if (rank > 0) notFirst++
  })
  t.ok(notFirst > 0)
})

t.test("a prompt longer than a step", async t => {
  const { tokens } = await model.complete([...fable.reference().window.ids.slice(0, 500)], {
    maxTokens: 3,
    ignoreEos: true,
  })
  const { data } = await model.forward([...fable.reference().window.ids.slice(0, 500), ...tokens])
  const vocabulary = model.config.vocabularySize
  tokens.forEach((token, i) => {
    const row = data.subarray((499 + i) * vocabulary, (500 + i) * vocabulary)
    t.ok(row[token]! >= Math.max(...row) - 1e-4)
  })
})

t.test("the context ends it", async t => {
  const small = await loadModel(fable.directory, { maxContext: 32 })
  t.teardown(() => small.dispose())
  const result = await small.complete(prompt.ids, { maxTokens: 100, ignoreEos: true })
  t.match(result, { finishReason: "context", newTokens: 32 - prompt.ids.length })
  const long = Array.from({ length: 32 }, () => 98)
  t.throws(() => small.generate(long), {
    code: "ERR_OPTION",
    message: /the prompt has 32 tokens and the context is 32/,
  })
  await t.rejects(small.forward([...long, 1]), {
    code: "ERR_OPTION",
    message: /33 tokens, expected at most the context of 32/,
  })
})

t.test("generations take turns and do not disturb each other", async t => {
  const prompts = fable.reference().prompts.map(({ ids }) => ids)
  const alone: number[][] = []
  for (const ids of prompts) alone.push((await model.complete(ids, { maxTokens: 30 })).tokens)
  const together = await Promise.all(prompts.map(ids => model.complete(ids, { maxTokens: 30 })))
  t.same(
    together.map(result => result.tokens),
    alone,
  )
})

t.test("bad prompts and options are refused at once", async t => {
  const refuses = (given: unknown, options: object, message: RegExp) =>
    t.throws(() => model.generate(given as string, options), { code: "ERR_OPTION", message })
  refuses([], {}, /the prompt is empty/)
  refuses([1, 2048], {}, /prompt\[1\] is 2048, expected a token id from 0 to 2047/)
  refuses([-1], {}, /prompt\[0\] is -1/)
  refuses([1.5], {}, /prompt\[0\] is 1.5/)
  refuses(undefined, {}, /the prompt is undefined/)
  refuses("a", { temperature: -1 }, /option "temperature" is -1/)
  refuses("a", { topP: 0 }, /option "topP" is 0/)
  refuses("a", { topK: 1.5 }, /option "topK" is 1.5/)
  refuses("a", { minP: 2 }, /option "minP" is 2/)
  refuses("a", { maxTokens: 0 }, /option "maxTokens" is 0/)
  refuses("a", { repetitionPenalty: 0 }, /option "repetitionPenalty" is 0/)
  refuses("a", { seed: -1 }, /option "seed" is -1/)
  refuses("a", { stop: [""] }, /option "stop" is an array of 1, expected a string or an array of strings/)
  refuses("a", { maxToken: 1 }, /unknown option "maxToken"; did you mean "maxTokens"/)
  await t.rejects(model.forward([]), { code: "ERR_OPTION", message: /ids is empty/ })
  await t.rejects(model.forward([5000]), { code: "ERR_OPTION", message: /ids\[0\] is 5000/ })
})

t.test("an empty prompt is fine where the tokenizer adds BOS, and refused where it does not", async t => {
  t.equal((await model.complete("", { maxTokens: 2, ignoreEos: true })).promptTokens, 1)
  const directory = t.testdir()
  writeCheckpoint(directory, tinyConfig, randomWeights(tinyConfig, 3))
  const plain = await loadModel(directory)
  t.teardown(() => plain.dispose())
  t.throws(() => plain.generate(""), { code: "ERR_OPTION", message: /the tokenizer adds no BOS token/ })
})

t.test("abort before, during, and its reason", async t => {
  const reason = new Error("enough")
  const aborted = AbortSignal.abort(reason)
  await t.rejects(model.complete(prompt.ids, { signal: aborted }), {
    code: "ERR_ABORTED",
    name: "AbortError",
    cause: reason,
  })
  await t.rejects(model.forward(prompt.ids, { signal: aborted }), { code: "ERR_ABORTED", cause: reason })
  const controller = new AbortController()
  const generation = model.generate(prompt.ids, { maxTokens: 400, ignoreEos: true, signal: controller.signal })
  await generation.next()
  controller.abort(reason)
  await t.rejects(generation.next(), { code: "ERR_ABORTED", name: "AbortError", cause: reason })
  t.same(
    (await model.complete(prompt.ids, { maxTokens: 3 })).tokens,
    prompt.greedy_ids.slice(0, 3),
    "the model goes on",
  )
})

t.test("nothing native is left behind, however a generation ends", async t => {
  const before = native.handleCount()
  await model.complete(prompt.ids, { maxTokens: 3 })
  for await (const _chunk of model.generate(prompt.ids)) break
  const controller = new AbortController()
  const generation = model.generate(prompt.ids, { signal: controller.signal })
  await generation.next()
  controller.abort()
  await t.rejects(generation.next())
  await t.rejects(model.perplexity("short", {}))
  t.equal(native.handleCount(), before)
})

t.test("a disposed model", async t => {
  const before = native.handleCount()
  const gone: Model = await loadModel(fable.directory)
  const generation = gone.generate(prompt.ids, { maxTokens: 400, ignoreEos: true })
  await generation.next()
  const inFlight = generation.next()
  const waiting = gone.forward(prompt.ids)
  gone.dispose()
  gone.dispose()
  const disposed = { code: "ERR_OPTION", message: /was disposed and cannot be used any more/ }
  await t.rejects(waiting, disposed)
  // The step that was running may still end well; the one after it cannot.
  await t.rejects(
    inFlight.then(() => generation.next()),
    disposed,
  )
  t.throws(() => gone.generate("a"), disposed)
  await t.rejects(gone.perplexity("a"), disposed)
  t.equal(native.handleCount(), before)
})
