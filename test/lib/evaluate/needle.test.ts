import { join } from "node:path"
import t from "tap"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { writeInductionModel } from "../../../lib/evaluate/induction-model.ts"
import { evaluateNeedle } from "../../../lib/evaluate/needle.ts"
import type { KvCacheOption } from "../../../lib/models/kv-cache.ts"
import { native } from "../../../lib/native.ts"
import { fable } from "../models/support/reference-models.ts"

const directory = join(t.testdir(), "induction")
await writeInductionModel(directory, { context: 4096 })
const model = await loadModel(directory)
t.teardown(() => model.dispose())

t.test("the induction model says what followed a token", async t => {
  const ids = [5, 900, 31, 44, 12, 700, 8, 31]
  t.same((await model.complete(ids, { maxTokens: 3, temperature: 0 })).tokens, [44, 12, 700])
})

t.test("every needle is retrieved with exact keys and values", async t => {
  const before = native.handleCount()
  const result = await evaluateNeedle(model, { kind: "pairs", lengths: [333, 2048] })
  t.match(result, { model: directory, kind: "pairs", lengths: [333, 2048], depths: [0, 0.25, 0.5, 0.75, 1] })
  t.equal(result.cells.length, 10)
  t.match(result.cells[7], { length: 2048, depth: 0.5, trials: 4, retrieved: 4 })
  t.equal(result.retrieval, 1)
  t.equal(native.handleCount(), before)
})

t.test("a model that does not copy retrieves nothing", async t => {
  const options = { lengths: [500], depths: [0.5], trials: 2 }
  const stories = await loadModel(fable.directory)
  t.teardown(() => stories.dispose())
  t.ok((await evaluateNeedle(stories, { ...options, kind: "pairs" })).retrieval < 0.5)
  const passkey = await evaluateNeedle(stories, options)
  t.match(passkey, { kind: "passkey", cells: [{ length: 500, depth: 0.5, trials: 2 }] })
  t.ok(passkey.retrieval < 0.5)
})

t.test("by default the lengths that needles fit", async t => {
  const { lengths } = await evaluateNeedle(fable.directory, { depths: [0.5], trials: 1 })
  t.same(lengths, [128, 256, 512])
  const many = evaluateNeedle(fable.directory, { kind: "pairs", trials: 1000 })
  await t.rejects(many, { code: "ERR_OPTION", message: /5000 pairs .* do not fit 512 tokens/ })
})

t.test("a rotated 4-bit cache retrieves what a plain one loses", async t => {
  const retrieval = async (kvCache: KvCacheOption) =>
    (await evaluateNeedle(directory, { kind: "pairs", lengths: [2048], load: { kvCache } })).retrieval
  for (const both of ["int8", "f16", { keys: "int8" }, { values: "int8" }, { values: "int4" }] as const)
    t.equal(await retrieval(both), 1, JSON.stringify(both))
  const rotated = await retrieval({ keys: "int4", values: "int4", rotate: true })
  t.ok(rotated >= 0.98, `rotated int4: ${rotated}`)
  const plain = await retrieval({ keys: "int4", values: "int4", rotate: false })
  t.ok(plain <= 0.8, `plain int4: ${plain}`)
})

t.test("what cannot be asked", async t => {
  const refuses = (values: object, message: RegExp) =>
    t.rejects(evaluateNeedle(model, values as never), { code: "ERR_OPTION", message })
  await refuses({ kind: "hay" }, /"passkey" or "pairs"/)
  await refuses({ lengths: [4097] }, /whole numbers from 1 to the context of 4096/)
  await refuses({ lengths: [] }, /"lengths" is an array of 0/)
  await refuses({ depths: [1.5] }, /from 0 to 1/)
  await refuses({ kind: "pairs", lengths: [20] }, /20 pairs of a key and 3 tokens do not fit 20 tokens/)
  await refuses({ lengths: [20] }, /a pass key with its question takes \d+ tokens/)
  await refuses({ needles: 5 }, /unknown option "needles"/)
  await t.rejects(evaluateNeedle(5 as never), { code: "ERR_OPTION", message: /the model is 5/ })
})
