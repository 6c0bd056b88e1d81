// Conversions from and to GGUF files: the same values, or refused; rounded again only when asked.
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import t, { type Test } from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { Gguf } from "../../../lib/containers/gguf.ts"
import { ConversionRefused, type ConvertModelOptions, convertModel } from "../../../lib/quantize/convert-model.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { beside, fable, folder, hashes, logits, relativeDistance } from "./support.ts"

const ids = [1, 5, 9, 300]

async function contents(directory: string): Promise<Record<string, string>> {
  const checkpoint = await Checkpoint.open(directory)
  try {
    const found: Record<string, string> = {}
    for (const name of checkpoint.names) {
      const { dtype, shape } = checkpoint.entry(name)
      found[name] = `${dtype} [${shape}] ${Buffer.from(await checkpoint.readBytes(name))
        .toString("base64")
        .slice(0, 9999)}`
    }
    return found
  } finally {
    checkpoint.dispose()
  }
}

const types = async (path: string) => {
  const gguf = await Gguf.open(path)
  try {
    return new Map([...gguf.entries].map(([name, { type }]) => [name, type.name]))
  } finally {
    gguf.dispose()
  }
}

async function gguf(t: Test, preset: "q4_0" | "q8_0" | "q4_k_m" | "f16" | "q6_k"): Promise<string> {
  const out = join(folder(t), "model.gguf")
  await quantizeModel(fable, out, { preset })
  return out
}

