// LSQ (arXiv 1902.08153) on the layer's output error: the step sizes are learned by their gradients while every code stays the
// nearest one, and end at their least squares given the codes. The loops are native/rounding/learned.cc.
import { quantizedTensor } from "./arrays.ts"
import { signSteps, weightedNearest } from "./auto-round.ts"
import { corrected } from "./correction.ts"
import { requireStatistics } from "./gptq.ts"
import { learn } from "./learned.ts"
import type { Rounding } from "./rounding.ts"

const scaleSweeps = 10

export const lsq: Rounding = {
  name: "lsq",
  calibration: "required",
  async round(original) {
    requireStatistics(original, "lsq")
    const input = await corrected(original)
    const arrays = await weightedNearest(input)
    const { steps = signSteps, refine = 0 } = input.options
    const scales = { steps, offsets: false, sweeps: scaleSweeps, codes: false }
    const { error, startErrors } = await learn(input, [arrays], null, scales, arrays)
    const tensor = quantizedTensor(input, arrays)
    const report = { rounding: "lsq", error, nearestError: startErrors[0]! }
    if (refine === 0) return { tensor, report }
    const codes = { steps: 0, offsets: false, sweeps: refine, codes: true }
    return { tensor, report: { ...report, error: (await learn(input, [arrays], null, codes, arrays)).error } }
  },
}
