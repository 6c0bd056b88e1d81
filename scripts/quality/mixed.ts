// Mixtures chosen by measured damage beside one scheme at the same bits per weight.
import { readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { evaluateModel, inspectModel, loadModel, type QuantizeModelOptions, quantizeModel } from "../../lib/index.ts"
import type { Context } from "./context.ts"

/** Markdown: one table a model. */
export async function mixedQuality({ subjects, work, progress }: Context): Promise<string[]> {
  const lines = [
    "## Mixed precision",
    "",
    "GPTQ with one scheme, and with schemes chosen by measured damage for the same bits per weight (mixed-precision.md); *predicted* is the sum of the",
    "damages, *held out* the KL measured on tokens of the calibration text that calibration did not take. Symmetric, compressed-tensors.",
    "",
  ]
  for (const subject of subjects) {
    lines.push(
      `### ${subject.name}, group ${subject.groupSize}`,
      "",
      "| recipe | bits/weight | perplexity | KL | top token | predicted | held out |",
      "|---|---|---|---|---|---|---|",
    )
    const base = await loadModel(subject.path)
    const text = readFileSync(subject.evaluation, "utf8")
    const calibration = readFileSync(subject.calibration, "utf8")
    const row = async (name: string, options: QuantizeModelOptions): Promise<number> => {
      const out = join(work, "mixed")
      const { mix } = await quantizeModel(subject.path, out, {
        ...{ groupSize: subject.groupSize, symmetric: true, format: "compressed-tensors", force: true },
        ...{ calibration, samples: 128, sequenceLength: 256 },
        ...options,
        onProgress: step => progress.onProgress({ ...step, stage: `${subject.name} ${name}` }),
      })
      const { perplexity, against } = await evaluateModel(out, { text, protocol: "whole", window: 512, against: base })
      const { bitsPerWeight } = await inspectModel(out)
      rmSync(out, { recursive: true })
      const kl = `${against!.klMean.toPrecision(3)} ± ${against!.klStdError.toPrecision(1)}`
      const measured = mix ? `${mix.predictedKl.toPrecision(3)} | ${mix.measuredKl.toPrecision(3)}` : "– | –"
      lines.push(
        `| ${name} | ${bitsPerWeight.toFixed(3)} | ${perplexity.toFixed(4)} | ${kl} | ${(against!.topAgreement * 100).toFixed(1)} % | ${measured} |`,
      )
      return bitsPerWeight
    }
    for (const scheme of ["w4a16", "w3a16"] as const) {
      const targetBits = await row(`${scheme}, GPTQ`, { rounding: "gptq", scheme })
      await row(`mixed, GPTQ, ${targetBits.toFixed(3)} bits`, { rounding: "gptq", targetBits })
    }
    lines.push("")
    base.dispose()
  }
  return lines
}
