// Checkpoints to GGUF files: what the file holds, what runs from it, what is refused.
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Gguf } from "../../../lib/containers/gguf.ts"
import { readImportance, writeImportance } from "../../../lib/containers/imatrix-files.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { decodeBlocks } from "../../../lib/formats/gguf-blocks.ts"
import { ggufPresets } from "../../../lib/formats/gguf-mixes.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { contentOf } from "../engine/gguf-files.ts"
import { fable, fableCalibration } from "./support.ts"

const folder = t.testdir()
const calibration = readFileSync(fableCalibration, "utf8")
const prompt = "Once there was a fox who"

t.test("every mixture", async t => {
  // Q2_K_S is not made without importance.
  for (const preset of ggufPresets.filter(name => name !== "q2_k_s")) {
    const out = join(folder, `${preset}.gguf`)
    const stages: string[] = []
    const report = await quantizeModel(fable, out, { preset, onProgress: ({ stage }) => stages.push(stage) })
    t.match(report, { format: "gguf", preset, architecture: "llama", notes: [] })
    t.equal(stages.length, report.tensors.length)
    const gguf = await Gguf.open(out)
    t.strictSame(
      [...gguf.entries.values()].map(({ name, type }) => [name, type.name]),
      report.tensors.map(({ name, type }) => [name, type]),
    )
    t.equal(gguf.entries.get("blk.0.attn_norm.weight")?.type.name, "F32")
    t.equal(gguf.metadata.get("general.name")?.value, "fable-5m")
    gguf.dispose()
    const model = await loadModel(out)
    const { data } = await model.forward(model.tokenizer.encode(prompt))
    t.ok((data as Float32Array).every(Number.isFinite), preset)
    t.ok(Math.abs(model.bitsPerWeight - report.bitsPerWeight) < 1e-9, `${report.bitsPerWeight} bits a weight`)
    model.dispose()
  }
})

t.test("names, shapes and rows are those of GGUF", async t => {
  const { tensors } = await contentOf(fable, "F32")
  const gguf = await Gguf.open(join(folder, "f32.gguf"))
  for (const { name, values } of tensors)
    t.strictSame(await decodeBlocks(gguf.entry(name), gguf.mapped(name)), values, name)
  gguf.dispose()
})

t.test("an existing file stays unless force replaces it", async t => {
  const out = join(folder, "q8_0.gguf")
  const before = readFileSync(out)
  await t.rejects(quantizeModel(fable, out, { preset: "q4_0" }), { code: "ERR_OPTION", message: /exists already/ })
  t.ok(readFileSync(out).equals(before))
  await quantizeModel(fable, out, { preset: "q4_0", force: true })
  t.ok(readFileSync(out).equals(readFileSync(join(folder, "q4_0.gguf"))), "the same bytes every time")
})

t.test("errors weighed by calibration, or by the matrix that it gave", async t => {
  const made = (name: string) => join(folder, name)
  const saved = made("imatrix.gguf")
  const stages = new Set<string>()
  const report = await quantizeModel(fable, made("weighed.gguf"), {
    ...{ preset: "q2_k", calibration, samples: 8, saveImatrix: saved },
    onProgress: ({ stage }) => stages.add(stage),
  })
  t.strictSame([...stages], ["calibrate", "quantize"])
  t.equal(report.rounding, "mse")
  const matrix = await readImportance(saved)
  t.match(matrix, { datasets: [], chunks: 8, chunkSize: 512 })
  t.equal(matrix.entries.size, 6 * 7)
  for (const [name, entry] of matrix.entries) {
    t.equal(entry.counts[0], 8 * 512, name)
    t.equal(entry.sums.length, /ffn_down/.test(name) ? 768 : 256)
  }
  const [q, v] = ["q", "v"].map(part => matrix.entries.get(`blk.3.attn_${part}.weight`)!)
  t.strictSame(q, v, "one input, one entry")
  await quantizeModel(fable, made("given.gguf"), { preset: "q2_k", imatrix: saved })
  const valuesOf = async (name: string) => {
    const gguf = await Gguf.open(made(name))
    const found = new Map<string, Float32Array>()
    for (const tensor of gguf.entries.values())
      found.set(tensor.name, await decodeBlocks(tensor, gguf.mapped(tensor.name)))
    gguf.dispose()
    return found
  }
  const [weighed, given, plain] = [
    await valuesOf("weighed.gguf"),
    await valuesOf("given.gguf"),
    await valuesOf("q2_k.gguf"),
  ]
  t.strictSame(given, weighed)
  for (const [name, values] of weighed)
    t.equal(
      values.some((value, i) => value !== plain.get(name)![i]),
      matrix.entries.has(name),
      name,
    )
})

