// The last norm's weight, refitted once every block is quantized (after Norm Tweaking, arXiv 2309.02784, in closed form): for each
// channel the factor of least squared distance from the unquantized model's head input y to the present one z, Σ y z / Σ z². What
// quantization has added to the stream is noise to the head, and shrinking what is noisy makes its predictions as unsure as they are.
import type { Checkpoint } from "../containers/checkpoint.ts"
import { sharedFloats } from "../core/shared-array.ts"
import type { ModelProgram } from "../models/program.ts"
import type { CalibrationRun } from "./calibration-run.ts"

/** A channel that has all but vanished is not brought back by what little is left of it. */
const mostGain = 2

/** Tensor and offset of an RMS norm right before the head; null where there is none. */
export function finalNorm(program: ModelProgram): { tensor: string; size: number; offset: number } | null {
  const { ops, weights } = program.sections.at(-1)!
  const logits = ops.at(-1)!
  const norm = ops.at(-2)
  const weight = norm?.kind === "rmsNorm" ? weights[norm.weights[0] ?? -1] : undefined
  if (!norm || norm.out !== logits.in[0] || weight?.kind !== "vector") return null
  return { tensor: weight.tensor, size: weight.size, offset: norm.p[2] ?? 0 }
}

/** The refitted weight by its tensor's name. `run` is behind the last block and carries the unquantized model along. */
export async function refitFinalNorm(
  program: ModelProgram,
  checkpoint: Checkpoint,
  run: CalibrationRun,
  signal: AbortSignal | undefined,
): Promise<Map<string, Float32Array>> {
  const norm = finalNorm(program)
  if (!norm) return new Map()
  const gains = await run.headGains(signal)
  const weight = await checkpoint.floats(norm.tensor)
  const fitted = sharedFloats(norm.size)
  for (let i = 0; i < fitted.length; i++) {
    const gain = Number.isFinite(gains[i]) ? Math.min(Math.max(gains[i]!, 0), mostGain) : 1
    fitted[i] = gain * (norm.offset + weight[i]!) - norm.offset
  }
  return new Map([[norm.tensor, fitted]])
}
