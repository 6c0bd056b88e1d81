// What users of quantization tools complain about, one regression test each, through the public surface. The parts have tests of
// their own beside this: rounding/gptq (degenerate Hessians), formats/gptq (versions), resume (kill -9), refusals (calibration, memory).
import { cpSync, existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import {
  inspectModel,
  loadModel,
  type QuantizeModelOptions,
  quantize,
  quantizeModel,
  Tensor,
} from "../../../lib/index.ts"
import { planQuantization } from "../../../lib/quantize/quantize-model.ts"
import { tsqError } from "../containers/support.ts"
import { beside, fable, folder, hashes, logits, smallCalibration, smallCheckpoint, tokens } from "./support.ts"

const quiet = { onWarning: () => {} }
const gptq: QuantizeModelOptions = { preset: "gptq", groupSize: 32, ...smallCalibration, ...quiet }

t.test("1: a Hessian that is not positive definite ends no run", async t => {
  // One token over and over: every Hessian is of rank one, or nearly so.
  const same = { calibration: new Array<number>(512).fill(5), samples: 16, sequenceLength: 32 }
  const report = await quantizeModel(smallCheckpoint(t), join(folder(t), "out"), { ...gptq, ...same })
  t.equal(report.tensors.length, 21)
  for (const { name, damp, error } of report.tensors) t.ok(damp! > 0 && Number.isFinite(error), `${name}: damp ${damp}`)
  const [n, k] = [16, 32]
  const weight = Tensor.from(
    Float32Array.from({ length: n * k }, (_, i) => Math.sin(i)),
    [n, k],
  )
  for (const [what, rows] of [
    ["zero", new Float32Array(8 * k)],
    ["rank one", Float32Array.from({ length: 8 * k }, (_, i) => (i % k) - 10)],
    [
      "equal columns",
      Float32Array.from({ length: 64 * k }, (_, i) => Math.cos(Math.floor(i / k) * (((i % k) >> 1) + 1))),
    ],
  ] as const) {
    const q = await quantize(weight, {
      scheme: "w4a16",
      groupSize: 16,
      rounding: "gptq",
      calibration: Tensor.from(rows, [rows.length / k, k]),
    })
    t.ok(
      q.scales.every(scale => Number.isFinite(scale) && scale > 0),
      what,
    )
  }
  const holed = Tensor.from(new Float32Array(8 * k).fill(1), [8, k])
  ;(holed.data as Float32Array)[3] = Number.NaN
  await t.rejects(
    quantize(weight, { scheme: "w4a16", groupSize: 16, rounding: "gptq", calibration: holed }),
    tsqError("ERR_NUMERIC", /calibration/),
  )
})

t.test("2: weights are looked at before hours of work; scales stay positive in their stored type", async t => {
  const broken = smallCheckpoint(t, {}, "F32", weights => {
    weights["model.layers.2.mlp.up_proj.weight"]!.values[77] = Number.POSITIVE_INFINITY
  })
  const seen: string[] = []
  await t.rejects(
    quantizeModel(broken, join(folder(t), "out"), { ...gptq, onProgress: ({ stage }) => void seen.push(stage) }),
    tsqError("ERR_NUMERIC", /model\.layers\.2\.mlp\.up_proj\.weight/),
  )
  t.notOk(seen.includes("quantize"), "before anything is quantized")
  const tiny = smallCheckpoint(t, {}, "F32", weights => {
    weights["model.layers.0.mlp.up_proj.weight"]!.values.fill(1e-9)
  })
  const out = join(folder(t), "out")
  await quantizeModel(tiny, out, gptq)
  const checkpoint = await Checkpoint.open(out)
  t.teardown(() => checkpoint.dispose())
  for (const name of checkpoint.names.filter(name => name.endsWith(".scales")))
    t.ok(
      (await checkpoint.floats(name)).every(scale => scale >= 2 ** -24 && Number.isFinite(scale)),
      `${name}: positive numbers of f16`,
    )
})

t.test("3: hidden states that float16 cannot hold are measured and said; what is written is run", async t => {
  const loud = smallCheckpoint(t, {}, "BF16", weights => {
    const down = weights["model.layers.1.mlp.down_proj.weight"]!.values
    for (let i = 0; i < down.length; i++) down[i]! *= 1e7
  })
  const warnings: string[] = []
  const report = await quantizeModel(loud, join(folder(t), "out"), {
    ...gptq,
    onWarning: text => void warnings.push(text),
  })
  t.equal(report.residualPeaks.length, 3)
  t.ok(report.residualPeaks[1]! > 65504 && report.residualPeaks[0]! < 65504)
  t.match(warnings, [/hidden states reach .* behind block [23]; float16 ends at 65504/])
  const silent = await quantizeModel(smallCheckpoint(t), join(folder(t), "out"), gptq)
  t.same(silent.warnings, [])
  t.ok(silent.residualPeaks.every(peak => peak > 0 && peak < 1000))
})

t.test("4: a GPTQ file says which zero points it stores, and the values are believed", async t => {
  const source = smallCheckpoint(t)
  const ids = [1, 5, 9]
  const made: Float32Array[] = []
  for (const version of ["v1", "v2"] as const) {
    const out = join(folder(t), "out")
    await quantizeModel(source, out, { ...gptq, gptqVersion: version })
    const path = join(out, "config.json")
    const config = JSON.parse(readFileSync(path, "utf8")) as { quantization_config: Record<string, unknown> }
    t.equal(config.quantization_config.checkpoint_format, version === "v1" ? "gptq" : "gptq_v2")
    made.push(await logits(out, ids))
    // The other name: official checkpoints have been published so.
    config.quantization_config.checkpoint_format = version === "v1" ? "gptq_v2" : "gptq"
    writeFileSync(path, JSON.stringify(config))
    const warnings: string[] = []
    const model = await loadModel(out, { onWarning: text => void warnings.push(text) })
    t.same((await model.forward(ids)).data, made.at(-1), "the values decide")
    model.dispose()
    t.match(warnings, [/every zero point is stored as [78], which is GPTQ v[12], although/])
  }
  t.same(made[0], made[1])
})

t.test("5: what a format cannot hold is planned and named, never padded or doubled in silence", async t => {
  const ragged = smallCheckpoint(t, { intermediate_size: 80 })
  const { plan } = await planQuantization(ragged, { ...gptq, groupSize: 64 })
  const kept = plan.modules.filter(entry => entry.refused)
  t.ok(kept.length > 0 && kept.every(entry => /80|fuse/.test(entry.reason!)), kept[0]?.reason ?? "")
  t.match(plan.warnings.join("\n"), /linears stay unquantized: .*down_proj/)
  t.match(plan.warnings.join("\n"), /bits per weight, not the nominal/)
  await t.rejects(
    planQuantization(ragged, { ...gptq, groupSize: 64, strict: true }),
    tsqError("ERR_UNSUPPORTED", /strict/),
  )
  // Formats whose groups may be shorter at the end hold it, and our kernels run it.
  const out = join(folder(t), "out")
  await quantizeModel(ragged, out, { ...gptq, groupSize: 32, format: "compressed-tensors", ...quiet })
  t.ok((await logits(out, [1, 2])).every(Number.isFinite))
})

t.test("6: a run that ended goes on where it was, to the same bytes", async t => {
  const source = smallCheckpoint(t)
  const [whole, cut] = [join(folder(t), "out"), join(folder(t), "out")]
  await quantizeModel(source, whole, gptq)
  const controller = new AbortController()
  const stop = ({ stage, done }: { stage: string; done: number }) => {
    if (stage === "quantize" && done === 10) controller.abort()
  }
  await t.rejects(quantizeModel(source, cut, { ...gptq, signal: controller.signal, onProgress: stop }), {
    code: "ERR_ABORTED",
  })
  t.notOk(existsSync(cut), "nothing under the final name")
  await t.rejects(
    quantizeModel(source, cut, { ...gptq, resume: true, damp: 0.05 }),
    tsqError("ERR_OPTION", /another run/),
  )
  await quantizeModel(source, cut, { ...gptq, resume: true })
  t.same(hashes(cut), hashes(whole))
  t.same(beside(cut), ["out"])
})

t.test("7: memory is known before it is taken", async t => {
  const { plan } = await planQuantization(fable, { preset: "rtn" })
  t.ok(plan.peakMemory > 0 && Object.keys(plan.memoryParts).length > 1)
  const out = join(folder(t), "out")
  await t.rejects(
    quantizeModel(fable, out, { preset: "rtn", maxMemory: plan.peakMemory / 100 }),
    tsqError("ERR_MEMORY", /would be needed, maxMemory allows/),
  )
  t.notOk(existsSync(out))
})

t.test(
  "8: packing happens on the way: what a block store holds is written without another pass over floats",
  async t => {
    const stages: string[] = []
    const onProgress = ({ stage }: { stage: string }) => void (stages.at(-1) !== stage && stages.push(stage))
    await quantizeModel(smallCheckpoint(t), join(folder(t), "out"), { ...gptq, onProgress })
    t.same(stages, ["check", "quantize", "write", "verify"])
  },
)

t.test("10: too little calibration is refused with what was asked and what there is", async t => {
  const source = smallCheckpoint(t)
  const short = { ...gptq, calibration: tokens(300), samples: 128, sequenceLength: 32 }
  await t.rejects(
    quantizeModel(source, join(folder(t), "out"), short),
    tsqError("ERR_OPTION", /300 tokens give 9 windows of 32, asked for 128/),
  )
  const report = await quantizeModel(source, join(folder(t), "out"), { ...short, force: true })
  t.match(report.calibration, { windows: 9, asked: 128 })
})

t.test("11: tokenizer, templates and generation settings come along", async t => {
  const source = join(folder(t), "model")
  cpSync(fable, source, { recursive: true })
  writeFileSync(join(source, "chat_template.jinja"), "{{ messages }}")
  const out = join(folder(t), "out")
  await quantizeModel(source, out, { preset: "rtn", ...quiet })
  const companions = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
  ]
  for (const name of companions)
    t.same(readFileSync(join(out, name)), readFileSync(join(source, name)), `${name}, byte for byte`)
  const [before, after] = [await loadModel(source), await loadModel(out)]
  const text = "Once upon a time, a fox's “den” – 3 × 4\n\n"
  t.same(after.tokenizer.encode(text), before.tokenizer.encode(text))
  t.same(after.eosTokenIds, before.eosTokenIds)
  before.dispose()
  after.dispose()
})

