// quantization-report.json: what was done to every tensor. Holds no times, so that the same run writes the same bytes.
import type { Scheme } from "../core/scheme.ts"
import { packageVersion } from "../core/version.ts"
import type { KvScales } from "../formats/kv-scales.ts"
import type { RoundingReport } from "../rounding/rounding.ts"
import type { RotationReport } from "../transforms/hadamard.ts"
import type { TransformReport } from "../transforms/transform.ts"
import type { ContestReport } from "./best/contest.ts"
import type { StoredBlock } from "./block-store.ts"
import { type ExpertCoverage, expertCoverage, listed } from "./expert-coverage.ts"
import type { QuantizationJob } from "./job.ts"
import type { MixReport } from "./mixed/search.ts"
import type { Recipe } from "./recipe.ts"

export interface TensorReport extends RoundingReport {
  name: string
  shape: readonly [number, number]
  scheme: Scheme
}

export interface QuantizationReport {
  /** Of tsq-native. */
  version: string
  architecture: string
  recipe: Recipe
  calibration: { windows: number; asked: number | null; sequenceLength: number; tokens: number } | null
  bitsPerWeight: number
  /** Of all tensors before and after. */
  sourceBytes: number
  outputBytes: number
  tensors: TensorReport[]
  /** Of every block with experts, where calibration was given. */
  experts?: ExpertCoverage[]
  unquantized: { name: string; reason: string }[]
  /** What "hadamard" turned; null without it. */
  rotation: RotationReport | null
  /** By block, in order. */
  transforms: TransformReport[][]
  /** By block: largest magnitude in the residual stream behind it, over the calibration. Empty without one. */
  residualPeaks: number[]
  warnings: string[]
  /** Preset "best": by block, in order, the strategy that was chosen and the errors of all. */
  contests?: ContestReport[]
  /** Option kvCache: the scale of keys and of values of every block, in order. */
  kvScales?: KvScales[]
  /** Where schemes were chosen by measured damage. */
  mix?: MixReport
}

export function makeReport(job: QuantizationJob, blocks: Iterable<StoredBlock>): QuantizationReport {
  const { plan, recipe, calibration, program } = job
  const reports = new Map<string, RoundingReport>()
  const transforms: TransformReport[][] = []
  const contests: ContestReport[] = []
  const kvScales: KvScales[] = []
  const residualPeaks: number[] = []
  for (const block of blocks) {
    for (const [name, report] of block.reports) reports.set(name, report)
    if (block.transforms.length > 0) transforms.push([...block.transforms])
    if (block.contest) contests.push(block.contest)
    if (block.kvScales) kvScales.push(block.kvScales)
    if (block.residualPeak !== null) residualPeaks.push(block.residualPeak)
  }
  const tensors = plan.modules
    .filter(entry => entry.scheme !== null)
    .map(({ module, shape, scheme }) => ({ name: module, shape, scheme: scheme!, ...reports.get(module)! }))
  const experts = expertCoverage(program, recipe, new Map(tensors.map(tensor => [tensor.name, tensor])))
  return {
    version: packageVersion,
    architecture: program.config.architecture,
    recipe,
    calibration: calibration && {
      windows: calibration.windows.length,
      asked: calibration.asked,
      sequenceLength: calibration.sequenceLength,
      tokens: calibration.tokens,
    },
    bitsPerWeight: plan.bitsPerWeight,
    sourceBytes: plan.sourceBytes,
    outputBytes: plan.outputBytes,
    tensors,
    ...(experts.length > 0 && { experts }),
    unquantized: plan.modules
      .filter(entry => entry.scheme === null)
      .map(({ module, reason }) => ({ name: module, reason: reason ?? "" })),
    rotation: job.rotation,
    transforms,
    ...(contests.length > 0 && { contests }),
    ...(kvScales.length > 0 && { kvScales }),
    residualPeaks,
    warnings: [
      ...plan.warnings,
      ...overflowWarning(residualPeaks),
      ...experts
        .filter(({ unseen }) => unseen.length > 0)
        .map(
          ({ block, count, unseen }) =>
            `${block}: ${unseen.length} of ${count} experts saw fewer tokens than expertFloor${recipe.expertFloor === null ? " (twice a linear's columns)" : ` ${recipe.expertFloor}`} and are rounded by their weights alone: ${listed(unseen)}; give more calibration`,
        ),
      ...tensors
        .filter(tensor => tensor.degraded)
        .map(tensor => `${tensor.name}: degraded: ${tensor.note ?? "see damp"}`),
    ],
  }
}

const largestHalf = 65504

/** Models trained in bfloat16 overflow in float16, which some engines choose for GPTQ and AWQ files: what comes out is "!!!!". */
function overflowWarning(peaks: readonly number[]): string[] {
  const peak = peaks.reduce((most, value) => Math.max(most, value), 0)
  if (peak < largestHalf / 2) return []
  return [
    `hidden states reach ${peak.toPrecision(3)} behind block ${peaks.indexOf(peak) + 1}; float16 ends at ${largestHalf}: run the result in bfloat16 or float32 (--dtype bfloat16)`,
  ]
}
