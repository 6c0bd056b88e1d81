// Checkpoints to GGUF files: what the file holds, what runs from it, what is refused.
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Gguf } from "../../../lib/containers/gguf.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { decodeBlocks } from "../../../lib/formats/gguf-blocks.ts"
import { ggufPresets } from "../../../lib/formats/gguf-mixes.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { contentOf } from "../engine/gguf-files.ts"
import { fable } from "./support.ts"

const folder = t.testdir()
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

t.test("what is refused leaves nothing behind", async t => {
  const out = join(folder, "refused.gguf")
  const refused = (options: unknown, code: string, message: RegExp, source = fable, target = out) =>
    t.rejects(quantizeModel(source, target, options as never), { code, message })
  await refused({}, "ERR_OPTION", /preset/)
  await refused({ preset: "gptq" }, "ERR_OPTION", /q4_k_m/)
  await refused({ preset: "q4_k_m", scheme: "w4a16" }, "ERR_UNSUPPORTED", /"scheme" is not available for GGUF/)
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
