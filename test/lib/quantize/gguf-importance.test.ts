// Importance matrices and GPTQ for GGUF files.
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Gguf } from "../../../lib/containers/gguf.ts"
import { readImportance, writeImportance } from "../../../lib/containers/imatrix-files.ts"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import { decodeBlocks } from "../../../lib/formats/gguf-blocks.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { fable, fableCalibration, fableEvaluation } from "./support.ts"

const folder = t.testdir()
const calibration = readFileSync(fableCalibration, "utf8")
/** Few windows: what matters here is not how good the result is. */
const sizes = { samples: 8, sequenceLength: 128, force: true }

t.test("errors weighed by calibration, or by the matrix that it gave", async t => {
  const made = (name: string) => join(folder, name)
  const saved = made("imatrix.gguf")
  const stages = new Set<string>()
  const report = await quantizeModel(fable, made("weighed.gguf"), {
    ...{ preset: "q2_k", calibration, ...sizes, saveImatrix: saved },
    onProgress: ({ stage }) => stages.add(stage),
  })
  t.strictSame([...stages], ["calibrate", "quantize"])
  t.equal(report.rounding, "mse")
  const matrix = await readImportance(saved)
  t.match(matrix, { datasets: [], chunks: 8, chunkSize: 128 })
  t.equal(matrix.entries.size, 6 * 7)
  for (const [name, entry] of matrix.entries) {
    t.equal(entry.counts[0], 8 * 128, name)
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
  await quantizeModel(fable, made("q2_k.gguf"), { preset: "q2_k" })
  const [weighed, given, plain] = [
    await valuesOf("weighed.gguf"),
    await valuesOf("given.gguf"),
    await valuesOf("q2_k.gguf"),
  ]
  const bytesOf = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength)
  for (const [name, values] of weighed) t.ok(bytesOf(values).equals(bytesOf(given.get(name)!)), name)
  for (const [name, values] of weighed)
    t.equal(
      values.some((value, i) => value !== plain.get(name)![i]),
      matrix.entries.has(name),
      name,
    )
})

t.test("GPTQ on the blocks' grids", async t => {
  const out = join(folder, "gptq.gguf")
  const stages = new Set<string>()
  const options = {
    rounding: "gptq",
    calibration,
    samples: 20,
    imatrix: join(folder, "imatrix.gguf"),
  } as const
  const report = await quantizeModel(fable, out, {
    ...{ preset: "q2_k", ...options },
    onProgress: ({ stage }) => stages.add(stage),
  })
  t.strictSame([...stages], ["quantize"], "the matrix was given")
  t.equal(report.rounding, "gptq")
  const linears = report.tensors.filter(({ error }) => error !== undefined)
  t.equal(linears.length, 6 * 7)
  for (const { name, error, nearestError } of linears)
    t.ok(error! < nearestError!, `${name}: ${error} of ${nearestError}`)
  const plain = join(folder, "gptq-none.gguf")
  await quantizeModel(fable, plain, { preset: "q2_k", imatrix: options.imatrix })
  const text = readFileSync(fableEvaluation, "utf8").slice(0, 8_000)
  const divergence = async (file: string) => (await evaluateModel(file, { text, against: fable })).against!.klMean
  const [feedback, without] = [await divergence(out), await divergence(plain)]
  t.ok(feedback < 0.95 * without, `KL ${feedback} with error feedback, ${without} without`)
})

t.test("what is refused leaves nothing behind", async t => {
  const out = join(folder, "refused.gguf")
  const refused = (options: unknown, code: string, message: RegExp) =>
    t.rejects(quantizeModel(fable, out, options as never), { code, message })
  await refused({ preset: "q2_k_s" }, "ERR_OPTION", /blk.0.attn_q.weight Q2_K, which needs its importance/)
  await refused({ preset: "q4_k_m", rounding: "mse" }, "ERR_OPTION", /"imatrix" or "calibration"/)
  await refused({ preset: "q4_k_m", rounding: "gptq" }, "ERR_OPTION", /needs calibration/)
  await refused({ preset: "q4_k_m", rounding: "gptq", calibration, order: "dynamic" }, "ERR_OPTION", /"order" is/)
  await refused({ preset: "q4_k_m", rounding: "nearest", calibration: "text" }, "ERR_OPTION", /leave out rounding/)
  await refused({ preset: "q4_k_m", imatrix: "x.gguf", calibration: "text" }, "ERR_OPTION", /give one of them/)
  await refused({ preset: "q4_k_m", saveImatrix: "x.gguf" }, "ERR_OPTION", /"saveImatrix" writes/)
  await refused({ preset: "q4_k_m", calibration: "text", saveImatrix: "x.bin" }, "ERR_OPTION", /\.gguf or \.dat/)
  await refused({ preset: "q4_k_m", samples: 3 }, "ERR_OPTION", /"samples" says how "calibration" is cut/)
  await refused({ preset: "q4_k_m", calibration: "text" }, "ERR_OPTION", /give more text/)
  await refused(
    { preset: "q4_k_m", imatrix: join(folder, "q2_k.gguf") },
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
  t.notOk(existsSync(out))
  t.strictSame(
    readdirSync(folder).filter(name => /partial|refused/.test(name)),
    [],
  )
})
