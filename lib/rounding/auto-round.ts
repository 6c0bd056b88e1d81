// AutoRound's SignRound (arXiv 2309.05516) on the layer's output error: offsets of the rounding and factors of the range follow the
// sign of their gradients, from the better of GPTQ's and of nearest codes in every row; exact descent ends it. The loops are
// native/rounding/learned.cc.
import { abortable, type RoundedArrays } from "../native.ts"
import { gridOf, quantizedTensor, roundedArrays } from "./arrays.ts"
import { corrected, noted } from "./correction.ts"
import { gptqCodes, requireStatistics } from "./gptq.ts"
import { learn } from "./learned.ts"
import { loopsOn } from "./loops.ts"
import { scaleSearch } from "./mse.ts"
import { refineSweeps } from "./qronos.ts"
import type { Rounding, RoundingInput } from "./rounding.ts"

/** AutoRound's default. */
export const signSteps = 200

export const autoRound: Rounding = {
  name: "auto-round",
  calibration: "required",
  async round(original) {
    requireStatistics(original, "auto-round")
    const { input, note } = await corrected(original)
    const { arrays, groupIndex, report: own } = await gptqCodes(input, "auto-round")
    const report = noted(own, note)
    const tensor = quantizedTensor(input, arrays, groupIndex)
    if (!Number.isFinite(report.error)) return { tensor, report }
    // Rows choose among starts, which one scale for all of them does not allow; nor do groups of other columns.
    const alone = groupIndex || input.scheme.granularity === "tensor"
    const starts = alone ? [arrays] : [arrays, await weightedNearest(input), await plainNearest(input)]
    const { steps = signSteps, refine = refineSweeps } = input.options
    const learned = await learn(
      input,
      starts,
      groupIndex,
      { steps, offsets: true, sweeps: refine, codes: true },
      arrays,
    )
    return { tensor, report: { ...report, error: learned.error, startError: learned.startErrors[0]! } }
  },
}

/** Nearest codes on scales of least error weighted by E[x²]. */
export const weightedNearest = (input: RoundingInput): Promise<RoundedArrays> =>
  nearestCodes(input, scaleSearch(input.statistics!.meanSquare))

const plainNearest = (input: RoundingInput): Promise<RoundedArrays> => nearestCodes(input, null)

async function nearestCodes(
  { name, weight, n, k, scheme, clip, minZero, signal, device }: RoundingInput,
  search: ReturnType<typeof scaleSearch> | null,
): Promise<RoundedArrays> {
  const arrays = roundedArrays(n, k, scheme)
  const loops = loopsOn(device, name)
  const grid = gridOf(scheme, minZero)
  await abortable(signal, flag => loops.roundNearest(weight, n, k, grid, search, clip ?? null, arrays, flag))
  return arrays
}
