// What the tests of the addon share.
import tap, { type Test } from "tap"
import { TsqError } from "../../../lib/core/errors.ts"
import { sharedBytes, sharedFloats, sharedInts } from "../../../lib/core/shared-array.ts"
import type { Grid, Handle, ReductionCode } from "../../../lib/native.ts"
import { native } from "../../../lib/native.ts"

export const floats = (values: ArrayLike<number>): Float32Array => {
  const array = sharedFloats(values.length)
  array.set(values)
  return array
}

export const bytes = (values: ArrayLike<number>): Uint8Array => {
  const array = sharedBytes(values.length)
  array.set(values)
  return array
}

export const ints = (values: ArrayLike<number>): Int32Array => {
  const array = sharedInts(values.length)
  array.set(values)
  return array
}

/** Numbers in [0, 1) that depend on the seed alone (mulberry32). */
export function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let x = Math.imul(state ^ (state >>> 15), state | 1)
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
}

export const randomFloats = (count: number, next: () => number): Float32Array =>
  floats(Array.from({ length: count }, () => 2 * next() - 1))

/** A call that must be refused with a TsqError of this code whose message matches. Takes synchronous and asynchronous calls. */
export async function refused(t: Test, call: () => unknown, code: string, message: RegExp): Promise<void> {
  try {
    await call()
  } catch (error) {
    t.ok(error instanceof TsqError, `expected a TsqError, got ${error}`)
    t.match(error, { code })
    t.match((error as Error).message, message)
    return
  }
  t.fail(`not refused, expected ${code} ${message}`)
}

/** A test that must release every handle it makes. */
export function test(name: string, body: (t: Test) => Promise<unknown>): void {
  tap.test(name, async t => {
    const before = native.handleCount()
    await body(t)
    t.equal(native.handleCount(), before, "every handle is released")
  })
}

export const grid = (options: Partial<Grid> & { groupSize: number }): Grid => ({
  bits: 4,
  symmetric: true,
  perTensor: false,
  scaleType: 0,
  minZero: 0,
  ...options,
})

/** An accumulator fed with rows [rows, width]. */
export async function accumulatorOf(kind: ReductionCode, x: Float32Array, width: number): Promise<Handle> {
  const handle = native.createAccumulator(kind, width, 4, 7)
  await native.accumulate(handle, x, x.length / width)
  return handle
}
