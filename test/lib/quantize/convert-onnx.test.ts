// The quantized layers of a checkpoint as ONNX operators.
import { existsSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { readOnnx } from "../../../lib/formats/onnx.ts"
import { dequantize } from "../../../lib/kernels/dequantize.ts"
import { openConversionSource } from "../../../lib/quantize/conversion-source.ts"
import { convertModel } from "../../../lib/quantize/convert-model.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { folder, smallCheckpoint } from "./support.ts"

t.test("every quantized layer, with the same values", async t => {
  for (const format of ["gptq", "awq", "compressed-tensors"] as const) {
    const first = join(folder(t), "first")
    await quantizeModel(smallCheckpoint(t), first, { groupSize: 32, symmetric: false, format })
    const out = `${first}.onnx`
    const warnings: string[] = []
    const report = await convertModel(first, out, { onWarning: text => warnings.push(text) })
    t.match(report, { from: format, to: "onnx", modules: 21, exact: true, requantized: 0 }, format)
    t.equal(report.tensors.length, 21)
    t.match(warnings, [/tensors that are no quantized layer/])
    const layers = await readOnnx(out)
    const source = await openConversionSource(first, "onnx", text => t.fail(text))
    try {
      for (const weight of source.weights)
        if (weight.kind === "quantized")
          t.strictSame(dequantize(layers[weight.name]!.weight).data, await weight.values(), weight.name)
    } finally {
      source.dispose()
    }
    await t.rejects(convertModel(first, out), { code: "ERR_OPTION", message: /exists/ })
    await convertModel(first, out, { format: "onnx", force: true })
  }
})

t.test("what the operator does not hold is refused, layer by layer", async t => {
  const first = join(folder(t), "first")
  await quantizeModel(smallCheckpoint(t), first, { scheme: "w3a16", groupSize: 32, format: "compressed-tensors" })
  const out = `${first}.onnx`
  await t.rejects(convertModel(first, out), {
    code: "ERR_UNSUPPORTED",
    message: /onnx cannot hold 21 of 21 modules: .*has codes of 2, 4 or 8 bits, not 3/,
  })
  t.notOk(existsSync(out))
  await t.rejects(convertModel(smallCheckpoint(t), out), { code: "ERR_FORMAT", message: /is not quantized/ })
  await t.rejects(convertModel(first, out, { allowRequantize: true }), { code: "ERR_OPTION" })
  await t.rejects(convertModel(first, out, { format: "gguf" }), { code: "ERR_OPTION", message: /do not agree/ })
  await t.rejects(convertModel(first, first, { format: "onnx" }), { code: "ERR_OPTION", message: /do not agree/ })
})
