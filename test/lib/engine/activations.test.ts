// Activations rounded to 8 bits: asked for when a model is loaded or by a call, close to exact ones, never silent.
import { join } from "node:path"
import t from "tap"
import { type LoadOptions, loadModel } from "../../../lib/engine/load-model.ts"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { fable } from "../models/support/reference-models.ts"

const folder = t.testdir()
const quantized = join(folder, "w4a16")
await quantizeModel(fable.directory, quantized, { preset: "rtn" })
const text = fable.text("text/fable-eval.txt")!.slice(0, 12_000)
const prompt = fable.reference().prompts[0]!

const distance = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let difference = 0
  let size = 0
  for (let i = 0; i < a.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    size += b[i]! ** 2
  }
  return Math.sqrt(difference / size)
}

t.test("of a loaded model", async t => {
  const exact = await loadModel(quantized)
  const rounded = await loadModel(quantized, { activations: "int8" })
  t.teardown(() => {
    exact.dispose()
    rounded.dispose()
  })
  t.equal(exact.activations, "exact", "no scheme of its weights says otherwise")
  t.equal(rounded.activations, "int8")
  const ids = prompt.ids
  const [a, b] = [await rounded.forward(ids), await exact.forward(ids)]
  const found = distance(a.data as Float32Array, b.data as Float32Array)
  t.ok(found > 1e-4 && found < 0.1, `relative distance ${found}`)

  // What a call says goes before what the model was loaded with.
  const [own, asked] = [
    await rounded.perplexity(text, { window: 128 }),
    await exact.perplexity(text, { window: 128, activations: "int8" }),
  ]
  t.match(own, { activations: "int8", nll: asked.nll })
  t.match(await rounded.perplexity(text, { window: 128, activations: "exact" }), {
    activations: "exact",
    nll: (await exact.perplexity(text, { window: 128 })).nll,
  })
  const options = { maxTokens: 24, temperature: 0 } as const
  t.same(
    (await exact.complete(ids, { ...options, activations: "int8" })).tokens,
    (await rounded.complete(ids, options)).tokens,
  )
})

t.test("an evaluation compares with an exact reference", async t => {
  const options = { text, window: 128, activations: "int8", load: { activations: "int8" } } as const
  const same = await evaluateModel(quantized, { ...options, against: quantized })
  t.equal(same.activations, "int8")
  const exact = await evaluateModel(quantized, { text, window: 128 })
  t.equal(exact.activations, "exact")
  t.equal(same.against!.perplexity, exact.perplexity)
  t.ok(same.against!.klMean > 1e-7 && same.against!.klMean < 0.05, `KL ${same.against!.klMean}`)
  // A loaded reference runs as it was loaded.
  const reference = await loadModel(quantized, { activations: "int8" })
  t.teardown(() => reference.dispose())
  const itself = await evaluateModel(quantized, { ...options, against: reference })
  t.ok(Math.abs(itself.against!.klMean) < 1e-9)
})

t.test("weights that are not quantized are multiplied exactly", async t => {
  const model = await loadModel(fable.directory)
  t.teardown(() => model.dispose())
  const [exact, rounded] = [
    await model.perplexity(text, { window: 128 }),
    await model.perplexity(text, { window: 128, activations: "int8" }),
  ]
  t.equal(rounded.nll, exact.nll)
})

t.test("values that do not exist", async t => {
  const refused = { code: "ERR_OPTION", message: /"activations" is "int4", expected "exact", "int8" or "scheme"/ }
  await t.rejects(loadModel(quantized, { activations: "int4" } as unknown as LoadOptions), refused)
  const model = await loadModel(quantized)
  t.teardown(() => model.dispose())
  await t.rejects(model.perplexity(text, { activations: "int4" as never }), refused)
  t.throws(() => model.generate("a", { activations: "int4" as never }), refused)
})
