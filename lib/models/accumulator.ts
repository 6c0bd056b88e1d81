// Accumulators: what observers write to and calibration reads.
import { sharedFloats } from "../core/tensor.ts"
import { NativeHandle, native, type ReductionCode } from "../native.ts"

export const reductions = {
  hessian: 0,
  sumSquares: 1,
  absMax: 2,
  copy: 3,
  squaredError: 4,
  mean: 5,
  reservoir: 6,
  nonZero: 7,
  cross: 8,
  products: 9,
} as const satisfies Record<string, ReductionCode>

export type Reduction = keyof typeof reductions

/** A native accumulator of one kind over rows of `width` values. capacity: see binding.d.ts, createAccumulator. */
export class Accumulator {
  readonly kind: Exclude<Reduction, "copy">
  readonly width: number
  readonly handle: NativeHandle

  constructor(kind: Exclude<Reduction, "copy">, width: number, options: { capacity?: number; seed?: number } = {}) {
    this.kind = kind
    this.width = width
    this.handle = new NativeHandle(
      native.createAccumulator(reductions[kind], width, options.capacity ?? 0, options.seed ?? 0),
      `${kind} accumulator`,
    )
  }

  /** Rows seen so far. */
  get rows(): number {
    return native.accumulatorRows(this.handle.value)
  }

  /** Feeds rows of x [rows, width], f32 on shared memory; squaredError and cross: beside those of the reference. */
  add(x: Float32Array, rows: number, reference: Float32Array | null = null): Promise<void> {
    return native.accumulate(this.handle.value, x, rows, reference)
  }

  /** `count` values: see binding.d.ts, readAccumulator. */
  read(count: number): Float64Array {
    const out = new Float64Array(count)
    native.readAccumulator(this.handle.value, out)
    return out
  }

  /** hessian: E[x²] by column. */
  meanSquare(): Float32Array {
    const rows = Math.max(this.rows, 1)
    const diagonal = this.read(this.width)
    const result = sharedFloats(this.width)
    for (let i = 0; i < result.length; i++) result[i] = diagonal[i]! / rows
    return result
  }

  dispose(): void {
    this.handle.dispose()
  }
}
