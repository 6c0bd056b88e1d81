// Trained models against figures computed in float64 by an independent implementation.
import t from "tap"
import { sharedFloats, sharedInts } from "../../../lib/core/tensor.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { pagesFor } from "../../../lib/models/sequence.ts"
import { referenceModels } from "../models/support/reference-models.ts"

for (const { name, directory, skip, reference: read } of referenceModels)
  t.test(name, { skip }, async t => {
    const reference = read()
    const model = await loadModel(directory)
    t.teardown(() => model.dispose())
    const vocabulary = model.config.vocabularySize
    const row = (logits: ArrayLike<number>, index: number) =>
      Array.prototype.slice.call(logits, index * vocabulary, (index + 1) * vocabulary) as number[]

    t.test("logits", async t => {
      for (const { text, ids, last_logits: expected } of reference.prompts) {
        t.same(model.tokenizer.encode(text), ids)
        const { data, shape } = await model.forward(ids)
        t.same(shape, [ids.length, vocabulary])
        const found = row(data, ids.length - 1)
        const worst = Math.max(...expected.map((value, i) => Math.abs(value - found[i]!)))
        t.ok(worst < 1e-3, `largest difference ${worst}`)
      }
    })

    t.test("greedy continuation", async t => {
      for (const { text, greedy_ids: expected, greedy_margins: margins } of reference.prompts) {
        const result = await model.complete(text, { temperature: 0, maxTokens: expected.length, ignoreEos: true })
        const unsure = margins.findIndex(margin => margin < 1e-3)
        const sure = unsure < 0 ? expected.length : unsure
        t.ok(sure > 10)
        t.same(result.tokens.slice(0, sure), expected.slice(0, sure))
      }
    })

    t.test("negative log-likelihoods of a window", async t => {
      const { ids, nll } = reference.window
      const expected = nll.reduce((sum, value) => sum + value, 0) / nll.length
      const result = await model.perplexity(ids, { window: ids.length })
      t.equal(result.tokenCount, nll.length)
      t.ok(Math.abs(result.nll - expected) < 1e-4, `${result.nll} is close to ${expected}`)
    })

    t.test("sequences of one step do not see each other", async t => {
      const lengths = [1, 17, 33, 16]
      const total = lengths.reduce((a, b) => a + b, 0)
      const tokens = sharedInts(total)
      tokens.set(reference.window.ids.slice(0, total))
      const rows = sharedInts(total).map((_, i) => i)
      const logits = sharedFloats(total * vocabulary)
      const cache = model.createCache(lengths.reduce((sum, length) => sum + pagesFor(length), 0))
      let page = 0
      await model.step({
        runs: model.runs(true, 1),
        rows: total,
        tokens,
        sequences: lengths.map(length => ({
          rows: length,
          context: 0,
          pages: Array.from({ length: pagesFor(length) }, () => page++),
        })),
        cache,
        epilogue: { mode: "logits", rows, logits },
      })
      cache.dispose()
      let begin = 0
      for (const length of lengths) {
        const alone = await model.forward(tokens.subarray(begin, begin + length))
        const together = logits.subarray(begin * vocabulary, (begin + length) * vocabulary)
        const worst = together.reduce((most, value, i) => Math.max(most, Math.abs(value - alone.data[i]!)), 0)
        t.ok(worst < 1e-4, `sequence of ${length}: largest difference ${worst}`)
        begin += length
      }
    })
  })
