// What produces the input of a scale group, divided channel by channel.
import { sharedFloats } from "../core/shared-array.ts"
import type { ScaleGroup, SourceRows } from "./program.ts"

export type ScaleSource = ScaleGroup["source"]

/** (offset + value) / scale - offset: a norm multiplies by offset + value. */
export function dividedVector(values: Float32Array, scale: Float32Array, offset = 0): Float32Array {
  const divided = sharedFloats(values.length)
  for (let i = 0; i < values.length; i++) divided[i] = (offset + values[i]!) / scale[i]! - offset
  return divided
}

/** [n] by what each row of a linear is divided: 1 for rows of a fused projection that belong to something else. */
export function rowDivisors(n: number, scale: Float32Array, rows: SourceRows | undefined): Float32Array {
  if (!rows) return scale
  const divisors = sharedFloats(n).fill(1)
  for (let c = 0; c < scale.length; c++)
    divisors[rows.begin + Math.floor(c / rows.length) * rows.stride + (c % rows.length)] = scale[c]!
  return divisors
}
