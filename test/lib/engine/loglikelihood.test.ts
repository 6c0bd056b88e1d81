import t from "tap"
import { loadModel } from "../../../lib/engine/load-model.ts"
import type { LikelihoodRequest } from "../../../lib/engine/loglikelihood.ts"
import { rollingWindows } from "../../../lib/engine/loglikelihood.ts"
import { native } from "../../../lib/native.ts"
import { fable } from "../models/support/reference-models.ts"
import { random, randomWeights, tinyConfig, writeCheckpoint } from "../models/support/tiny-checkpoint.ts"

const model = await loadModel(fable.directory)
t.teardown(() => model.dispose())
const text = fable.text("text/fable-eval.txt")!
const bos = model.tokenizer.bosTokenId!

/** log p of the tokens from `from` on, and whether each is the most likely one, from all logits. */
async function byForward(of: typeof model, ids: readonly number[], from: number) {
  const data = (await of.forward(ids.slice(0, -1))).data as Float32Array
  const vocabulary = of.config.vocabularySize
  return ids.slice(from).map((token, i) => {
    const row = data.subarray((from - 1 + i) * vocabulary, (from + i) * vocabulary)
    const top = row.reduce((a, b) => Math.max(a, b))
    const total = row.reduce((sum, value) => sum + Math.exp(value - top), 0)
    return { logprob: row[token]! - top - Math.log(total), greedy: row.indexOf(top) === token }
  })
}

const close = (a: number, b: number, within = 1e-4) => Math.abs(a - b) <= within * Math.max(1, Math.abs(b))

t.test("one pair, against forward", async t => {
  const [context, continuation] = ["Once upon a time there was a brave", " girl called Mila who lived"]
  const found = await model.loglikelihood(context, continuation)
  const head = model.tokenizer.encode(context)
  const whole = model.tokenizer.encode(context + continuation)
  t.same(found.tokens, whole.slice(head.length))
  const expected = await byForward(model, whole, head.length)
  for (const [i, value] of found.tokenLogprobs.entries()) t.ok(close(value, expected[i]!.logprob), `${value}`)
  t.ok(
    close(
      found.logprob,
      expected.reduce((sum, { logprob }) => sum + logprob, 0),
    ),
  )
  t.equal(
    found.isGreedy,
    expected.every(({ greedy }) => greedy),
  )
  // Spaces at the end of the context belong to the continuation.
  t.same(await model.loglikelihood(`${context} `, continuation.slice(1)), found)
  // Token ids are taken as they are.
  t.same(await model.loglikelihood(head, whole.slice(head.length)), found)
  t.same(await model.loglikelihood(Int32Array.from(head), Int32Array.from(whole.slice(head.length))), found)
})

t.test("greedy continuations are called so, others are not", async t => {
  const context = "Once upon a time"
  const ids = model.tokenizer.encode(context)
  const { tokens } = await model.complete(ids, { maxTokens: 6, temperature: 0, repetitionPenalty: 1, ignoreEos: true })
  const found = await model.loglikelihood(ids, tokens)
  t.ok(found.isGreedy)
  const other = (tokens.at(-1)! + 1) % model.config.vocabularySize
  t.notOk((await model.loglikelihood(ids, [...tokens.slice(0, -1), other])).isGreedy)
})

t.test("without a context, BOS is it", async t => {
  const found = await model.loglikelihood("", "Once upon a time")
  const ids = model.tokenizer.encode("Once upon a time", { addSpecial: false })
  t.same(found.tokens, ids)
  const expected = await byForward(model, [bos, ...ids], 1)
  for (const [i, value] of found.tokenLogprobs.entries()) t.ok(close(value, expected[i]!.logprob))
  t.same((await model.loglikelihood("  ", "Once")).tokens, model.tokenizer.encode("  Once", { addSpecial: false }))
})

t.test("many at once, of all lengths, with contexts in common", async t => {
  const next = random(5)
  const pick = (most: number) => 1 + Math.floor(next() * most)
  const requests: LikelihoodRequest[] = []
  for (let i = 0; i < 24; i++) {
    const at = Math.floor(next() * 100_000)
    const context = text.slice(at, at + pick(900))
    for (let choice = 0; choice < 1 + (i % 4); choice++)
      requests.push({ context, continuation: ` ${text.slice(at + choice * 90, at + choice * 90 + pick(60))}x` })
  }
  const before = native.handleCount()
  const together = await model.loglikelihood(requests)
  t.equal(native.handleCount(), before)
  for (const [i, { context, continuation }] of requests.entries()) {
    const alone = await model.loglikelihood(context, continuation)
    t.same(together[i]!.tokens, alone.tokens)
    t.ok(close(together[i]!.logprob, alone.logprob), `${together[i]!.logprob} ${alone.logprob}`)
    t.equal(together[i]!.isGreedy, alone.isGreedy)
  }
  t.same(await model.loglikelihood([]), [])
})

