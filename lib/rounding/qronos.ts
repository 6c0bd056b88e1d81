// Qronos (arXiv 2505.11695): rounding that also makes up for what quantization has done to the inputs of a layer. Its first step
// moves the weights to where they give the original outputs (correction.ts), and from the second column on its steps are those of
// GPTQ on these weights (the paper's theorem on the equivalent form); the exact descent behind it takes the place of its first column.
import { roundByGptq } from "./gptq.ts"
import type { Rounding } from "./rounding.ts"

/** Sweeps of exact descent where none were asked for. It ends earlier where a sweep is not worthwhile. */
export const refineSweeps = 30

export const qronos: Rounding = {
  name: "qronos",
  calibration: "required",
  round: input => roundByGptq(input, "qronos", refineSweeps),
}