t.test("dense: a checkpoint as a GGUF file and back has the same tensors and tokenizer", async t => {
  const out = join(folder(t), "model.gguf")
  const report = await convertModel(fable, out)
  t.match(report, { from: "dense", to: "gguf", modules: 0, exact: true, requantized: 0, maxError: 0 })
  t.equal((await types(out)).get("blk.0.attn_q.weight"), "BF16")
  t.equal((await types(out)).get("blk.0.attn_norm.weight"), "F32")
  const back = `${out}-back`
  t.match(await convertModel(out, back, { format: "dense", dtype: "bf16" }), { from: "gguf", to: "dense", exact: true })
  t.strictSame(await contents(back), await contents(fable))
  t.strictSame(await logits(back, ids), await logits(fable, ids))
  for (const file of ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"])
    t.ok(JSON.parse(readFileSync(join(back, file), "utf8")), file)
  t.match(JSON.parse(readFileSync(join(back, "config.json"), "utf8")), {
    architectures: ["LlamaForCausalLM"],
    torch_dtype: "bfloat16",
  })
})

t.test("codes: every scheme that both hold comes back as it was", async t => {
  const cases = [
    [{ format: "gptq", symmetric: true, groupSize: 32 }, "Q4_0"],
    [{ format: "gptq", scheme: "w8a16", symmetric: true, groupSize: 32 }, "Q8_0"],
    [{ format: "awq", symmetric: false, groupSize: 64 }, /^(Q4_1|Q5_0)$/],
  ] as const
  for (const [options, type] of cases) {
    const first = join(folder(t), "first")
    await quantizeModel(fable, first, options)
    const file = `${first}.gguf`
    const report = await convertModel(first, file)
    t.match(report, { from: options.format, to: "gguf", exact: true })
    t.match((await types(file)).get("blk.0.ffn_down.weight"), type)
    const expected = await logits(first, ids)
    t.ok(relativeDistance(await logits(file, ids), expected) < 1e-5)
    if (!options.symmetric) {
      // Other codes with the same values: the way back is floats.
      await t.rejects(convertModel(file, `${first}-no`, { format: "awq" }), { code: "ERR_UNSUPPORTED" })
      t.match(await convertModel(file, `${first}-dense`, { format: "dense" }), { exact: true })
      t.ok(relativeDistance(await logits(`${first}-dense`, ids), expected) < 1e-5)
      continue
    }
    const back = `${first}-back`
    t.match(await convertModel(file, back, { format: options.format }), {
      from: "gguf",
      to: options.format,
      exact: true,
    })
    const [wanted, found] = [await contents(first), await contents(back)]
    t.strictSame(found, wanted)
    t.strictSame(await logits(back, ids), expected)
  }
})

t.test("K types become floats exactly, codes where a format has them, or are refused one by one", async t => {
  const file = await gguf(t, "q4_k_m")
  const warnings: string[] = []
  const out = join(folder(t), "out")
  const convert = (options: ConvertModelOptions) =>
    convertModel(file, out, { ...options, onWarning: text => warnings.push(text) })
  const error = await convert({ format: "compressed-tensors" }).then(
    () => null,
    (error: unknown) => error,
  )
  if (!(error instanceof ConversionRefused)) return t.fail("expected a refusal", { error })
  t.match(
    error.message,
    /compressed-tensors cannot hold \d+ of \d+ modules: .*adds a float to each group.*allowRequantize/,
  )
  t.equal(warnings.length, error.refused.length, "each is named")
  t.strictSame(beside(out), [])
  const expected = await logits(file, ids)
  t.match(await convert({ format: "dense" }), { from: "gguf", to: "dense", exact: true })
  t.ok(relativeDistance(await logits(out, ids), expected) < 1e-5)
  const half = await convert({ format: "dense", dtype: "f16", force: true })
  t.ok(half.relativeError > 0 && half.relativeError < 1e-3 && !half.exact, `${half.relativeError}`)
  const again = await convert({ format: "compressed-tensors", allowRequantize: true, groupSize: 32, force: true })
  t.match(again, { from: "gguf", to: "compressed-tensors", exact: false })
  t.ok(again.relativeError > 0.01 && again.relativeError < 0.2, `${again.relativeError}`)
  t.ok(again.maxError > 0 && again.tensors.some(({ relativeError = 0 }) => relativeError > 0))
  t.ok(relativeDistance(await logits(out, ids), expected) < 0.5)

  const six = await gguf(t, "q6_k")
  const whole = await convertModel(six, `${six}-ct`, { format: "compressed-tensors" }).catch((error: Error) => error)
  t.match(whole, { exact: true })
  t.ok(relativeDistance(await logits(`${six}-ct`, ids), await logits(six, ids)) < 1e-5)
  t.match(await convertModel(`${six}-ct`, `${six}-again.gguf`), { exact: true })
  t.equal((await types(`${six}-again.gguf`)).get("blk.0.attn_q.weight"), "Q6_K")
})

t.test("GGUF to GGUF: divided, joined, in another mixture", async t => {
  const file = await gguf(t, "q8_0")
  const parts = join(folder(t), "parts.gguf")
  t.match(await convertModel(file, parts, { maxPartBytes: 1_000_000 }), { from: "gguf", to: "gguf", exact: true })
  const names = readdirSync(join(parts, "..")).sort()
  t.ok(names.length > 2 && names[0]!.startsWith("parts-00001-of-"), names.join())
  const joined = `${parts}-joined.gguf`
  await convertModel(join(parts, "..", names[1]!), joined)
  t.equal(hashes(join(joined, ".."))["parts.gguf-joined.gguf"], hashes(join(file, ".."))["model.gguf"])

  await t.rejects(convertModel(file, `${file}-4.gguf`, { preset: "q4_0" }), {
    code: "ERR_UNSUPPORTED",
    message: /it is Q8_0, and the preset makes Q4_0 of it.*allowRequantize/,
  })
  const report = await convertModel(file, `${file}-4.gguf`, { preset: "q4_0", allowRequantize: true })
  t.ok(!report.exact && report.relativeError > 0.01 && report.relativeError < 0.2, `${report.relativeError}`)
  t.equal((await types(`${file}-4.gguf`)).get("blk.0.attn_q.weight"), "Q4_0")
  // Unquantized tensors are no second rounding.
  const plain = await gguf(t, "f16")
  t.match(await convertModel(plain, `${plain}-8.gguf`, { preset: "q8_0" }), { exact: false })
  await t.rejects(convertModel(file, file, { force: true }), { code: "ERR_OPTION", message: /same file/ })
})

t.test("a checkpoint in a mixture, and options that do not go together", async t => {
  const first = join(folder(t), "first")
  await quantizeModel(fable, first, { format: "gptq", groupSize: 32 })
  await t.rejects(convertModel(first, `${first}.gguf`, { preset: "q8_0" }), {
    code: "ERR_UNSUPPORTED",
    message: /gguf cannot hold .*the preset makes Q8_0/,
  })
  const report = await convertModel(first, `${first}.gguf`, { preset: "q8_0", allowRequantize: true })
  t.ok(report.requantized > 0 && report.relativeError < 0.01, `${report.relativeError}`)
  const same = await convertModel(first, `${first}-4.gguf`, { preset: "q4_0" })
  t.ok(same.tensors.filter(({ to }) => to === "Q4_0").every(({ exact }) => exact))
  const refused = (options: object, message: RegExp, out = `${first}-out`) =>
    t.rejects(convertModel(first, out, options), { code: "ERR_OPTION", message })
  await refused({ format: "awq", preset: "q8_0" }, /preset.*only GGUF/)
  await refused({ format: "awq", scheme: "w4a16" }, /scheme.*allowRequantize/)
  await refused({ dtype: "f16" }, /dtype/, `${first}-x.gguf`)
  await refused({ preset: "q9" }, /preset/, `${first}-x.gguf`)
  await refused({ format: "awq" }, /called \.gguf/, `${first}-x.gguf`)
})
