// int8, FP8, MXFP4 and NVFP4 through the whole pipeline: quantized, run, converted and back.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Tensor } from "../../../lib/core/tensor.ts"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import { convertModel } from "../../../lib/quantize/convert-model.ts"
import { inspectModel } from "../../../lib/quantize/inspect-model.ts"
import { quantize } from "../../../lib/quantize/quantize.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { fable, fableEvaluation, folder, hashes, logits, relativeDistance, smallCheckpoint } from "./support.ts"

/** Options, how far logits may be off, what the configuration says, a format to go to and back. */
const cases: [QuantizeModelOptions, number, object, QuantizeModelOptions["format"] | null][] = [
  [{ scheme: "w8a8" }, 0.03, { format: "int-quantized" }, null],
  [{ scheme: "fp8" }, 0.15, { format: "float-quantized" }, "fbgemm_fp8"],
  [{ scheme: "fp8", groupSize: "tensor" }, 0.15, { format: "float-quantized" }, "fp8"],
  [
    { scheme: "fp8", format: "fp8" },
    0.15,
    { quant_method: "fp8", weight_block_size: [128, 128] },
    "compressed-tensors",
  ],
  [{ scheme: "fp8", format: "modelopt" }, 0.15, { quant_algo: "FP8_PER_CHANNEL_PER_TOKEN" }, "compressed-tensors"],
  [{ scheme: "fp8", format: "fbgemm_fp8" }, 0.15, { quant_method: "fbgemm_fp8" }, "modelopt"],
  [{ scheme: "nvfp4" }, 0.35, { format: "nvfp4-pack-quantized" }, null],
  [{ scheme: "mxfp4" }, 0.45, { format: "mxfp4-pack-quantized" }, null],
]

t.test("quantized, run, written again with the same bytes, converted and back", async t => {
  for (const [options, tolerance, config, other] of cases) {
    const name = `${options.scheme} ${options.groupSize ?? ""} ${options.format ?? ""}`
    const source = smallCheckpoint(t)
    const out = join(folder(t), "out")
    const report = await quantizeModel(source, out, { ...options, onWarning: text => t.match(text, /bits per weight/) })
    t.equal(report.tensors.length, 21, name)
    t.match(JSON.parse(readFileSync(join(out, "config.json"), "utf8")).quantization_config, config, name)
    const distance = relativeDistance(await logits(out, [1, 2, 3, 4]), await logits(source, [1, 2, 3, 4]))
    t.ok(distance > 0 && distance < tolerance, `${name}: ${distance}`)
    await convertModel(out, `${out}-again`, { format: report.recipe.format })
    const same = (again: string, what: string) => {
      const [first, second] = [hashes(out), hashes(again)]
      for (const file of ["model.safetensors", "config.json"])
        t.equal(second[file], first[file], `${name}, ${what}: ${file}`)
    }
    same(`${out}-again`, "again")
    await t.rejects(convertModel(out, `${out}-gptq`, { format: "gptq" }), { code: "ERR_UNSUPPORTED" })
    if (!other) continue
    await convertModel(out, `${out}-there`, { format: other })
    await convertModel(`${out}-there`, `${out}-back`, { format: report.recipe.format })
    same(`${out}-back`, `by way of ${other}`)
    t.equal(relativeDistance(await logits(`${out}-there`, [1, 2, 3]), await logits(out, [1, 2, 3])), 0, name)
  }
})

t.test("the perplexity of a real model lies where it should", async t => {
  const text = readFileSync(fableEvaluation, "utf8").slice(0, 12000)
  const perplexity = async (path: string) => (await evaluateModel(path, { text })).perplexity
  const exact = await perplexity(fable)
  for (const [options, most] of [
    [{ scheme: "w8a8" }, 1.003],
    [{ scheme: "fp8" }, 1.01],
    [{ scheme: "fp8", format: "fp8" }, 1.01],
    [{ scheme: "nvfp4" }, 1.05],
    [{ scheme: "mxfp4" }, 1.1],
  ] as [QuantizeModelOptions, number][]) {
    const out = join(folder(t), "out")
    await quantizeModel(fable, out, { ...options, onWarning: () => {} })
    const found = await perplexity(out)
    t.ok(Math.abs(found / exact - 1) < most - 1, `${JSON.stringify(options)}: ${found} beside ${exact}`)
    const { scheme } = await inspectModel(out)
    t.match(
      scheme,
      options.scheme === "w8a8" ? /w8a8 channel symmetric, activations int8 dynamic per token/ : /e4m3|e2m1/,
    )
  }
})

t.test("one tensor", async t => {
  const weight = Tensor.from(
    Float32Array.from({ length: 32 * 64 }, (_, i) => Math.sin(i)),
    [32, 64],
  )
  for (const [scheme, granularity, scaleType] of [
    ["w8a8", "channel", "f32"],
    ["fp8", "channel", "f32"],
    ["mxfp4", "group", "e8m0"],
    ["nvfp4", "group", "levels"],
  ] as const)
    t.match((await quantize(weight, { scheme })).scheme, { granularity, scaleType, symmetric: true }, scheme)
  const blocks = await quantize(weight, { scheme: "fp8", groupSize: 16 })
  t.match(blocks.scheme, { granularity: "block", blockRows: 128, groupSize: 16 })
  const refused = (options: object, message: RegExp) =>
    t.rejects(quantize(weight, options as never), { code: "ERR_OPTION", message })
  await refused({ scheme: "nvfp4", groupSize: 32 }, /groupSize is 32, expected 16/)
  await refused({ scheme: "mxfp4", groupSize: "channel" }, /expected 32 for scheme "mxfp4"/)
  await refused({ scheme: "w8a8", groupSize: 128 }, /expected at most k = 64/)
  await refused({ scheme: "fp8", symmetric: false }, /symmetric/)
})
