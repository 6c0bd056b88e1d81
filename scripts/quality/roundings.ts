// The table of roundings at 4, 3 and 2 bits, with the share of nearest's KL that each recovers. By itself:
// `npx tsx scripts/quality/roundings.ts NAME MODEL CALIBRATION EVALUATION GROUP`.
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { evaluateModel, loadModel, type QuantizeModelOptions, quantizeModel } from "../../lib/index.ts"

export interface QualityContext {
  subjects: { name: string; path: string; calibration: string; evaluation: string; groupSize: number }[]
  /** Folder for checkpoints on the way. */
  work: string
  progress: (detail: string) => void
}

const recipes: { name: string; options: QuantizeModelOptions }[] = [
  { name: "nearest", options: { rounding: "nearest" } },
  { name: "hqq", options: { rounding: "hqq" } },
  { name: "mse", options: { rounding: "mse" } },
  { name: "lsq", options: { rounding: "lsq" } },
  { name: "gptq", options: { rounding: "gptq" } },
  { name: "gptq, refined", options: { rounding: "gptq", refine: 30 } },
  { name: "auto-round", options: { rounding: "auto-round" } },
  { name: "qronos", options: { rounding: "qronos" } },
  { name: "auto-round, error correction", options: { rounding: "auto-round", errorCorrection: true } },
]

export async function roundingLines({ subjects, work, progress }: QualityContext): Promise<string[]> {
  const lines = ["## Roundings", ""]
  for (const subject of subjects) {
    const base = await loadModel(subject.path)
    const calibration = readFileSync(subject.calibration, "utf8")
    const text = readFileSync(subject.evaluation, "utf8")
    lines.push(`### ${subject.name}, group ${subject.groupSize}, symmetric`, "")
    lines.push("| bits | rounding | KL | of nearest's recovered | top token |", "|---|---|---|---|---|")
    for (const bits of [4, 3, 2]) {
      let nearest = 0
      for (const { name, options } of recipes) {
        progress(`${subject.name} ${bits} ${name}`)
        const out = join(work, "roundings")
        const calibrated = !["nearest", "hqq"].includes(options.rounding!)
        await quantizeModel(subject.path, out, {
          ...options,
          transforms: [],
          scheme: `w${bits}a16` as NonNullable<QuantizeModelOptions["scheme"]>,
          groupSize: subject.groupSize,
          format: "compressed-tensors",
          force: true,
          ...(calibrated && { calibration, samples: 128, sequenceLength: 256 }),
        })
        const { against } = await evaluateModel(out, { text, protocol: "whole", window: 512, against: base })
        rmSync(out, { recursive: true })
        nearest ||= against!.klMean
        const recovered = (100 * (1 - against!.klMean / nearest)).toFixed(1)
        lines.push(
          `| ${bits} | ${name} | ${against!.klMean.toPrecision(3)} | ${recovered} % | ${(100 * against!.topAgreement).toFixed(1)} % |`,
        )
      }
    }
    lines.push("")
    base.dispose()
  }
  return lines
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [name, path, calibration, evaluation, group] = process.argv.slice(2)
  if (!name || !path || !calibration || !evaluation || !group)
    throw new Error("usage: roundings.ts NAME MODEL CALIBRATION EVALUATION GROUP")
  const work = mkdtempSync(join(tmpdir(), "tsq-roundings-"))
  try {
    const subjects = [{ name, path, calibration, evaluation, groupSize: Number(group) }]
    console.log((await roundingLines({ subjects, work, progress: detail => console.error(detail) })).join("\n"))
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
