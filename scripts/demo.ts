// The demo: the embedded model quantized by every method at 4, 3 and 2 bits, and what that costs and gains, in one table.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { showProgress } from "../lib/cli/progress.ts"
import { evaluateModel, inspectModel, loadModel, quantizeModel } from "../lib/index.ts"
import { htmlPage } from "../lib/report/html.ts"
import { scatterPlot } from "../lib/report/plot.ts"
import { table } from "../lib/report/tables.ts"

const root = fileURLToPath(new URL("..", import.meta.url))
const source = join(root, "models/fable-5m")
const calibration = readFileSync(join(root, "models/text/fable-calib.txt"), "utf8")
const evaluation = readFileSync(join(root, "models/text/fable-eval.txt"), "utf8").slice(0, 40_000)
const prompt = "Once upon a time there was a brave girl called Mila who lived near the lake."

const methods = [
  { name: "nearest", options: { rounding: "nearest", transforms: [] } },
  { name: "GPTQ", options: { rounding: "gptq", transforms: [] } },
  { name: "AWQ", options: { rounding: "nearest", transforms: ["awq"] } },
  { name: "AWQ+GPTQ", options: { rounding: "gptq", transforms: ["awq"] } },
] as const

interface Row {
  method: string
  bits: number
  bitsPerWeight: number
  megabytes: number
  perplexity: number
  kl: number | null
  agreement: number | null
  tokensPerSecond: number
  sample: string
}

const started = performance.now()
const work = mkdtempSync(join(tmpdir(), "tsq-demo-"))
const progress = showProgress()
const rows: Row[] = []
try {
  const reference = await loadModel(source)
  try {
    rows.push(await measure(source, "bf16", 16))
    for (const bits of [4, 3, 2] as const)
      for (const { name, options } of methods) {
        const out = join(work, `${name}-${bits}`)
        await quantizeModel(source, out, {
          ...options,
          scheme: `w${bits}a16`,
          groupSize: 128,
          format: "compressed-tensors",
          ...((options.rounding === "gptq" || options.transforms.length > 0) && {
            calibration,
            samples: 48,
            sequenceLength: 256,
          }),
          onProgress: step => progress.onProgress({ ...step, stage: `${name} ${bits} bit` }),
        })
        rows.push(await measure(out, name, bits))
        rmSync(out, { recursive: true })
      }
  } finally {
    reference.dispose()
  }

  async function measure(path: string, method: string, bits: number): Promise<Row> {
    const inspected = await inspectModel(path)
    const model = await loadModel(path)
    try {
      const isReference = path === source
      const result = await evaluateModel(model, {
        text: evaluation,
        window: 256,
        ...(!isReference && { against: reference }),
      })
      // The first run warms caches; the median of three after it is the figure.
      const rates: number[] = []
      let sample = ""
      for (let run = 0; run < 4; run++) {
        const stream = model.generate(prompt, { maxTokens: 64, temperature: 0, ignoreEos: run > 0 })
        for (;;) {
          const next = await stream.next()
          if (!next.done) continue
          if (run === 0) sample = next.value.text
          else rates.push(next.value.decodeTokensPerSecond)
          break
        }
      }
      return {
        method,
        bits,
        bitsPerWeight: inspected.bitsPerWeight,
        megabytes: inspected.weightBytes / 1e6,
        perplexity: result.perplexity,
        kl: result.against?.klMean ?? null,
        agreement: result.against?.topAgreement ?? null,
        tokensPerSecond: rates.sort((a, b) => a - b)[1]!,
        sample,
      }
    } finally {
      model.dispose()
    }
  }
} finally {
  progress.stop()
  rmSync(work, { recursive: true, force: true })
}

const head = ["", "bits", "bits/weight", "MB", "perplexity", "KL", "top token", "tokens/s"]
const cells = rows.map(row => [
  row.method,
  String(row.bits),
  row.bitsPerWeight.toFixed(3),
  row.megabytes.toFixed(2),
  row.perplexity.toFixed(4),
  row.kl === null ? "" : row.kl.toFixed(5),
  row.agreement === null ? "" : `${(row.agreement * 100).toFixed(1)} %`,
  row.tokensPerSecond.toFixed(0),
])
console.log(table(head, ["left", "right", "right", "right", "right", "right", "right", "right"], cells))
console.log(`\n${prompt}`)
for (const { method, bits, sample } of rows) console.log(`\n[${method} ${bits}]${sample}`)

const plot = scatterPlot(
  methods.map(({ name }) => ({
    name,
    points: rows
      .filter(row => row.method === name && row.kl !== null)
      .map(row => ({
        x: row.megabytes,
        y: Math.max(row.kl!, 1e-7),
        label: `${row.bits} bit: KL ${row.kl!.toPrecision(3)}`,
      })),
  })),
  {
    title: "Quality against size, fable-5m",
    xLabel: "size of all tensors, MB",
    yLabel: "KL to the unquantized model, nats per token",
    logY: true,
  },
)
const page = htmlPage("tsq-native demo: fable-5m", [
  {
    kind: "text",
    text: "The embedded 5-million-parameter model, its linears quantized symmetrically in groups of 128. KL divergence and top-token agreement are against the unquantized model; tokens per second are of batch-1 decoding on this machine.",
  },
  { kind: "table", head, rows: cells },
  { kind: "svg", svg: plot },
  { kind: "heading", text: "Samples (greedy)" },
  { kind: "text", text: prompt },
  ...rows.map(({ method, bits, sample }) => ({
    kind: "sample" as const,
    title: `${method}, ${bits} bits`,
    text: sample,
  })),
])
writeFileSync(join(root, "demo-report.html"), page)
console.log(`\ndemo-report.html written; ${((performance.now() - started) / 1000).toFixed(0)} s in all`)
