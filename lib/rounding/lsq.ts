// LSQ (arXiv 1902.08153) on the layer's output error: the step sizes are learned by their gradients while every code stays the
// nearest one, and end at their least squares given the codes. The loops are native/rounding/learned.cc.
import { quantizedTensor } from "./arrays.ts"
import { signSteps, weightedNearest } from "./auto-round.ts"
import { corrected, noted } from "./correction.ts"
import { requireStatistics } from "./gptq.ts"
import { learn } from "./learned.ts"
import { nearest } from "./nearest.ts"
import type { Rounding, RoundingInput } from "./rounding.ts"

const scaleSweeps = 10

export const lsq: Rounding = {
  name: "lsq",
  calibration: "required",
  async round(original) {
    requireStatistics(original, "lsq")
    // Activations that overflowed say nothing about the columns (gptq.ts leaves nearest codes then, too).
    if (!original.statistics!.meanSquare.every(Number.isFinite)) return roundBroken(original)
    const { input, note } = await corrected(original)
    const arrays = await weightedNearest(input)
    const { steps = signSteps, refine = 0 } = input.options
    const scales = { steps, offsets: false, sweeps: scaleSweeps, codes: false }
    const { error, startErrors } = await learn(input, [arrays], null, scales, arrays)
    const tensor = quantizedTensor(input, arrays)
    const report = noted({ rounding: "lsq", error, nearestError: startErrors[0]! }, note)
    if (refine === 0) return { tensor, report }
    const codes = { steps: 0, offsets: false, sweeps: refine, codes: true }
    return { tensor, report: { ...report, error: (await learn(input, [arrays], null, codes, arrays)).error } }
  },
}

/** Nearest codes without calibration. */
async function roundBroken(original: RoundingInput): ReturnType<Rounding["round"]> {
  const { statistics: _, ...input } = original
  const { tensor } = await nearest.round(input)
  const report = { rounding: "lsq", error: Number.NaN, nearestError: Number.NaN, degraded: true, keptNearest: true }
  const note = "the Hessian holds NaN or infinite values; rounded to nearest without calibration"
  return { tensor, report: { ...report, note } }
}
