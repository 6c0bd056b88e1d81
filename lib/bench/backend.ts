// What the kernel benchmark asks of whoever multiplies: weights laid out in several copies, and products of m rows with them.
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { IntegerScheme } from "../core/scheme.ts"
import type { Unit } from "./roofs.ts"
import type { Contender } from "./rounds.ts"
import type { Activations, FloatDtype, WeightRow } from "./samples.ts"

/** The matrix of a cell. */
export interface BenchMatrix {
  n: number
  k: number
  bits: IntegerScheme["bits"]
  groupSize: number
  /** The weight as the library's own backends take it. */
  quantized: QuantizedTensor
}

/** The instruction set of a library that chooses for itself. */
export const ownChoice = "own choice"

/** What identifies a row of results, beside shape, m and threads. */
export interface Label {
  /** Name on the command line. */
  backend: string
  /** What computes, for people: "w4a16", "MatMulNBits b32 acc 4". */
  kernel: string
  /** Kernel table of this library; `ownChoice` for others. */
  isa: string
  /** "int8": activations are rounded to 8 bits, which exact figures must not be compared with. */
  activations: "exact" | "int8"
  /** Of the activations, and of the result. */
  dtype: FloatDtype
  bits: number
  groupSize: number
}

/** Weights laid out for one shape and number of threads. */
export interface Prepared {
  label: Label
  /** Bytes of one copy that a product reads. */
  weightBytes: number
  copies: number
  /** Instructions that it may be made of: the fastest of them bounds it. */
  units: readonly Unit[]
  /** What a product costs beside its arithmetic, where the way of calling leaves it out. */
  note?: string
  row: WeightRow
  bind(x: Activations): Bound
  dispose(): void | Promise<void>
}

/** A prepared weight with memory for the results of m rows. */
export interface Bound extends Contender {
  /** Result of the latest product with copy 0. */
  result(): Float32Array
}

export interface PrepareOptions {
  threads: number
  /** Bytes of weights that all copies together come to, at least. */
  copiesBytes: number
}

/** A backend that cannot take part: reported, not fatal. */
export interface Unavailable {
  backend: string
  reason: string
}

/** Copies of `bytes` each that come to at least the bytes asked for. */
export const copiesOf = (bytes: number, { copiesBytes }: PrepareOptions): number =>
  Math.max(1, Math.ceil(copiesBytes / bytes))
