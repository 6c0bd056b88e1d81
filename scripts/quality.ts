// Measures quality on real models and writes docs/quality.md: every method at every bit width, beside the float64 reference
// figures recorded with the models (reference.json). fable-5m is in the repository; other models are read from a folder
// given as argument (`npm run quality -- <folder of models> <folder of texts>`), and left out, saying so, where it is not given.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { showProgress } from "../lib/cli/progress.ts"
import { evaluateModel, inspectModel, loadModel, type QuantizeModelOptions, quantizeModel } from "../lib/index.ts"

const root = fileURLToPath(new URL("..", import.meta.url))
const [modelFolder, textFolder] = process.argv.slice(2)

interface Subject {
  name: string
  path: string
  calibration: string
  evaluation: string
  groupSize: number
}

interface Reference {
  quantization: { method: string; bits: number; ppl: number; kl: number; top1: number }[]
  perplexity: { protocol: string; window: number; ppl: number }[]
}

const text = (path: string) => readFileSync(path, "utf8")
const subjects: Subject[] = [
  {
    name: "fable-5m",
    path: join(root, "models/fable-5m"),
    calibration: join(root, "models/text/fable-calib.txt"),
    evaluation: join(root, "models/text/fable-eval.txt"),
    groupSize: 128,
  },
]
if (modelFolder && textFolder && existsSync(join(modelFolder, "stories260K")))
  subjects.push({
    name: "stories260K",
    path: join(modelFolder, "stories260K"),
    calibration: join(textFolder, "tinystories-calib.txt"),
    evaluation: join(textFolder, "tinystories-eval.txt"),
    groupSize: 32,
  })
else console.error("stories260K is left out: give the folders of models and texts as arguments")

const methods: { name: string; reference: string | null; options: QuantizeModelOptions }[] = [
  { name: "nearest", reference: "rtn", options: { rounding: "nearest", transforms: [] } },
  { name: "mse, weighted by E[x²]", reference: null, options: { rounding: "mse", transforms: [] } },
  { name: "GPTQ", reference: "gptq", options: { rounding: "gptq", transforms: [] } },
  { name: "GPTQ, no scale search", reference: null, options: { rounding: "gptq", transforms: [], scaleSearch: false } },
  { name: "AWQ", reference: null, options: { rounding: "nearest", transforms: ["awq"] } },
  { name: "AWQ + GPTQ", reference: null, options: { rounding: "gptq", transforms: ["awq"] } },
]

const lines = [
  "# Quality",
  "",
  "Made by `npm run quality`; not edited by hand. Linears of the blocks are quantized symmetrically, embedding and head are kept.",
  "Calibration: 128 windows of 256 tokens (BOS + 255). Perplexity, KL (of the unquantized model's distribution to the quantized one's, mean in",
  "nats per token, with its standard error) and top-token agreement over the whole evaluation text, windows of 512 each begun with BOS.",
  "*Reference* columns are float64 figures of plain nearest and plain GPTQ (damp 1 %, no act order, float64 scales) recorded with the models.",
  "Scales here are stored as compressed-tensors stores them, in the model's own type.",
  "",
]
const work = mkdtempSync(join(tmpdir(), "tsq-quality-"))
const progress = showProgress()
try {
  for (const subject of subjects) {
    const reference = JSON.parse(text(join(subject.path, "reference.json"))) as Reference
    const base = await loadModel(subject.path)
    const evaluation = text(subject.evaluation)
    const unquantized = await evaluateModel(base, { text: evaluation, protocol: "whole", window: 512 })
    const recorded = reference.perplexity.find(entry => entry.protocol === "whole" && entry.window === 512)!.ppl
    lines.push(
      `## ${subject.name}, group ${subject.groupSize}`,
      "",
      `Unquantized: perplexity ${unquantized.perplexity.toFixed(6)} (reference ${recorded}).`,
      "",
      "| bits | method | bits/weight | perplexity | KL | top token | reference perplexity | reference KL | reference top token |",
      "|---|---|---|---|---|---|---|---|---|",
    )
    for (const bits of [8, 4, 3, 2])
      for (const { name, reference: method, options } of methods) {
        if (bits === 8 && name !== "nearest") continue
        const out = join(work, "out")
        const needsText = options.rounding !== "nearest" || (options.transforms?.length ?? 0) > 0
        await quantizeModel(subject.path, out, {
          ...options,
          scheme: `w${bits}a16` as NonNullable<QuantizeModelOptions["scheme"]>,
          groupSize: subject.groupSize,
          format: "compressed-tensors",
          ...(needsText && { calibration: text(subject.calibration), samples: 128, sequenceLength: 256 }),
          onProgress: step => progress.onProgress({ ...step, stage: `${bits} ${name}` }),
        })
        const result = await evaluateModel(out, { text: evaluation, protocol: "whole", window: 512, against: base })
        const { bitsPerWeight } = await inspectModel(out)
        const { klMean, klStdError, topAgreement } = result.against!
        const known = reference.quantization.find(entry => entry.method === method && entry.bits === bits)
        const percent = (share: number) => `${(share * 100).toFixed(1)} %`
        lines.push(
          `| ${bits} | ${name} | ${bitsPerWeight.toFixed(3)} | ${result.perplexity.toFixed(4)} | ${klMean.toPrecision(3)} ± ${klStdError.toPrecision(1)} | ${percent(topAgreement)} | ` +
            `${known ? `${known.ppl} | ${known.kl} | ${percent(known.top1)}` : "– | – | –"} |`,
        )
        rmSync(out, { recursive: true })
      }
    lines.push("")
    base.dispose()
  }
} finally {
  progress.stop()
  rmSync(work, { recursive: true, force: true })
}
writeFileSync(join(root, "docs/quality.md"), `${lines.join("\n")}\n`)
console.log(lines.join("\n"))
