// Conversions between formats: A to B and back gives the same tensors, what does not fit is refused with the reason.
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t, { type Test } from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import type { FormatName } from "../../../lib/formats/format.ts"
import { type ConvertModelOptions, convertModel } from "../../../lib/quantize/convert-model.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { beside, folder, hashes, logits, smallCalibration, smallCheckpoint } from "./support.ts"

/** Name, type, shape and bytes of every tensor. */
async function tensors(directory: string): Promise<Record<string, string>> {
  const checkpoint = await Checkpoint.open(directory)
  try {
    const found: Record<string, string> = {}
    for (const name of checkpoint.names) {
      const { dtype, shape } = checkpoint.entry(name)
      const digest = createHash("sha256")
        .update(await checkpoint.readBytes(name))
        .digest("hex")
      found[name] = `${dtype} [${shape}] ${digest}`
    }
    return found
  } finally {
    checkpoint.dispose()
  }
}

async function quantized(t: Test, options: QuantizeModelOptions, source = smallCheckpoint(t)): Promise<string> {
  const out = join(folder(t), "first")
  await quantizeModel(source, out, options)
  return out
}

const asymmetric = { symmetric: false, groupSize: 32 } as const
const symmetric = { symmetric: true, groupSize: 32 } as const

t.test("there and back: the same tensors, the same logits on the way", async t => {
  const cases: [QuantizeModelOptions & { format: FormatName }, FormatName[]][] = [
    [{ ...symmetric, format: "gptq" }, ["awq", "compressed-tensors"]],
    [{ ...asymmetric, format: "gptq" }, ["awq", "compressed-tensors"]],
    [{ ...asymmetric, format: "awq" }, ["compressed-tensors"]],
    [{ ...symmetric, format: "awq" }, ["gptq", "compressed-tensors"]],
    [{ groupSize: "channel", format: "gptq" }, ["awq", "compressed-tensors"]],
    [{ ...symmetric, scheme: "w8a16", format: "gptq" }, ["compressed-tensors"]],
    [{ ...symmetric, scheme: "w3a16", format: "gptq" }, ["compressed-tensors"]],
    [{ preset: "gptq", order: "dynamic", groupSize: 32, format: "gptq", ...smallCalibration }, ["compressed-tensors"]],
    [{ ...symmetric, format: "compressed-tensors" }, ["gptq", "awq"]],
  ]
  for (const [options, targets] of cases) {
    const first = await quantized(t, options)
    const wanted = await tensors(first)
    const expected = await logits(first, [1, 2, 3, 4])
    for (const target of targets) {
      const name = `${options.format} ${options.scheme ?? "w4a16"} ${options.symmetric ?? ""} ${options.order ?? ""} to ${target}`
      const [second, third] = [`${first}-${target}`, `${first}-${target}-back`]
      const report = await convertModel(first, second, { format: target, onWarning: text => t.fail(text) })
      t.match(report, { from: options.format, to: target, modules: 21 })
      t.strictSame(await logits(second, [1, 2, 3, 4]), expected, `${name}: the same function`)
      await convertModel(second, third, { format: options.format })
      t.strictSame(await tensors(third), wanted, `${name} and back`)
      t.equal(hashes(third)["tokenizer.json"], hashes(first)["tokenizer.json"])
    }
  }
})

t.test("GPTQ v1 and v2", async t => {
  const first = await quantized(t, { ...asymmetric, format: "gptq" })
  await convertModel(first, `${first}-v2`, { format: "gptq", gptqVersion: "v2" })
  t.equal(
    JSON.parse(readFileSync(join(`${first}-v2`, "config.json"), "utf8")).quantization_config.checkpoint_format,
    "gptq_v2",
  )
  t.strictSame(await logits(`${first}-v2`, [1, 2, 3]), await logits(first, [1, 2, 3]))
  await convertModel(`${first}-v2`, `${first}-v1`, { format: "gptq" })
  t.strictSame(await tensors(`${first}-v1`), await tensors(first))
})

t.test("what does not fit is refused, and nothing is written", async t => {
  const refused = async (source: string, options: ConvertModelOptions, code: string, message: RegExp) => {
    const out = join(folder(t), "out")
    await t.rejects(convertModel(source, out, options), { code, message }, String(message))
    t.strictSame(beside(out), [])
  }
  const unsupported = (source: string, format: FormatName, message: RegExp) =>
    refused(source, { format }, "ERR_UNSUPPORTED", message)
  const eight = await quantized(t, { ...symmetric, scheme: "w8a16", format: "gptq" })
  await unsupported(eight, "awq", /awq cannot hold 21 of 21 modules: .*awq stores 4 bits, not 8/)
  const six = await quantized(
    t,
    { ...symmetric, scheme: "w6a16", format: "compressed-tensors" },
    smallCheckpoint(t, {}, "F32"),
  )
  await unsupported(six, "gptq", /not 6/)
  const exact = await quantized(t, { ...symmetric, format: "compressed-tensors" }, smallCheckpoint(t, {}, "F32"))
  await unsupported(exact, "gptq", /its f32 scales cannot be stored exactly as the f16 that gptq has/)
  const ragged = await quantized(t, { groupSize: 20, format: "compressed-tensors" })
  await unsupported(ragged, "gptq", /not a multiple of the group size 20/)
  const ordered = await quantized(t, { preset: "gptq", order: "dynamic", groupSize: 32, ...smallCalibration })
  await unsupported(ordered, "awq", /reordered columns/)
  // Rows of positive weights have zero points of 0.
  const positive = smallCheckpoint(t, {}, "BF16", weights => {
    for (const [name, { values }] of Object.entries(weights))
      if (name.includes("_proj"))
        values.forEach((x, i) => {
          values[i] = Math.abs(x)
        })
  })
  const zero = await quantized(t, { ...asymmetric, format: "awq" }, positive)
  await unsupported(zero, "gptq", /zero point is 0.*v2/)
  await convertModel(zero, `${zero}-v2`, { format: "gptq", gptqVersion: "v2" })

  const source = smallCheckpoint(t)
  await refused(source, { format: "gptq" }, "ERR_FORMAT", /is not quantized.*quantizeModel/)
  await refused(eight, {} as never, "ERR_OPTION", /format/)
  await refused(eight, { format: "gguf" as never }, "ERR_OPTION", /GGUF files are called \.gguf/)
  await refused(eight, { format: "gtpq" as never }, "ERR_OPTION", /format is "gtpq"/)
  await refused(eight, { format: "gptq", gptqversion: "v2" } as never, "ERR_OPTION", /did you mean "gptqVersion"/)
  await refused(join(eight, "absent"), { format: "gptq" }, "ERR_IO", /no such folder/)
  await t.rejects(convertModel(eight, eight, { format: "compressed-tensors", force: true }), {
    code: "ERR_OPTION",
    message: /same folder/,
  })
  await refused(eight, { format: "compressed-tensors", signal: AbortSignal.abort(1) }, "ERR_ABORTED", /aborted/)
  const controller = new AbortController()
  const onProgress = ({ stage, done }: { stage: string; done: number }) => {
    if (stage === "write" && done === 9) controller.abort()
  }
  await refused(
    eight,
    { format: "compressed-tensors", signal: controller.signal, onProgress },
    "ERR_ABORTED",
    /aborted/,
  )
})
