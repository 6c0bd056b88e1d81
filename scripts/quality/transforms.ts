// What transforms do to a model, and to its twin with planted outliers: 8-bit products with activations rounded by token, and 4-bit weights in groups
// and in whole rows.
import { readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { evaluateModel, loadModel, type Model, type QuantizeModelOptions, quantizeModel } from "../../lib/index.ts"
import { type Outliers, plantOutliers } from "../../test/lib/models/support/planted.ts"
import type { Context, Subject } from "./context.ts"

interface Method {
  name: string
  options: QuantizeModelOptions
}

const plain = (transforms: QuantizeModelOptions["transforms"] = []): QuantizeModelOptions => ({
  rounding: "nearest",
  transforms,
})

const products: Method[] = [
  { name: "none", options: plain() },
  { name: "smooth, alpha 0.8", options: { ...plain(["smooth"]), alpha: 0.8 } },
  { name: "smooth", options: plain(["smooth"]) },
  { name: "hadamard", options: plain(["hadamard"]) },
  { name: "hadamard + smooth", options: plain(["hadamard", "smooth"]) },
]

const weights: Method[] = [
  { name: "none", options: plain() },
  { name: "hadamard", options: plain(["hadamard"]) },
  { name: "awq", options: plain(["awq"]) },
  { name: "hadamard + awq", options: plain(["hadamard", "awq"]) },
  { name: "none, GPTQ", options: { rounding: "gptq" } },
  { name: "hadamard, GPTQ", options: { rounding: "gptq", transforms: ["hadamard"] } },
]

/** One channel of 64, at least two, elsewhere in every block. */
const outliers: Outliers = {
  factor: 64,
  channels: (layer, hiddenSize) =>
    Array.from({ length: Math.ceil(Math.max(2, hiddenSize / 64)) }, (_, i) => (layer * 17 + i * 29 + 3) % hiddenSize),
}

/** Markdown of the section on transforms. */
export async function transforms({ subjects, work, progress }: Context): Promise<string[]> {
  const lines = [
    "## Transforms",
    "",
    "Perplexity and KL as above. *Outliers*: the same model with some channels of every norm 64 times as large and their readers' columns by as much smaller,",
    "which changes no output. W8A8 rounds activations to 8 bits as it runs; 4-bit weights meet exact activations.",
    "",
  ]
  for (const subject of subjects) {
    const twin = join(work, "outliers")
    await plantOutliers(subject.path, twin, outliers)
    const base = await loadModel(subject.path)
    try {
      const text = readFileSync(subject.evaluation, "utf8")
      const { perplexity } = await evaluateModel(base, { text, protocol: "whole", window: 512 })
      lines.push(`### ${subject.name}: unquantized perplexity ${perplexity.toFixed(4)}`, "")
      lines.push(
        "| scheme | transform | perplexity | KL | outliers: perplexity | outliers: KL |",
        "|---|---|---|---|---|---|",
      )
      for (const [scheme, options, methods] of [
        ["W8A8", { scheme: "w8a8" }, products],
        [`W4, group ${subject.groupSize}`, { scheme: "w4a16", groupSize: subject.groupSize }, weights],
        ["W4, channel", { scheme: "w4a16", groupSize: "channel" }, weights],
      ] as const satisfies [string, QuantizeModelOptions, Method[]][])
        for (const method of methods) {
          progress.onProgress({ stage: `${subject.name} ${scheme} ${method.name}`, done: 0, total: 1, elapsedMs: 0 })
          const cells: string[] = []
          for (const path of [subject.path, twin]) {
            const out = join(work, "transformed")
            await quantizeModel(path, out, given(subject, { ...options, ...method.options }))
            cells.push(await judged(out, base, text))
            rmSync(out, { recursive: true })
          }
          lines.push(`| ${scheme} | ${method.name} | ${cells.join(" | ")} |`)
        }
      lines.push("")
    } finally {
      base.dispose()
      rmSync(twin, { recursive: true })
    }
  }
  return lines
}

function given({ calibration }: Subject, options: QuantizeModelOptions): QuantizeModelOptions {
  const needed = options.rounding === "gptq" || options.transforms?.some(name => name !== "hadamard")
  const text = needed && { calibration: readFileSync(calibration, "utf8"), samples: 128, sequenceLength: 256 }
  return { ...options, format: "compressed-tensors", ...text }
}

async function judged(path: string, base: Model, text: string): Promise<string> {
  const result = await evaluateModel(path, {
    ...{ text, protocol: "whole", window: 512, against: base },
    load: { activations: "scheme" },
  })
  const { klMean, klStdError } = result.against!
  return `${result.perplexity.toFixed(4)} | ${klMean.toPrecision(3)} ± ${klStdError.toPrecision(1)}`
}