t.test("a context that is too long loses its beginning", async t => {
  const ids = model.tokenizer.encode(text.slice(0, 12000))
  const context = ids.slice(0, 700)
  const continuation = ids.slice(700, 720)
  const found = await model.loglikelihood(context, continuation)
  const kept = ids.slice(720 - 513, 720)
  const expected = await byForward(model, kept, 513 - 20)
  for (const [i, value] of found.tokenLogprobs.entries()) t.ok(close(value, expected[i]!.logprob))
  await t.rejects(model.loglikelihood([1], ids.slice(0, 513)), {
    code: "ERR_OPTION",
    message: /has 513 tokens, expected at most the context of 512/,
  })
  t.equal((await model.loglikelihood([1], ids.slice(0, 512))).tokens.length, 512)
})

t.test("longer than a step", async t => {
  const config = { ...tinyConfig, max_position_embeddings: 5000, num_hidden_layers: 1 }
  const directory = t.testdir()
  writeCheckpoint(directory, config, randomWeights(config, 4))
  const long = await loadModel(directory)
  t.teardown(() => long.dispose())
  const next = random(9)
  const ids = Array.from({ length: 4600 }, () => Math.floor(next() * 37))
  const expected = await byForward(long, ids, 2000)
  const requests = [
    { context: ids.slice(0, 2000), continuation: ids.slice(2000) },
    { context: ids.slice(0, 2000), continuation: ids.slice(2000, 2100) },
    { context: ids.slice(0, 5), continuation: ids.slice(5, 9) },
  ]
  const [whole, start] = await long.loglikelihood(requests)
  t.equal(whole!.tokens.length, 2600)
  t.ok(expected.every(({ logprob }, i) => close(whole!.tokenLogprobs[i]!, logprob)))
  for (const [i, value] of start!.tokenLogprobs.entries()) t.ok(close(value, expected[i]!.logprob))
  // No BOS and no EOS: a first token cannot be predicted.
  await t.rejects(long.loglikelihood("", "abc"), { code: "ERR_UNSUPPORTED", message: /neither a BOS nor an EOS/ })
})

t.test("rolling windows, as in the harness's own example", async t => {
  const windows = (count: number, context: number) =>
    rollingWindows(
      Int32Array.from({ length: count }, (_, i) => i),
      -1,
      context,
    ).map(({ tokens, from }) => ({
      input: [...tokens.subarray(0, -1)],
      predicted: [...tokens.subarray(from)],
    }))
  t.same(windows(10, 4), [
    { input: [-1, 0, 1, 2], predicted: [0, 1, 2, 3] },
    { input: [3, 4, 5, 6], predicted: [4, 5, 6, 7] },
    { input: [5, 6, 7, 8], predicted: [8, 9] },
  ])
  t.same(windows(3, 4), [{ input: [-1, 0, 1], predicted: [0, 1, 2] }])
  t.same(windows(4, 4), [{ input: [-1, 0, 1, 2], predicted: [0, 1, 2, 3] }])
})

t.test("rolling, against forward", async t => {
  const part = text.slice(0, 9000)
  const ids = model.tokenizer.encode(part, { addSpecial: false })
  t.ok(ids.length > 600)
  const found = await model.loglikelihoodRolling(part)
  t.same(found.tokens, ids)
  const first = await byForward(model, [bos, ...ids.slice(0, 512)], 1)
  t.ok(first.every(({ logprob }, i) => close(found.tokenLogprobs[i]!, logprob)))
  const last = await byForward(model, ids.slice(-513), 512)
  t.ok(close(found.tokenLogprobs.at(-1)!, last[0]!.logprob))
  const [again, short] = await model.loglikelihoodRolling([part, "A dog."])
  t.ok(close(again!.logprob, found.logprob))
  t.equal(short!.tokens.length, model.tokenizer.encode("A dog.", { addSpecial: false }).length)
})

t.test("what cannot be scored", async t => {
  const refuses = (of: Promise<unknown>, message: RegExp) => t.rejects(of, { code: "ERR_OPTION", message })
  await refuses(model.loglikelihood("a", ""), /the continuation of requests\[0\] has no tokens/)
  await refuses(model.loglikelihood("a", [1]), /expected two texts or two lists of token ids/)
  await refuses(model.loglikelihood([5000], [1]), /context\[0\] is 5000/)
  await refuses(model.loglikelihood([{ context: "a" }] as never), /continuation of requests\[0\]/)
  await refuses(model.loglikelihood(["a"] as never), /requests\[0\] is "a"/)
  await refuses(model.loglikelihood(undefined as never, "a"), /context/)
  await refuses(model.loglikelihood("a", "b", { window: 5 } as never), /unknown option "window"/)
  await refuses(model.loglikelihoodRolling(""), /texts\[0\] has no tokens/)
  await refuses(model.loglikelihoodRolling(5 as never), /texts\[0\] is 5/)
  const controller = new AbortController()
  controller.abort()
  await t.rejects(model.loglikelihood("a", "b", { signal: controller.signal }), { code: "ERR_ABORTED" })
  const done: number[] = []
  await model.loglikelihood([{ context: "a", continuation: " b" }], { onProgress: ({ done: n }) => void done.push(n) })
  t.same(done, [1])
})
