// Mixtures chosen by measured damage beside one scheme at the same bits per weight. By itself:
// npx tsx scripts/quality/mixed.ts <folder of models> <folder of texts>
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { evaluateModel, inspectModel, loadModel, type QuantizeModelOptions, quantizeModel } from "../../lib/index.ts"

interface Subject {
  name: string
  path: string
  calibration: string
  evaluation: string
  groupSize: number
}

interface Context {
  subjects: readonly Subject[]
  /** A folder for what is made on the way. */
  work: string
  progress: { onProgress(step: { stage: string; done: number; total: number; elapsedMs: number }): void }
}

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

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { showProgress } = await import("../../lib/cli/progress.ts")
  const root = fileURLToPath(new URL("../..", import.meta.url))
  const [models, texts] = process.argv.slice(2)
  const subject = (name: string, path: string, text: string, from: string, groupSize: number): Subject => ({
    ...{ name, path, groupSize },
    calibration: join(from, `${text}-calib.txt`),
    evaluation: join(from, `${text}-eval.txt`),
  })
  const subjects = [subject("fable-5m", join(root, "models/fable-5m"), "fable", join(root, "models/text"), 128)]
  if (models && texts) subjects.push(subject("stories260K", join(models, "stories260K"), "tinystories", texts, 32))
  const work = mkdtempSync(join(tmpdir(), "tsq-mixed-"))
  const progress = showProgress()
  try {
    console.log((await mixedQuality({ subjects, work, progress })).join("\n"))
  } finally {
    progress.stop()
    rmSync(work, { recursive: true, force: true })
  }
}
