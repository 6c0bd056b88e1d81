import t from "tap"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { inspectModel } from "../../../lib/quantize/inspect-model.ts"
import { fitMemory } from "../../../lib/quantize/memory-fit.ts"
import { inProcess } from "../cli/support.ts"
import { fable } from "./support.ts"

t.test("keys and values of a token", async t => {
  const { kvBytesPerToken: each, kvCacheBytesByType } = await inspectModel(fable, { context: 512 })
  t.equal(each!.f32, 2 * 6 * 4 * 32 * 4)
  t.equal(each!.f16, 2 * 6 * 4 * 32 * 2)
  t.ok(each!.int4 < each!.int8 && each!.int8 < each!.f16)
  t.equal(each!.f32 * 512, kvCacheBytesByType!.f32)
})

t.test("contexts grow with memory, shrink with sequences, and end at the model's", async t => {
  const { fit, weightBytes, kvBytesPerToken: each } = await inspectModel(fable, { memory: 10e9 })
  t.match(fit, { memory: 10e9, batch: 1, weightBytes })
  t.ok(Object.values(fit!.contexts).every(tokens => tokens === 512))
  const fixed = fit!.weightBytes + fit!.workBytes
  // Room for three and a half pages of f32 for each of two sequences.
  const memory = Math.ceil(fixed + 2 * 3.5 * 16 * each!.f32)
  const some = await inspectModel(fable, { memory, batch: 2 })
  t.equal(some.fit!.contexts.f32, 48)
  t.equal(some.fit!.contexts.f16, 112)
  // What int8 keeps in 16 bits does not grow with the context.
  const { contexts } = (await inspectModel(fable, { memory: Math.ceil(fixed + 12.5 * 16 * each!.f32) })).fit!
  t.equal(contexts.f32, 192)
  t.equal(contexts.f16, 400)
  t.ok(contexts.int8 > contexts.f16)
  const none = await inspectModel(fable, { memory: 1000 })
  t.ok(Object.values(none.fit!.contexts).every(tokens => tokens === 0))
  t.notOk("fit" in (await inspectModel(fable)))
})

t.test("weights take in memory about what they take in the file", async t => {
  const model = await loadModel(fable)
  const { fit } = await inspectModel(fable, { memory: 1e9 })
  t.ok(Math.abs(model.weights.bytes / fit!.weightBytes - 1) < 0.05, `${model.weights.bytes} ${fit!.weightBytes}`)
  t.equal(fitMemory(model.program, 5, { memory: 1e9, batch: 1 }).weightBytes, 5)
  model.dispose()
})

t.test("the command, and what it refuses", async t => {
  const words = await inProcess("inspect", fable, "--memory", "16GB", "--batch", "4")
  t.match(words.stdout, /^keys and values of a token: 6\.14 kB in f32, 3\.07 kB in f16, /m)
  t.match(words.stdout, /^16\.0 GB hold the weights .* for each of 4 sequences, tokens: 512 in f32/m)
  t.match(await inProcess("inspect", fable, "--memory", "much"), { code: 2 })
  await t.rejects(inspectModel(fable, { memory: 0 }), { code: "ERR_OPTION", message: /"memory" is 0/ })
  await t.rejects(inspectModel(`${fable}/model.safetensors`, { memory: 1e9 }), {
    ...{ code: "ERR_OPTION", message: /no value for a single file/ },
  })
})
