// Models whose schemes say that activations are rounded, stored so or rounded as they are loaded.
import { join } from "node:path"
import t from "tap"
import { type LoadOptions, loadModel } from "../../../lib/engine/load-model.ts"
import { onLoadSchemes } from "../../../lib/engine/on-load-schemes.ts"
import { inspectModel } from "../../../lib/quantize/inspect-model.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { plantOutliers } from "../models/support/planted.ts"
import { fable } from "../models/support/reference-models.ts"

const folder = t.testdir()
const text = fable.text("text/fable-eval.txt")!.slice(0, 12_000)
const calibration = fable.text("text/fable-calib.txt")!.slice(0, 20_000)
const window = { window: 128 } as const
const blockLinears = 6 * 7

const made = async (name: string, options: QuantizeModelOptions): Promise<string> => {
  const out = join(folder, name)
  await quantizeModel(fable.directory, out, options)
  return out
}
/** Perplexity of a model as its schemes say, and with exact activations. */
async function scores(path: string, options: LoadOptions = {}) {
  const model = await loadModel(path, options)
  try {
    const found = await model.perplexity(text, window)
    const exact = await model.perplexity(text, { ...window, activations: "exact" })
    return { scheme: found, exact: exact.perplexity, weights: model.weights }
  } finally {
    model.dispose()
  }
}
const plain = (await scores(fable.directory)).exact

t.test("checkpoints", async t => {
  const cases: [string, QuantizeModelOptions, number][] = [
    ["w8a8", { scheme: "w8a8" }, 0.02],
    [
      "w8a8-static",
      { scheme: "w8a8", activations: "static", calibration, samples: 16, sequenceLength: 128, force: true },
      0.03,
    ],
    ["w8a8-asymmetric", { scheme: "w8a8", activations: "asymmetric" }, 0.02],
    ["fp8", { scheme: "fp8" }, 0.015],
    ["fp8-blocks", { scheme: "fp8", format: "fp8" }, 0.015],
    [
      "fp8-static",
      { scheme: "fp8", activations: "static", calibration, samples: 16, sequenceLength: 128, force: true },
      0.02,
    ],
    ["llm.int8", { preset: "llm.int8" }, 0.02],
  ]
  for (const [name, options, limit] of cases) {
    const warnings: string[] = []
    const path = await made(name, options)
    const { scheme, exact, weights } = await scores(path, { onWarning: message => warnings.push(message) })
    t.same(warnings, [], `${name} runs as it says`)
    t.equal(scheme.activations, "scheme")
    t.equal(weights.roundedModules.length, blockLinears, name)
    t.not(scheme.perplexity, exact, `${name}: activations are rounded`)
    t.ok(Math.abs(scheme.perplexity / plain - 1) < limit, `${name}: ${scheme.perplexity} of ${plain}`)
  }
  const described = (await inspectModel(join(folder, "w8a8-static"))).scheme
  t.match(described, /activations int8 static per tensor/)
})

t.test("as they are loaded, without calibration", async t => {
  const results = new Map<string, number>()
  for (const quantize of onLoadSchemes) {
    const { scheme, weights } = await scores(fable.directory, { quantize })
    results.set(quantize, scheme.perplexity)
    t.match(weights, { onLoad: quantize, roundedModules: { length: /a16|nf4|fp4/.test(quantize) ? 0 : blockLinears } })
    t.equal(weights.quantizedModules.length, blockLinears)
    t.notOk(weights.quantizedModules.includes("model.embed_tokens"))
    const four = /4/.test(quantize)
    t.ok(weights.bitsPerWeight < (four ? 5 : 8.5), `${quantize}: ${weights.bitsPerWeight} bits`)
    t.ok(scheme.perplexity / plain < (four ? 1.25 : 1.02), `${quantize}: ${scheme.perplexity} of ${plain}`)
  }
  // The same codes as a checkpoint of that scheme, whose scales are bf16 there.
  t.ok(Math.abs(results.get("w8a8")! / (await scores(join(folder, "w8a8"))).scheme.perplexity - 1) < 0.005)
  t.equal(results.get("llm.int8"), (await scores(join(folder, "llm.int8"))).scheme.perplexity)
  // What is quantized already stays.
  const { weights } = await scores(join(folder, "w8a8"), { quantize: "nf4" })
  t.equal(weights.roundedModules.length, blockLinears)
  t.match(await scores(fable.directory), { weights: { onLoad: null, quantizedModules: [] } })
  await t.rejects(loadModel(fable.directory, { quantize: "w9a9" as never }), {
    code: "ERR_OPTION",
    message: /"quantize" is "w9a9", expected "w8a8", "fp8"/,
  })
})

t.test("from a cache file", async t => {
  const cacheDir = join(folder, "cache")
  for (const [name, options] of [
    ["llm.int8", {}],
    ["w8a8-asymmetric", {}],
    ["fp8-static", {}],
    [fable.directory, { quantize: "w8a8" }],
  ] as const) {
    const path = name === fable.directory ? name : join(folder, name)
    const warnings: string[] = []
    const cached = { ...options, cache: true, cacheDir, onWarning: (message: string) => void warnings.push(message) }
    const first = await scores(path, cached)
    const second = await scores(path, cached)
    t.equal(second.scheme.perplexity, first.scheme.perplexity, name)
    t.equal(second.exact, first.exact)
    t.same(second.weights, first.weights)
    t.same(warnings, [])
  }
  const other = await scores(fable.directory, { cache: true, cacheDir, onWarning: () => {} })
  t.equal(other.weights.onLoad, null, "one that was packed with other options is not taken")
})

t.test("outliers that plain int8 loses and LLM.int8() keeps", async t => {
  const planted = join(folder, "planted")
  await plantOutliers(fable.directory, planted, { factor: 128, channels: () => [11, 200] })
  const same = (await scores(planted)).exact
  t.ok(Math.abs(same / plain - 1) < 1e-3, `the same function: ${same} of ${plain}`)
  const kept = (await scores(planted, { quantize: "llm.int8" })).scheme.perplexity
  const lost = (await scores(planted, { quantize: "w8a8" })).scheme.perplexity
  t.ok(lost / plain > 1.05, `W8A8: ${lost} of ${plain}`)
  t.ok(kept / plain < 1.005, `LLM.int8(): ${kept} of ${plain}`)
})

t.test("kinds of activations that a scheme does not have", async t => {
  const refused = async (options: QuantizeModelOptions, message: RegExp) =>
    t.rejects(quantizeModel(fable.directory, join(folder, "refused"), options), { code: "ERR_OPTION", message })
  await refused({ scheme: "w4a16", activations: "static", calibration }, /scheme "w4a16" of .* has none that could be/)
  await refused({ scheme: "w8a8", activations: "static" }, /static activations needs calibration/)
  await refused({ scheme: "fp8", activations: "asymmetric" }, /e4m3 has no zero points/)
  await refused({ scheme: "fp8", format: "fp8", activations: "static", calibration }, /scales of groups; use groupSize/)
  await refused({ scheme: "w8a8", activations: "none" as never }, /"activations" is "none", expected "dynamic"/)
})
