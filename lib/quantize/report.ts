// quantization-report.json: what was done to every tensor. Holds no times, so that the same run writes the same bytes.
import type { Scheme } from "../core/scheme.ts"
import { packageVersion } from "../core/version.ts"
import type { RoundingReport } from "../rounding/rounding.ts"
import type { TransformReport } from "../transforms/transform.ts"
import type { StoredBlock } from "./block-store.ts"
import { type ExpertCoverage, expertCoverage, listed } from "./expert-coverage.ts"
import type { QuantizationJob } from "./job.ts"
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
  /** By block, in order. */
  transforms: TransformReport[][]
  warnings: string[]
}

export function makeReport(job: QuantizationJob, blocks: Iterable<StoredBlock>): QuantizationReport {
  const { plan, recipe, calibration, program } = job
  const reports = new Map<string, RoundingReport>()
  const transforms: TransformReport[][] = []
  for (const block of blocks) {
    for (const [name, report] of block.reports) reports.set(name, report)
    if (block.transforms.length > 0) transforms.push([...block.transforms])
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
    transforms,
    warnings: [
      ...plan.warnings,
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
