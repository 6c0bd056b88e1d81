// Qronos (arXiv 2505.11695): rounding that also makes up for what quantization has done to the inputs of a layer. Here it is GPTQ on
// the weights that give the original outputs (correction.ts). By the normal equations, as worked out in docs/rounding.md, that equals
// Qronos but for the first column's code, whose place the exact descent behind it takes.
import { roundByGptq } from "./gptq.ts"
import type { Rounding } from "./rounding.ts"

/** Sweeps of exact descent where none were asked for. It ends earlier where a sweep is not worthwhile. */
export const refineSweeps = 30

export const qronos: Rounding = {
  name: "qronos",
  calibration: "required",
  round: input => roundByGptq(input, "qronos", refineSweeps),
}
