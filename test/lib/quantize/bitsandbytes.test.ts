// bitsandbytes' schemes through the whole pipeline.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import { convertModel } from "../../../lib/quantize/convert-model.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { beside, fable, fableEvaluation, folder, hashes, logits, relativeDistance, smallCheckpoint } from "./support.ts"

const cases: [QuantizeModelOptions, number, Record<string, unknown>][] = [
  [{ preset: "nf4" }, 0.35, { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: false }],
  [{ scheme: "nf4", doubleQuantization: true }, 0.35, { bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true }],
  [{ scheme: "fp4", groupSize: 128 }, 0.35, { bnb_4bit_quant_type: "fp4", bnb_4bit_compute_dtype: "bfloat16" }],
  [{ preset: "llm.int8" }, 0.03, { load_in_8bit: true, llm_int8_skip_modules: ["lm_head"] }],
]

t.test("quantized, run, and written again with the same bytes", async t => {
  for (const [options, tolerance, config] of cases) {
    const name = `${options.preset ?? options.scheme}`
    const source = smallCheckpoint(t)
    const out = join(folder(t), "out")
    const report = await quantizeModel(source, out, { ...options, onWarning: text => t.match(text, /bits per weight/) })
    t.equal(report.recipe.format, "bitsandbytes")
    t.equal(report.tensors.length, 21)
    t.match(JSON.parse(readFileSync(join(out, "config.json"), "utf8")).quantization_config, config)
    const distance = relativeDistance(await logits(out, [1, 2, 3, 4]), await logits(source, [1, 2, 3, 4]))
    t.ok(distance > 0 && distance < tolerance, `${name}: ${distance}`)
    await convertModel(out, `${out}-again`, { format: "bitsandbytes" })
    const [first, second] = [hashes(out), hashes(`${out}-again`)]
    for (const file of ["model.safetensors", "config.json"]) t.equal(second[file], first[file], `${name}: ${file}`)
    await t.rejects(convertModel(out, `${out}-gptq`, { format: "gptq" }), { code: "ERR_UNSUPPORTED" })
    t.strictSame(beside(out).includes("out-gptq"), false)
  }
})

t.test("the perplexity of a real model lies where it should", async t => {
  const text = readFileSync(fableEvaluation, "utf8").slice(0, 12000)
  const perplexity = async (path: string) => (await evaluateModel(path, { text })).perplexity
  const quantized = async (options: QuantizeModelOptions) => {
    const out = join(folder(t), "out")
    await quantizeModel(fable, out, { ...options, onWarning: () => {} })
    return perplexity(out)
  }
  const exact = await perplexity(fable)
  const nf4 = await quantized({ preset: "nf4" })
  const absmax = await quantized({ scheme: "w4a16", groupSize: 64, rounding: "nearest" })
  t.ok(nf4 < 1.01 * exact, `${exact} ${nf4}`)
  t.ok(Math.abs(nf4 / absmax - 1) < 0.01, `${nf4} ${absmax}`)
  t.ok((await quantized({ preset: "llm.int8" })) < 1.003 * exact)
})

t.test("what bitsandbytes does not have is refused before any work", async t => {
  const source = smallCheckpoint(t)
  const refused = async (options: QuantizeModelOptions, message: RegExp, code = "ERR_OPTION") => {
    const out = join(folder(t), "out")
    await t.rejects(quantizeModel(source, out, options), { code, message })
    t.strictSame(beside(out), [])
  }
  await refused({ scheme: "nf4", symmetric: false }, /scheme "nf4" is symmetric/)
  await refused({ scheme: "nf4", rounding: "mse" }, /rounded to the nearest value.*found rounding "mse"/)
  await refused({ scheme: "nf4", groupSize: "channel" }, /groupSize is .*blocks of a number of elements/)
  await refused({ preset: "llm.int8", groupSize: 64 }, /one scale a row/)
  await refused({ scheme: "w4a16", overrides: [{ pattern: "*q_proj", scheme: "fp4" }], rounding: "mse" }, /"fp4"/)
  await refused({ scheme: "nf4", format: "gptq" }, /not codes of the code book nf4/, "ERR_UNSUPPORTED")
  await refused({ scheme: "w4a16", format: "bitsandbytes" }, /bitsandbytes stores the code books/, "ERR_UNSUPPORTED")
  await refused({ scheme: "nf4", groupSize: 48 }, /not 48/, "ERR_UNSUPPORTED")
})

t.test("an interrupted run continues with the scales in two levels that it had", async t => {
  const source = smallCheckpoint(t)
  const options: QuantizeModelOptions = { scheme: "nf4", doubleQuantization: true, onWarning: () => {} }
  const whole = join(folder(t), "whole")
  await quantizeModel(source, whole, options)
  const out = join(folder(t), "out")
  const controller = new AbortController()
  const stopped = quantizeModel(source, out, {
    ...options,
    signal: controller.signal,
    onProgress: ({ stage, done }) => {
      if (stage === "quantize" && done === 10) controller.abort()
    },
  })
  await t.rejects(stopped, { code: "ERR_ABORTED" })
  await quantizeModel(source, out, { ...options, resume: true })
  t.same(hashes(out), hashes(whole))
})
