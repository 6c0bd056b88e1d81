// Learned rounding (native/rounding/learned.cc): descent on the output error from codes that other roundings chose.
import { abortable, type LearnReport, native, type RoundedArrays } from "../native.ts"
import { gridOf } from "./arrays.ts"
import type { RoundingInput } from "./rounding.ts"

export interface Descent {
  /** Steps of signed gradients; 0: none. */
  steps: number
  /** Whether they move codes by offsets, or step sizes alone. */
  offsets: boolean
  /** Sweeps of exact descent, at most. */
  sweeps: number
  /** Whether it moves codes, or scales and zero points alone. */
  codes: boolean
}

/** Descends from every start and leaves in `out`, which may be one of them, the best of each row. Needs statistics. */
export function learn(
  input: RoundingInput,
  starts: RoundedArrays[],
  groupIndex: Int32Array | null,
  descent: Descent,
  out: RoundedArrays,
): Promise<LearnReport> {
  const { weight, n, k, scheme, minZero, statistics, signal } = input
  const options = { grid: gridOf(scheme, minZero), ...descent }
  const hessian = statistics!.hessian.value
  return abortable(signal, flag => native.learnRounding(weight, n, k, hessian, options, starts, groupIndex, out, flag))
}
