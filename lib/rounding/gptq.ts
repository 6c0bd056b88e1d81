// GPTQ (arXiv 2210.17323): columns are rounded one after another, and what a column loses is made up for by those that follow,
// by the inverse of H = 2 X^T X. The loops are native/rounding/gptq.cc; here its options are checked and its report is passed on.
import { TsqError } from "../core/errors.ts"
import { listChoices } from "../core/options.ts"
import { sharedInts } from "../core/shared-array.ts"
import { abortable, type GptqOptions, type RoundedArrays } from "../native.ts"
import { gridOf, quantizedTensor, roundedArrays } from "./arrays.ts"
import { corrected, noted } from "./correction.ts"
import { learn } from "./learned.ts"
import { loopsOn } from "./loops.ts"
import { scaleSearch } from "./mse.ts"
import type { Rounding, RoundingInput, RoundingOptions, RoundingReport } from "./rounding.ts"

const orders = { none: 0, static: 1, "group-aware": 2, dynamic: 3 } as const

export const gptq: Rounding = {
  name: "gptq",
  calibration: "required",
  round: input => roundByGptq(input, "gptq", 0),
}

/** GPTQ, then as many sweeps of exact descent as asked for; `refine`: where nothing was. */
export async function roundByGptq(original: RoundingInput, name: Rounding["name"], refine: number) {
  requireStatistics(original, name)
  const { input, note } = await corrected(original)
  const { arrays, groupIndex, report } = await gptqCodes(input, name)
  const sweeps = input.options.refine ?? refine
  if (sweeps > 0 && Number.isFinite(report.error))
    report.error = (
      await learn(input, [arrays], groupIndex, { steps: 0, offsets: false, sweeps, codes: true }, arrays)
    ).error
  return { tensor: quantizedTensor(input, arrays, groupIndex), report: noted(report, note) }
}

export function requireStatistics(input: RoundingInput, rounding: Rounding["name"]): void {
  if (!input.statistics)
    throw new TsqError(
      "ERR_OPTION",
      `${input.name}: rounding "${rounding}" needs calibration; give some, or use rounding "nearest", "mse" or "hqq"`,
    )
}

/** The codes of GPTQ as they are learned from; groupIndex: null where groups are consecutive columns. */
export async function gptqCodes(
  input: RoundingInput,
  rounding: Rounding["name"],
): Promise<{ arrays: RoundedArrays; groupIndex: Int32Array | null; report: RoundingReport }> {
  const { name, weight, n, k, scheme, clip, minZero, statistics, signal, device } = input
  const loops = loopsOn(device, name)
  const order = checkOptions(input.options, name)
  const options: GptqOptions = {
    grid: gridOf(scheme, minZero),
    // Without importance the search weighs by diag(H), which is E[x²] but for a factor.
    search: (input.options.scaleSearch ?? true) ? scaleSearch(null, true) : null,
    clip: clip ?? null,
    damp: input.options.damp ?? 0.01,
    dampStep: 0.01,
    block: input.options.block ?? 128,
    order: orders[order],
  }
  const arrays = roundedArrays(n, k, scheme)
  const groupIndex = order === "dynamic" ? sharedInts(k) : null
  const hessian = statistics!.hessian.value
  const result = await abortable(signal, flag => loops.gptq(weight, n, k, hessian, options, arrays, groupIndex, flag))
  // Where groups turn out to be consecutive columns (one group, or nearest codes kept) there is nothing to look up.
  const needed = groupIndex && !isConsecutive(groupIndex, scheme.groupSize) ? groupIndex : null
  const { damp, degraded, keptNearest, deadColumns, error, nearestError, note } = result
  const report: RoundingReport = { rounding, error, nearestError, damp, degraded, keptNearest, deadColumns }
  if (note !== "") report.note = note
  return { arrays, groupIndex: needed, report }
}

function checkOptions({ damp, order = "static", block }: RoundingOptions, name: string): keyof typeof orders {
  if (damp !== undefined && !(Number.isFinite(damp) && damp > 0 && damp <= 1))
    throw new TsqError("ERR_OPTION", `${name}: option "damp" is ${damp}, expected a number above 0 and at most 1`)
  if (block !== undefined && !(Number.isSafeInteger(block) && block >= 1))
    throw new TsqError("ERR_OPTION", `${name}: option "block" is ${block}, expected an integer of at least 1`)
  if (!Object.hasOwn(orders, order))
    throw new TsqError(
      "ERR_OPTION",
      `${name}: option "order" is ${JSON.stringify(order)}, expected ${listChoices(Object.keys(orders))}`,
    )
  return order
}

const isConsecutive = (groupIndex: Int32Array, groupSize: number): boolean =>
  groupIndex.every((group, column) => group === Math.floor(column / groupSize))
