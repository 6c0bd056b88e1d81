// Every preset and every format, end to end: quantized, loaded again, and close to the original.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import type { Progress } from "../../../lib/core/progress.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { inspectModel } from "../../../lib/quantize/inspect-model.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { beside, folder, logits, relativeDistance, smallCalibration, smallCheckpoint, tokens } from "./support.ts"

const json = (path: string) => JSON.parse(readFileSync(path, "utf8"))

interface Case {
  name: string
  options: QuantizeModelOptions
  method: string
  bits: number
}

const cases: Case[] = [
  { name: "rtn", options: { preset: "rtn", groupSize: 32 }, method: "gptq", bits: 4.5 },
  { name: "gptq", options: { preset: "gptq", groupSize: 32, ...smallCalibration }, method: "gptq", bits: 4.5 },
  { name: "awq", options: { preset: "awq", groupSize: 32, ...smallCalibration }, method: "awq", bits: 4 + 20 / 32 },
  { name: "awq-gptq", options: { preset: "awq-gptq", groupSize: 32, ...smallCalibration }, method: "gptq", bits: 4.5 },
  { name: "default with calibration", options: { ...smallCalibration }, method: "gptq", bits: 4.5 },
  { name: "mse", options: { rounding: "mse", groupSize: 32, ...smallCalibration }, method: "gptq", bits: 4.5 },
  {
    name: "awq and mse",
    options: { preset: "awq", rounding: "mse", groupSize: 32, ...smallCalibration },
    method: "awq",
    bits: 4.625,
  },
  {
    name: "gptq as compressed-tensors",
    options: { preset: "gptq", format: "compressed-tensors", groupSize: 32, ...smallCalibration },
    method: "compressed-tensors",
    bits: 4.5,
  },
  {
    name: "gptq v2",
    options: {
      preset: "gptq",
      gptqVersion: "v2",
      symmetric: false,
      format: "gptq",
      groupSize: 32,
      ...smallCalibration,
    },
    method: "gptq",
    bits: 4.625,
  },
  {
    name: "symmetric awq",
    options: { preset: "awq", symmetric: true, format: "awq", groupSize: 32, ...smallCalibration },
    method: "awq",
    bits: 4.5,
  },
  {
    name: "dynamic order",
    options: { preset: "gptq", order: "dynamic", groupSize: 32, ...smallCalibration },
    method: "gptq",
    bits: 4.5,
  },
]

t.test("presets and formats", async t => {
  const source = smallCheckpoint(t)
  const ids = tokens(24, 64, 9)
  const original = await logits(source, ids)
  for (const { name, options, method, bits } of cases)
    await t.test(name, async t => {
      const out = join(folder(t), "out")
      const stages = new Set<string>()
      const finished: Progress[] = []
      const report = await quantizeModel(source, out, {
        ...options,
        onProgress: progress => {
          stages.add(progress.stage)
          if (progress.tensor && progress.stage === "quantize") finished.push(progress)
        },
        onWarning: text => t.fail(`warned: ${text}`),
      })
      t.strictSame(beside(out), ["out"], "nothing but the output is left")
      t.strictSame([...stages], ["check", "quantize", "write", "verify"])
      t.equal(finished.length, 21)
      t.ok(
        finished.every(({ loss, done, total }) => Number.isFinite(loss) && loss! >= 0 && done <= total && total === 21),
      )
      t.equal(report.tensors.length, 21)
      t.ok(Math.abs(report.bitsPerWeight - bits) < 1e-9, `${report.bitsPerWeight} bits per weight`)
      t.strictSame(json(join(out, "quantization-report.json")), JSON.parse(JSON.stringify(report)))
      t.equal(json(join(out, "config.json")).quantization_config.quant_method, method)
      t.strictSame(
        report.unquantized.map(entry => entry.name),
        ["model.embed_tokens"],
      )
      const quantized = await logits(out, ids)
      t.ok(quantized.every(Number.isFinite), "logits are finite")
      const distance = relativeDistance(quantized, original)
      t.ok(distance > 0 && distance < 0.3, `logits are ${distance.toFixed(4)} away`)
      t.ok(Math.abs((await inspectModel(out)).bitsPerWeight - bits) < 1e-9)
    })
})

t.test("architectures with biases, norms of q and k, and an untied head", async t => {
  for (const change of [
    { model_type: "qwen2", architectures: ["Qwen2ForCausalLM"], tie_word_embeddings: false },
    { model_type: "qwen3", architectures: ["Qwen3ForCausalLM"], head_dim: 32 },
    { model_type: "mistral", architectures: ["MistralForCausalLM"], sliding_window: null },
    { attention_bias: true, mlp_bias: true },
  ])
    for (const dtype of ["BF16", "F32"] as const) {
      const source = smallCheckpoint(t, change, dtype)
      const out = join(folder(t), "out")
      await quantizeModel(source, out, { preset: "awq-gptq", scheme: "w8a16", groupSize: 32, ...smallCalibration })
      const ids = tokens(24, 64, 9)
      const distance = relativeDistance(await logits(out, ids), await logits(source, ids))
      t.ok(distance < 0.02, `${JSON.stringify(change)} ${dtype}: ${distance.toFixed(5)} at 8 bits`)
    }
})

t.test("what is not quantized stays byte for byte, number lexemes in config.json too", async t => {
  const source = smallCheckpoint(t, { rope_theta: 10000, custom: 30 })
  const out = join(folder(t), "out")
  await quantizeModel(source, out, {
    groupSize: 32,
    ignore: ["model.layers.1.*"],
    overrides: [{ pattern: "o_proj", scheme: "none" }],
  })
  const found = await inspectModel(out)
  const dense = found.tensors.filter(tensor => tensor.dtype !== null).map(tensor => tensor.name)
  t.ok(dense.includes("model.layers.1.mlp.up_proj.weight"))
  t.ok(dense.includes("model.layers.0.self_attn.o_proj.weight"))
  t.notOk(dense.includes("model.layers.0.mlp.up_proj.weight"))
  const model = await loadModel(out)
  t.teardown(() => model.dispose())
  t.equal(readFileSync(join(out, "tokenizer.json"), "utf8"), readFileSync(join(source, "tokenizer.json"), "utf8"))
  t.match(readFileSync(join(out, "config.json"), "utf8"), /"custom":\s*30[,}\s]/)
})
