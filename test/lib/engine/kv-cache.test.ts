// Models with quantized caches: text after text, scored at once and token by token.
import { readFileSync } from "node:fs"
import t from "tap"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import type { KvCacheOption } from "../../../lib/models/kv-cache.ts"
import { native } from "../../../lib/native.ts"

const fable = "models/fable-5m"
const text = readFileSync("models/text/fable-eval.txt", "utf8").slice(0, 8000)

t.test("damage is as small as it should be", async t => {
  const reference = await loadModel(fable)
  const score = async (kvCache: KvCacheOption) => {
    const { perplexity, against } = await evaluateModel(fable, {
      text,
      window: 512,
      against: reference,
      load: { kvCache },
    })
    return { ratio: perplexity / against!.perplexity, kl: against!.klMean }
  }
  const f16 = await score("f16")
  const int8 = await score("int8")
  const bare = { keys: "int4", values: "int4", sinks: 0, window: 0 } as const
  const plain = await score({ ...bare, rotate: false })
  const rotated = await score({ ...bare, rotate: true })
  const kept = await score("int4")
  reference.dispose()
  t.ok(f16.kl < 1e-6, `f16 ${f16.kl}`)
  t.ok(int8.ratio < 1.001, `int8 ${int8.ratio}`)
  t.ok(f16.kl < int8.kl && int8.kl < rotated.kl && kept.kl < rotated.kl && rotated.kl < plain.kl, "in order")
})

t.test("scoring a window at once is decoding it token by token", async t => {
  for (const kvCache of ["int8", "int4", { keys: "int4", keyScales: "channel", values: "int8", window: 20 }] as const) {
    const model = await loadModel(fable, { kvCache })
    const exact = await loadModel(fable)
    const ids = model.tokenizer.encode(text).slice(0, 180)
    const whole = await model.perplexity(ids, { window: 180 })
    // Greedy continuations of a prefix agree with what the whole text in one step says comes next.
    const { data } = await model.forward(ids)
    const vocabulary = model.config.vocabularySize
    const best = (row: number) => {
      const logits = (data as Float32Array).subarray(row * vocabulary, (row + 1) * vocabulary)
      return logits.indexOf(Math.max(...logits))
    }
    const prefix = ids.slice(0, 150)
    const [next] = (await model.complete(prefix, { temperature: 0, maxTokens: 1, addSpecial: false })).tokens
    t.equal(next, best(149))
    t.not(whole.perplexity, (await exact.perplexity(ids, { window: 180 })).perplexity)
    model.dispose()
    exact.dispose()
  }
})

t.test("a generation goes on over many pages", async t => {
  const before = native.handleCount()
  for (const kvCache of ["f16", "int8", "fp8", "int4"] as const) {
    const model = await loadModel(fable, { kvCache })
    const options = { temperature: 0, maxTokens: 200, ignoreEos: true }
    const one = await model.complete("Once upon a time", options)
    const two = await model.complete("Once upon a time", options)
    t.equal(one.newTokens, 200)
    t.same(one.tokens, two.tokens)
    t.ok(model.kvCacheBytes(4096) < 4096 * 6 * 4 * 32 * 2 * 4)
    model.dispose()
  }
  t.equal(native.handleCount(), before)
})

t.test("a checkpoint without scales has none to offer", async t => {
  await t.rejects(loadModel(fable, { kvCache: "checkpoint" }), {
    code: "ERR_OPTION",
    message: /holds neither a kv_cache_scheme nor scales/,
  })
})
