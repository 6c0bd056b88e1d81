// Delay of the event loop while the library works, beside an idle control of the same length: the 99th percentile must stay at or
// below 20 ms. Options: --model DIR (default models/fable-5m), --samples N, --only NAME.
import { readFileSync } from "node:fs"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { loadModel } from "../lib/engine/load-model.ts"
import { evaluateModel } from "../lib/evaluate/evaluate-model.ts"
import { type QuantizeModelOptions, quantizeModel } from "../lib/quantize/quantize-model.ts"
import { table } from "../lib/report/tables.ts"

const limitMs = 20
const path = (name: string) => fileURLToPath(new URL(`../models/${name}`, import.meta.url))

interface Delay {
  seconds: number
  p50: number
  p99: number
  max: number
}

async function delayOf(work: () => Promise<unknown>): Promise<Delay> {
  // What was compiled and collected before is not this work's.
  await sleep(200)
  const histogram = monitorEventLoopDelay({ resolution: 1 })
  const begin = performance.now()
  histogram.enable()
  await work()
  histogram.disable()
  const ms = (nanoseconds: number) => nanoseconds / 1e6
  return {
    seconds: (performance.now() - begin) / 1000,
    p50: ms(histogram.percentile(50)),
    p99: ms(histogram.percentile(99)),
    max: ms(histogram.max),
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { model: { type: "string" }, samples: { type: "string", default: "16" }, only: { type: "string" } },
  })
  const source = values.model ?? path("fable-5m")
  const text = readFileSync(path("text/fable-calib.txt"), "utf8")
  const directory = await mkdtemp(join(tmpdir(), "tsq-loop-"))
  const calibrated = { calibration: text, samples: Number(values.samples), force: true }
  const quantize = (options: QuantizeModelOptions) => () =>
    quantizeModel(source, join(directory, "out"), { force: true, ...options })
  const works: Record<string, () => Promise<unknown>> = {
    "quantize, nearest": quantize({ preset: "rtn" }),
    "quantize, gptq": quantize({ preset: "gptq", ...calibrated }),
    "quantize, awq": quantize({ preset: "awq", ...calibrated }),
    generate: async () => {
      const model = await loadModel(source)
      for await (const _ of model.generate("Once upon a time", { maxTokens: 400 }));
      model.dispose()
    },
    evaluate: () => evaluateModel(source, { text: text.slice(0, 60_000), against: source }),
  }
  const rows: string[][] = []
  let failed = false
  try {
    for (const [name, work] of Object.entries(works)) {
      if (values.only !== undefined && !name.includes(values.only)) continue
      const busy = await delayOf(work)
      const idle = await delayOf(() => sleep(busy.seconds * 1000))
      failed ||= busy.p99 > limitMs
      const text = ({ p50, p99, max }: Delay) => [p50, p99, max].map(value => value.toFixed(2))
      rows.push([name, busy.seconds.toFixed(1), ...text(busy), ...text(idle)])
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
  const head = ["work", "s", "p50 ms", "p99 ms", "max ms", "idle p50", "idle p99", "idle max"]
  console.log(table(head, ["left", ...head.slice(1).map(() => "right" as const)], rows))
  if (failed) {
    console.log(`the 99th percentile is above ${limitMs} ms`)
    process.exitCode = 1
  }
}

await main()
