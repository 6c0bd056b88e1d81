import { join } from "node:path"
import t from "tap"
import { evaluateSuite } from "../../../lib/bench/suite.ts"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import { native } from "../../../lib/native.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { random, randomWeights, tinyConfig, writeCheckpoint } from "../models/support/tiny-checkpoint.ts"

const directory = t.testdir()
const config = { ...tinyConfig, hidden_size: 64, intermediate_size: 64, num_hidden_layers: 2 }
const base = join(directory, "base")
writeCheckpoint(base, config, randomWeights(config, 3, "BF16"), "BF16")
const [eight, two] = [join(directory, "eight"), join(directory, "two")]
for (const [out, scheme] of [
  [eight, "w8a16"],
  [two, "w2a16"],
] as const)
  await quantizeModel(base, out, { rounding: "nearest", scheme, groupSize: 32, format: "compressed-tensors" })
const next = random(4)
const ids = Array.from({ length: 400 }, () => Math.floor(next() * 37))

t.test("models side by side", async t => {
  const before = native.handleCount()
  const stages = new Set<string>()
  const suite = await evaluateSuite([base, { name: "8 bits", path: eight }, two], {
    ...{ ids, window: 40, rounds: 3, promptTokens: 20, newTokens: 6 },
    onProgress: ({ stage }) => void stages.add(stage),
  })
  t.equal(native.handleCount(), before)
  t.match(suite, { reference: base, protocol: "gptq", window: 40, tokenCount: 390 })
  t.same(suite.speed, { promptTokens: 20, newTokens: 6, rounds: 3, interleaved: true })
  t.same([...stages].sort(), ["evaluate", "speed"])
  t.same(
    suite.models.map(({ name }) => name),
    ["base", "8 bits", "two"],
  )
  const [first, second, third] = suite.models
  t.equal(first!.against, null)
  t.ok(second!.against!.klMean < third!.against!.klMean)
  t.ok(first!.fileBytes > second!.fileBytes && second!.fileBytes > third!.fileBytes)
  // A 32-bit scale for 32 weights each.
  t.same([second!.bitsPerWeight, third!.bitsPerWeight], [9, 3])
  for (const { memoryBytes, prefill, decode } of suite.models) {
    t.ok(memoryBytes > 0)
    t.ok(prefill!.count === 3 && prefill!.min <= prefill!.median && prefill!.median <= prefill!.max && prefill!.min > 0)
    t.ok(decode!.count === 3 && decode!.min > 0)
  }
})

t.test("another reference, no speeds, context too short", async t => {
  const suite = await evaluateSuite([eight, two], { ids, window: 40, rounds: 0, against: base })
  t.equal(suite.speed, null)
  t.ok(suite.models.every(({ against, decode }) => against?.model === base && decode === null))
  const short = await evaluateSuite([base], { ids, window: 40, rounds: 1, promptTokens: 1000 })
  t.match(short.speed, { promptTokens: 96, newTokens: 32 })
})

t.test("the reference runs as it is stored", async t => {
  const { models } = await evaluateSuite([base], { ids, window: 40, rounds: 0, load: { quantize: "w8a16" } })
  t.ok(models[0]!.against!.klMean > 0)
  const alone = await evaluateModel(base, { ids, window: 40, against: base, load: { quantize: "w8a16" } })
  t.equal(alone.against!.klMean, models[0]!.against!.klMean)
})

t.test("what cannot be compared", async t => {
  const refuses = (list: unknown, values: object, message: RegExp) =>
    t.rejects(evaluateSuite(list as never, values), { code: "ERR_OPTION", message })
  await refuses([], { ids }, /models is an array of 0/)
  await refuses([5], { ids }, /models\[0\] is 5/)
  await refuses([base], { ids, load: { adapters: { a: base } } }, /no adapters/)
  await refuses([base, { path: "" }], { ids }, /models\[1\]/)
  await refuses([base, join(directory, "x/base")], { ids }, /two models are called "base"/)
  await refuses([base], { ids, rounds: -1 }, /"rounds" is -1/)
  await refuses([base], {}, /one of the options "text" and "ids"/)
  await refuses([base], undefined as never, /one of the options "text" and "ids"/)
})
