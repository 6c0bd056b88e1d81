// The interface of roundings: how codes are chosen for a weight on a given scheme.
import type { LongWork } from "../core/progress.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { Scheme } from "../core/scheme.ts"
import type { Handle, NativeHandle } from "../native.ts"

/** What calibration knows about the inputs of a linear. */
export interface InputStatistics {
  /** Accumulator handle of kind hessian: sum of x xᵀ. */
  hessian: NativeHandle
  /** [k] E[x²], the Hessian's diagonal over its rows. */
  meanSquare: Float32Array
  rows: number
  /** Accumulator handle of kind cross: sum of (x − x~) x~ᵀ, x~ the inputs of `hessian` and x those of the unquantized model. */
  cross?: NativeHandle | undefined
  /** Accumulator handle of kind cross that compares n columns: sum of D x~ᵀ, D the drift of the residual stream the outputs are added to. */
  residual?: NativeHandle | undefined
}

export interface RoundingInput extends LongWork {
  /** For messages. */
  name: string
  /** f32 [n, k] on shared memory. */
  weight: Float32Array
  n: number
  k: number
  /** Whole numbers; "nearest" takes the code books and LLM.int8() too that blockwise.ts knows. */
  scheme: Scheme
  /** Absent without calibration. */
  statistics?: InputStatistics | undefined
  /** [n, groups] largest |w| kept (AWQ's clip search), or absent. */
  clip?: Float32Array | undefined
  /** 1 when the target format cannot store a zero point of 0. */
  minZero: number
  options: RoundingOptions
  /** Device whose kernels do the heavy loops; the CPU where it is absent or null. */
  device?: Handle | null | undefined
}

export interface RoundingOptions {
  /** gptq, auto-round, qronos, and lsq with errorCorrection: share of the mean of diag(H) added to it. Default 0.01. */
  damp?: number
  /** gptq, auto-round, qronos: order of columns, "static" (default) | "group-aware" | "none" | "dynamic". */
  order?: "static" | "group-aware" | "none" | "dynamic"
  /** gptq, auto-round, qronos: search scales by E[x²]-weighted error before rounding. Default true. */
  scaleSearch?: boolean
  /** gptq, auto-round, qronos: columns of a lazy update. Default 128. */
  block?: number
  /** auto-round, lsq: steps of signed gradients. Default 200. */
  steps?: number
  /** gptq, auto-round, lsq, qronos: sweeps of exact descent over codes, scales and zero points at the end, at most. Default 30 of auto-round and qronos, otherwise 0. */
  refine?: number
}

export interface RoundingReport {
  rounding: string
  /** Mean squared output error summed over outputs, where calibration is given; otherwise mean squared weight error. */
  error: number
  /** The same of nearest codes on the same scales (gptq). */
  nearestError?: number
  /** The same of GPTQ's codes, where learning started (auto-round). */
  startError?: number
  damp?: number
  degraded?: boolean
  keptNearest?: boolean
  deadColumns?: number
  /** Of an expert's linear: how many tokens of calibration reached the expert. */
  tokens?: number
  note?: string
}

export interface Rounding {
  name: "nearest" | "mse" | "gptq" | "hqq" | "auto-round" | "lsq" | "qronos"
  /** Whether statistics are required / used when there. */
  calibration: "none" | "optional" | "required"
  round(input: RoundingInput): Promise<{ tensor: QuantizedTensor; report: RoundingReport }>
}