t.test("12: orders without an index at run time by default, and each engine's refusals by name", async t => {
  const source = smallCheckpoint(t)
  const [plain, ordered, mixed] = ["plain", "ordered", "mixed"].map(name => join(folder(t), name)) as [
    string,
    string,
    string,
  ]
  await quantizeModel(source, plain, gptq)
  await quantizeModel(source, ordered, { ...gptq, order: "dynamic" })
  await quantizeModel(source, mixed, {
    ...gptq,
    format: "compressed-tensors",
    overrides: [{ pattern: "*.q_proj", scheme: "w8a16" }],
  })
  const settings = (path: string) =>
    (JSON.parse(readFileSync(join(path, "config.json"), "utf8")) as { quantization_config: { desc_act?: boolean } })
      .quantization_config
  t.equal(settings(plain).desc_act, false)
  t.equal(settings(ordered).desc_act, true)
  const found = async (path: string) =>
    (
      (await inspectModel(path, {
        for: ["vllm", "transformers", "llama.cpp", "onnxruntime", "sglang"],
      })) as unknown as {
        findings: { engine: string; reason: string }[]
      }
    ).findings
  t.match(
    (await found(mixed))
      .filter(({ engine }) => engine === "vllm")
      .map(({ reason }) => reason)
      .join("\n"),
    /q_proj|fuse/,
    "unequal parts of a fused matrix",
  )
  t.ok((await found(ordered)).length > (await found(plain)).length, "an index costs something somewhere")
})
