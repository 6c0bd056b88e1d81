// What a quantized weight should give: the outputs of the unquantized model, though its inputs have been through quantized layers
// (after Qronos, arXiv 2505.11695; the loop is native/rounding/cross.cc). With X the original inputs, X~ the present ones and
// H = X~ᵀX~, |X W − X~ V|² is least for V = W + H⁻¹ X~ᵀ(X − X~) W, and any rounding that approximates V under H serves.
// A layer whose output is added to the residual stream takes on the stream's drift D (the unquantized stream less the
// present one) too: |X W + D − X~ V|² is least for V = W + H⁻¹ (X~ᵀ(X − X~) W + X~ᵀD).
import { sharedFloats } from "../core/shared-array.ts"
import { abortable, native } from "../native.ts"
import type { RoundingInput, RoundingReport } from "./rounding.ts"

/**
 * The input with the corrected target in the place of its weight, where statistics know the original inputs; itself otherwise. note: why the
 * weight stayed the target all the same, "" where it did not.
 */
export async function corrected(input: RoundingInput): Promise<{ input: RoundingInput; note: string }> {
  const { weight, n, k, statistics, signal } = input
  const cross = statistics?.cross
  if (!statistics || !cross) return { input, note: "" }
  const target = sharedFloats(n * k)
  const residual = statistics.residual?.value ?? null
  const damp = input.options.damp ?? 0.01
  const { note } = await abortable(signal, flag =>
    native.correctTarget(weight, n, k, statistics.hessian.value, cross.value, residual, damp, target, flag),
  )
  const { cross: _, residual: __, ...rest } = statistics
  return { input: { ...input, weight: target, statistics: rest }, note }
}

/** A report with another note behind its own. */
export const noted = (report: RoundingReport, note: string): RoundingReport =>
  note === "" ? report : { ...report, note: report.note === undefined ? note : `${report.note}; ${note}` }
