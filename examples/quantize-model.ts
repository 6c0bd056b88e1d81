// Quantizes the embedded model with GPTQ, loads the result and continues a text.
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { evaluateModel, loadModel, quantizeModel } from "tsq-native"

const models = fileURLToPath(new URL("../models/", import.meta.url))
const work = mkdtempSync(join(tmpdir(), "tsq-example-"))

async function main() {
  const report = await quantizeModel(join(models, "fable-5m"), join(work, "fable-w4"), {
    preset: "gptq",
    scheme: "w4a16",
    calibration: readFileSync(join(models, "text/fable-calib.txt"), "utf8"),
    samples: 16,
    sequenceLength: 256,
    onProgress: ({ stage, done, total, tensor }) => tensor && console.error(`${stage} ${done}/${total} ${tensor}`),
  })
  console.log(`${report.tensors.length} linears at ${report.bitsPerWeight.toFixed(3)} bits per weight`)

  using model = await loadModel(join(work, "fable-w4"))
  for await (const { text } of model.generate("Once upon a time", { maxTokens: 40, temperature: 0 }))
    process.stdout.write(text)
  console.log()

  const text = readFileSync(join(models, "text/fable-eval.txt"), "utf8").slice(0, 20_000)
  const { perplexity, against } = await evaluateModel(model, { text, window: 256, against: join(models, "fable-5m") })
  console.log(
    `perplexity ${perplexity.toFixed(4)}, unquantized ${against?.perplexity.toFixed(4)}, KL ${against?.klMean.toFixed(5)}`,
  )
}

main().finally(() => rmSync(work, { recursive: true, force: true }))
