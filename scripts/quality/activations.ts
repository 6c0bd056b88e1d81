// What rounding activations costs: schemes of 8 bits as checkpoints and as models are loaded, and LLM.int8() where there are outliers.
import { readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { evaluateModel, type LoadOptions, type QuantizeModelOptions, quantizeModel } from "../../lib/index.ts"
import { plantOutliers } from "../../test/lib/models/support/planted.ts"
import type { Context } from "./context.ts"

const window = 256
const stored: { name: string; options: QuantizeModelOptions; calibrated?: boolean }[] = [
  { name: "W8A8, dynamic by token", options: { scheme: "w8a8" } },
  { name: "W8A8, with zero points", options: { scheme: "w8a8", activations: "asymmetric" } },
  { name: "W8A8, static", options: { scheme: "w8a8", activations: "static" }, calibrated: true },
  { name: "FP8, dynamic by token", options: { scheme: "fp8" } },
  { name: "FP8, static", options: { scheme: "fp8", activations: "static" }, calibrated: true },
  { name: "LLM.int8()", options: { preset: "llm.int8" } },
]

const percent = (ratio: number) => `${ratio >= 1 ? "+" : "−"}${Math.abs(100 * (ratio - 1)).toFixed(2)} %`

/** Markdown of the section. */
export async function activationLines({ subjects, work, progress }: Context): Promise<string[]> {
  const lines = ["## Activations of 8 bits", ""]
  lines.push(
    'Perplexity with `activations: "scheme"`, which rounds activations as the scheme says, and with `"exact"`, which leaves them; changes against the',
    "unquantized model. *On load*: `loadModel(path, { quantize })` of the unquantized checkpoint.",
    "",
    "| model | scheme | as it says | exact activations |",
    "|---|---|---|---|",
  )
  const perplexity = async (path: string, text: string, load: LoadOptions = {}) =>
    (await evaluateModel(path, { text, window, load })).perplexity
  for (const { name, path, calibration, evaluation } of subjects) {
    const text = readFileSync(evaluation, "utf8")
    const plain = await perplexity(path, text)
    const row = async (scheme: string, from: string, load: LoadOptions = {}) => {
      progress.note(`${name}: ${scheme}`)
      const [own, exact] = [
        await perplexity(from, text, load),
        await perplexity(from, text, { ...load, activations: "exact" }),
      ]
      lines.push(`| ${name} | ${scheme} | ${own.toFixed(4)} (${percent(own / plain)}) | ${percent(exact / plain)} |`)
    }
    lines.push(`| ${name} | unquantized | ${plain.toFixed(4)} | |`)
    for (const { name: scheme, options, calibrated } of stored) {
      const out = join(work, "activations")
      const calibrate = { calibration: readFileSync(calibration, "utf8"), samples: 128, sequenceLength: 256 }
      await quantizeModel(path, out, { ...options, ...(calibrated && calibrate), force: true })
      await row(scheme, out)
      rmSync(out, { recursive: true })
    }
    for (const quantize of ["w8a8", "fp8", "llm.int8"] as const) await row(`${quantize}, on load`, path, { quantize })
  }
  const [subject] = subjects
  if (!subject) return lines
  const text = readFileSync(subject.evaluation, "utf8")
  const planted = join(work, "planted")
  await plantOutliers(subject.path, planted, plantedOutliers)
  const plain = await perplexity(planted, text)
  lines.push(
    "",
    `Outliers planted into ${subject.name}: channels ${plantedOutliers.channels().join(" and ")} of every norm before linears times ${plantedOutliers.factor}, and the columns that read them divided by it.`,
    "",
    "| on load | perplexity |",
    "|---|---|",
    `| nothing | ${plain.toFixed(4)} |`,
  )
  for (const quantize of ["w8a8", "llm.int8", "fp8"] as const) {
    progress.note(`planted: ${quantize}`)
    const found = await perplexity(planted, text, { quantize })
    lines.push(`| ${quantize} | ${found.toFixed(4)} (${percent(found / plain)}) |`)
  }
  rmSync(planted, { recursive: true })
  return lines
}

const plantedOutliers = { factor: 128, channels: () => [11, 200] }