t.test("what is refused leaves nothing behind", async t => {
  const out = join(folder, "refused.gguf")
  const refused = (options: unknown, code: string, message: RegExp, source = fable, target = out) =>
    t.rejects(quantizeModel(source, target, options as never), { code, message })
  await refused({}, "ERR_OPTION", /preset/)
  await refused({ preset: "gptq" }, "ERR_OPTION", /q4_k_m/)
  await refused({ preset: "q4_k_m", scheme: "w4a16" }, "ERR_UNSUPPORTED", /"scheme" is not available for GGUF/)
  await refused({ preset: "q2_k_s" }, "ERR_OPTION", /blk.0.attn_q.weight Q2_K, which needs its importance/)
  await refused({ preset: "q4_k_m", rounding: "mse" }, "ERR_OPTION", /"imatrix" or "calibration"/)
  await refused({ preset: "q4_k_m", rounding: "gptq" }, "ERR_OPTION", /needs calibration/)
  await refused({ preset: "q4_k_m", rounding: "nearest", calibration: "text" }, "ERR_OPTION", /leave out rounding/)
  await refused({ preset: "q4_k_m", imatrix: "x.gguf", calibration: "text" }, "ERR_OPTION", /give one of them/)
  await refused({ preset: "q4_k_m", saveImatrix: "x.gguf" }, "ERR_OPTION", /"saveImatrix" writes/)
  await refused({ preset: "q4_k_m", calibration: "text", saveImatrix: "x.bin" }, "ERR_OPTION", /\.gguf or \.dat/)
  await refused({ preset: "q4_k_m", samples: 3 }, "ERR_OPTION", /"samples" says how "calibration" is cut/)
  await refused({ preset: "q4_k_m", calibration: "text" }, "ERR_OPTION", /give more text/)
  await refused(
    { preset: "q4_k_m", imatrix: join(folder, "q8_0.gguf") },
    "ERR_FORMAT",
    /expected that of an importance/,
  )
  const other = { entries: new Map(), datasets: [], chunks: 1, chunkSize: 1 }
  const saved = join(folder, "other.gguf")
  const entry = (k: number) => ({ sums: new Float32Array(k).fill(1), counts: Float32Array.of(1) })
  other.entries.set("blk.90.attn_q.weight", entry(256))
  await writeImportance(saved, other)
  await refused({ preset: "q4_k_m", imatrix: saved }, "ERR_OPTION", /nor for any other matrix .* another model/)
  other.entries.set("blk.0.attn_q.weight", entry(255))
  await writeImportance(saved, other, { force: true })
  await refused({ preset: "q4_k_m", imatrix: saved }, "ERR_SHAPE", /255 columns for blk.0.attn_q.weight, expected 256/)
  other.entries.set("blk.0.attn_q.weight", entry(256))
  await writeImportance(saved, other, { force: true })
  await refused({ preset: "q2_k_s", imatrix: saved }, "ERR_OPTION", /makes blk.0.attn_k.weight Q2_K/)
  await refused({ preset: "q4_k_m" }, "ERR_OPTION", /makes a GGUF file/, fable, join(folder, "plain"))
  await refused({ preset: "q4_k_m", signal: AbortSignal.abort() }, "ERR_ABORTED", /abort/)
  const stop = new AbortController()
  await refused({ preset: "q2_k", signal: stop.signal, onProgress: () => stop.abort() }, "ERR_ABORTED", /abort/)
  const broken = join(folder, "broken")
  cpSync(fable, broken, { recursive: true })
  const config = JSON.parse(readFileSync(join(broken, "config.json"), "utf8"))
  writeFileSync(join(broken, "config.json"), JSON.stringify({ ...config, intermediate_size: 7 }))
  await refused({ preset: "q4_k_m" }, "ERR_SHAPE", /expected \[7, /, broken)
  writeFileSync(join(broken, "config.json"), JSON.stringify({ ...config, model_type: "mamba" }))
  await refused({ preset: "q4_k_m" }, "ERR_UNSUPPORTED", /mamba/, broken)
  t.notOk(existsSync(out))
  t.notOk(existsSync(join(folder, "plain")))
  t.strictSame(
    readdirSync(folder).filter(name => /partial|refused/.test(name)),
    [],
  )
})
