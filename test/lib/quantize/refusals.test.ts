// What quantizeModel refuses before any work, and that refusing changes nothing on disk.
import { chmodSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t, { type Test } from "tap"
import { planQuantization, type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { beside, fable, folder, hashes, smallCalibration, smallCheckpoint, tokens } from "./support.ts"

const source = smallCheckpoint(t)
const rtn = { preset: "rtn", groupSize: 32 } as const
async function refused(
  t: Test,
  options: object,
  wanted: { code: string; message: RegExp },
  from = source,
): Promise<void> {
  const out = join(folder(t), "out")
  await t.rejects(quantizeModel(from, out, options as QuantizeModelOptions), wanted, String(wanted.message))
  t.strictSame(beside(out), [], "nothing was written")
}

t.test("options", async t => {
  const option = (options: object, message: RegExp) => refused(t, options, { code: "ERR_OPTION", message })
  await option({ ...rtn, groupsize: 32 }, /unknown option "groupsize"; did you mean "groupSize"/)
  await option(
    { preset: "gtpq" },
    /preset is "gtpq", expected "rtn", "gptq", "awq", "awq-gptq", "smoothquant", "fp8", "nf4", "llm.int8" or "best"/,
  )
  await option({ ...rtn, format: "gguf" }, /give an output called .gguf and a preset such as q4_k_m/)
  await option({ ...rtn, format: "onnx" }, /convert that to a file called .onnx/)
  await option({ scheme: "w7a16" }, /scheme is "w7a16", expected "w8a16"/)
  await option({ rounding: "best" }, /rounding is "best"/)
  await option({ transforms: ["awk"] }, /transforms is "awk", expected "awq", "smooth" or "hadamard"/)
  await option({ transforms: "awq" }, /transforms/)
  await option({ transforms: ["awq", "awq"] }, /every transform once/)
  await option({ transforms: ["smooth", "hadamard"] }, /"hadamard" as the first/)
  await option({ transforms: ["hadamard", "smooth"] }, /transform smooth needs calibration/)
  await option({ format: "safetensors" }, /format is "safetensors"/)
  for (const groupSize of [0, -1, 1.5, Number.NaN, "row", null]) await option({ ...rtn, groupSize }, /groupSize/)
  await option(
    { ...rtn, groupSize: 128 },
    /groupSize is 128, larger than k = 64 of model\.layers\.0\.self_attn\.q_proj \[64, 64\]; use at most 64 or "channel"/,
  )
  await option({ ...rtn, alpha: 0.5 }, /alpha.*no value without the transform "smooth"/)
  for (const alpha of [-0.1, 1.1, Number.NaN, "best"])
    await option({ transforms: ["smooth"], alpha }, /alpha.*a number from 0 to 1 or "auto"/)
  for (const seed of [-1, 0.5, "1"]) await option({ ...rtn, seed }, /seed/)
  await option({ ...rtn, symmetric: "yes" }, /symmetric/)
  await option({ ...rtn, maxMemory: 0 }, /maxMemory/)
  await option({ ...rtn, damp: 0 }, /damp/)
  await option(
    { ...rtn, doubleQuantization: true },
    /"doubleQuantization" is true, expected false without scheme "nf4"/,
  )
  await option(
    { ...rtn, format: "awq", symmetric: false, gptqVersion: "v2" },
    /"gptqVersion" is "v2", expected no value/,
  )
  await option({ ...rtn, order: "random" }, /order/)
  await option({ ...rtn, overrides: [{ pattern: "q_proj", scheme: "w9a16" }] }, /overrides\["q_proj"\] is "w9a16"/)
  await option({ ...rtn, overrides: ["q_proj=w8a16"] }, /overrides/)
  await option({ ...rtn, overrides: [{ pattern: "qproj", scheme: "w8a16" }] }, /override "qproj" matches no matrix/)
  await option({ ...rtn, overrides: [{ pattern: "lm_head", scheme: "w8a16" }] }, /matches no matrix.*tied head/)
  await option({ ...rtn, onProgress: 1 }, /onProgress/)
  await option({ ...rtn, onWarning: 1 }, /onWarning/)
  await option({ ...rtn, signal: {} }, /signal/)
  await option(5 as never, /options are 5/)
})

t.test("calibration", async t => {
  const option = (options: object, message: RegExp, from?: string) =>
    refused(t, options, { code: "ERR_OPTION", message }, from)
  await option({ preset: "gptq" }, /rounding gptq needs calibration/)
  await option({ preset: "awq" }, /transform awq needs calibration/)
  await option({ ...smallCalibration, samples: 17 }, /512 tokens give 16 windows of 32, asked for 17; give more text/)
  await option(
    { calibration: tokens(200), sequenceLength: 32 },
    /200 tokens give 6 windows of 32, expected at least 256 tokens/,
  )
  await option({ calibration: tokens(20), sequenceLength: 32, force: true }, /20 tokens give 0 windows/)
  await option({ calibration: [] }, /0 tokens/)
  await option({ calibration: [...tokens(600), 64] }, /token 600 is 64, expected ids from 0 to 63/)
  await option({ calibration: [1, -1] }, /token 1 is -1/)
  await option({ calibration: [1, "a"] }, /token 1 is "a"/)
  await option({ calibration: 5 }, /neither a text nor an array of token ids/)
  await option(
    { ...smallCalibration, sequenceLength: 65 },
    /sequenceLength is 65, longer than the model's context of 64/,
  )
  for (const samples of [0, -2, 1.5]) await option({ ...smallCalibration, samples }, /samples/)
  await option({ calibration: " \n " }, /the text is empty/, fable)
  await option({ calibration: "\0\0\x01binary" }, /not text/, fable)
  await option({ calibration: "far too short" }, /tokens give 0 windows of 512/, fable)
})

t.test("less calibration than asked for goes on with force", async t => {
  const out = join(folder(t), "out")
  const report = await quantizeModel(source, out, { ...smallCalibration, groupSize: 32, samples: 100, force: true })
  t.match(report.calibration, { windows: 16, asked: 100, sequenceLength: 32, tokens: 512 })
})

t.test("calibration that is not looked at is said to be so", async t => {
  const warnings: string[] = []
  await quantizeModel(source, join(folder(t), "out"), {
    ...rtn,
    ...smallCalibration,
    onWarning: text => warnings.push(text),
  })
  t.strictSame(warnings, ["rounding nearest does not look at activations: calibration is not used"])
})

t.test("sources", async t => {
  const broken = (value: number) =>
    smallCheckpoint(t, {}, "F32", weights => {
      weights["model.layers.1.mlp.up_proj.weight"]!.values[70] = value
    })
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
    await refused(
      t,
      rtn,
      { code: "ERR_NUMERIC", message: /model\.layers\.1\.mlp\.up_proj\.weight.*\[1, 6\]/ },
      broken(value),
    )
  await refused(
    t,
    rtn,
    { code: "ERR_UNSUPPORTED", message: /MambaForCausalLM|mamba/ },
    smallCheckpoint(t, { model_type: "mamba", architectures: ["MambaForCausalLM"] }),
  )
  await refused(t, rtn, { code: "ERR_IO", message: /no such folder/ }, join(folder(t), "absent"))
  await refused(t, rtn, { code: "ERR_FORMAT", message: /has no config\.json/ }, folder(t))
  await refused(t, rtn, { code: "ERR_OPTION", message: /source/ }, "")
  const wrong = smallCheckpoint(t, {}, "BF16", weights => {
    const tensor = weights["model.layers.2.mlp.down_proj.weight"]!
    tensor.shape = [96, 64]
  })
  await refused(
    t,
    rtn,
    { code: "ERR_SHAPE", message: /layers\.2\.mlp\.down_proj\.weight is \[96, 64\], expected \[64, 96\]/ },
    wrong,
  )
  const lacking = smallCheckpoint(t, {}, "BF16", weights => delete weights["model.layers.2.self_attn.v_proj.weight"])
  await refused(t, rtn, { code: "ERR_FORMAT", message: /layers\.2\.self_attn\.v_proj\.weight/ }, lacking)
  const quantized = join(folder(t), "out")
  await quantizeModel(source, quantized, rtn)
  await refused(t, rtn, { code: "ERR_UNSUPPORTED", message: /is quantized already \(gptq\).*convertModel/ }, quantized)
})

t.test("outputs", async t => {
  const before = hashes(source)
  const option = { code: "ERR_OPTION" }
  await t.rejects(quantizeModel(source, source, rtn), { ...option, message: /same folder/ })
  await t.rejects(quantizeModel(source, source, { ...rtn, force: true }), { ...option, message: /same folder/ })
  await t.rejects(quantizeModel(source, join(source, ".."), { ...rtn, force: true }), {
    ...option,
    message: /contains the source/,
  })
  const link = join(folder(t), "link")
  symlinkSync(source, link)
  await t.rejects(quantizeModel(link, source, { ...rtn, force: true }), { ...option, message: /same folder/ })
  await t.rejects(quantizeModel(source, "", rtn), option)

  const out = join(folder(t), "out")
  mkdirSync(out)
  writeFileSync(join(out, "precious"), "text")
  await t.rejects(quantizeModel(source, out, rtn), { ...option, message: /exists already/ })
  t.equal(readFileSync(join(out, "precious"), "utf8"), "text")
  const bad = smallCheckpoint(t, {}, "F32", weights => {
    weights["model.norm.weight"]!.values[0] = Number.NaN
  })
  await t.rejects(quantizeModel(bad, out, { ...rtn, force: true }), { code: "ERR_NUMERIC" })
  t.equal(
    readFileSync(join(out, "precious"), "utf8"),
    "text",
    "a failed run with force leaves the earlier output alone",
  )
  await quantizeModel(source, out, { ...rtn, force: true })
  t.notOk(Object.hasOwn(hashes(out), "precious"))
  t.strictSame(beside(out), ["out"])

  const file = join(folder(t), "file")
  writeFileSync(file, "")
  await t.rejects(quantizeModel(source, file, { ...rtn, force: true }), { ...option, message: /is an existing file/ })
  await t.rejects(quantizeModel(source, join(file, "out"), rtn), { code: "ERR_IO" })
  t.strictSame(hashes(source), before)
})

t.test(
  "an output in a read-only folder",
  { skip: process.getuid?.() === 0 ? "root may write anywhere" : false },
  async t => {
    const parent = folder(t)
    chmodSync(parent, 0o555)
    t.teardown(() => chmodSync(parent, 0o755))
    await t.rejects(quantizeModel(source, join(parent, "out"), rtn), {
      code: "ERR_IO",
      message: /permission denied: choose/,
    })
  },
)

t.test("an output on a file system that takes no folders", async t => {
  await t.rejects(quantizeModel(source, "/proc/self/out", rtn), {
    code: "ERR_IO",
    message: /cannot create the output folder/,
  })
})

t.test("memory", async t => {
  const { plan } = await planQuantization(source, { ...smallCalibration, groupSize: 32 })
  const parts = Object.values(plan.memoryParts)
  t.equal(
    plan.peakMemory,
    parts.reduce((a, b) => a + b, 0),
  )
  await refused(
    t,
    { ...smallCalibration, maxMemory: plan.peakMemory - 1 },
    { code: "ERR_MEMORY", message: /would be needed, maxMemory allows .*\(runtime 120 MB/ },
  )
  await quantizeModel(source, join(folder(t), "out"), {
    ...smallCalibration,
    groupSize: 32,
    maxMemory: plan.peakMemory,
  })
})

t.test("the plan names every matrix, and touches nothing", async t => {
  const before = hashes(source)
  const { recipe, plan, calibration } = await planQuantization(source, { ...rtn, ignore: ["model.layers.0.*"] })
  t.equal(calibration, null)
  t.match(recipe, { scheme: "w4a16", rounding: "nearest", format: "gptq", groupSize: 32, symmetric: true })
  t.equal(plan.modules.length, 3 * 7 + 1)
  for (const { module, scheme, reason } of plan.modules) t.ok((scheme === null) === (reason !== null), module)
  t.equal(plan.modules.filter(entry => entry.reason === "ignored by option").length, 7)
  t.ok(plan.estimatedSeconds > 0 && plan.outputBytes < plan.sourceBytes)
  t.strictSame(hashes(source), before)
})
