// Rounding to a code book: the limits between its values, and the codes of a weight whose scales are chosen.
import { abortable, type CodebookSteps, native } from "../native.ts"

/** A code book as roundCodebook takes it: `ties` go to the code that is even (IEEE 754's and OCP's rule) or to the lower value. */
export function codebookSteps(values: Float32Array, ties: "even" | "lower"): CodebookSteps {
  const codes = [...values.keys()]
    .filter(code => Number.isFinite(values[code]))
    .sort((a, b) => ascending(values[a] as number, values[b] as number))
    .filter((code, i, all) => i === 0 || !Object.is(values[code], values[all[i - 1] as number]))
  const limits = codes.slice(1).map((upper, i) => {
    const lower = codes[i] as number
    const goesUp = ties === "even" && lower % 2 === 1
    return limitBetween(values[lower] as number, values[upper] as number, goesUp)
  })
  return { codes: Uint8Array.from(codes), limits: Float32Array.from(limits), reciprocal: false }
}

/** -0 before 0. */
const ascending = (a: number, b: number): number => a - b || (Object.is(a, b) ? 0 : Object.is(a, -0) ? -1 : 1)

/** The largest f32 that becomes the lower value. */
function limitBetween(lower: number, upper: number, tieGoesUp: boolean): number {
  // Only -0 and 0 are equal here.
  if (lower === upper) return lower
  // Of f32 numbers, exact in f64.
  const middle = (lower + upper) / 2
  const rounded = Math.fround(middle)
  return rounded > middle || (rounded === middle && tieGoesUp) ? nextBelow(rounded) : rounded
}

/** The f32 before x, which is finite, in the order in which -0 comes before 0. */
export function nextBelow(x: number): number {
  const bits = new Int32Array(Float32Array.of(x).buffer)
  const sign = (bits[0] as number) < 0
  bits[0] = sign ? (bits[0] as number) + 1 : bits[0] === 0 ? -0x80000000 : (bits[0] as number) - 1
  return new Float32Array(bits.buffer)[0] as number
}

/** Codes [n, k] of a weight on scales [n, groups], all on shared memory. */
export async function roundToCodebook(
  weight: Float32Array,
  [n, k]: readonly [number, number],
  groupSize: number,
  scales: Float32Array,
  steps: CodebookSteps,
  codes: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  await abortable(signal, flag => native.roundCodebook(weight, n, k, groupSize, scales, steps, codes, flag))
}
