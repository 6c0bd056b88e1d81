// Embedding and head, where the recipe asks for them. They are kept by default: they hurt most and save least.
import type { LongWork } from "../core/progress.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { WeightSource } from "../models/runner.ts"
import type { Handle } from "../native.ts"
import { roundingByName } from "../rounding/registry.ts"
import type { InputStatistics, RoundingReport } from "../rounding/rounding.ts"
import type { CalibrationRun } from "./calibration-run.ts"
import type { QuantizationJob } from "./job.ts"

export interface EndsInput extends LongWork {
  job: QuantizationJob
  minZero: number
  run: CalibrationRun | null
  /** Where the head's input gets its final norm from. */
  source: WeightSource
  /** null: the CPU. */
  device: Handle | null
  onTensor(module: string, report: RoundingReport): void
}

/**
 * An untied head is rounded like any linear, with statistics of the final norm's output. An embedding (tied or not) is a table of rows
 * without a common input: it is rounded without statistics, by scale search where the recipe's rounding needs them.
 */
export async function quantizeEnds(
  input: EndsInput,
): Promise<{ tensors: Map<string, QuantizedTensor>; reports: Map<string, RoundingReport> }> {
  const { job, run } = input
  const { recipe, program, checkpoint } = job
  const tensors = new Map<string, QuantizedTensor>()
  const reports = new Map<string, RoundingReport>()
  for (const { module, shape, scheme } of job.plan.modules.filter(
    entry => entry.layer === null && entry.scheme !== null,
  )) {
    const hasInput = module === program.head && module !== program.embedding
    const hessian = hasInput && run ? new Accumulator("hessian", shape[1]) : null
    try {
      if (hessian) await run!.observeHead(hessian, input.signal, input.source)
      const statistics: InputStatistics | undefined = hessian
        ? { hessian: hessian.handle, meanSquare: hessian.meanSquare(), rows: hessian.rows }
        : undefined
      const { tensor, report } = await roundingByName(
        !statistics && roundingByName(recipe.rounding).calibration === "required" ? "mse" : recipe.rounding,
      ).round({
        name: module,
        weight: await checkpoint.floats(`${module}.weight`),
        n: shape[0],
        k: shape[1],
        scheme: scheme!,
        statistics,
        minZero: input.minZero,
        options: recipe.roundingOptions,
        device: input.device,
        signal: input.signal,
      })
      tensors.set(module, tensor)
      reports.set(module, report)
      input.onTensor(module, report)
    } finally {
      hessian?.dispose()
    }
  }
  return { tensors, reports }
}
