// Code books: the values that the codes of a tensor stand for where these are not whole numbers with a zero point.
import { TsqError } from "./errors.ts"
import { describe, listChoices } from "./options.ts"

const codebookNames = ["nf4", "fp4", "e2m1", "iq4_nl", "e4m3", "e5m2"] as const

/**
 * nf4: QLoRA (Dettmers et al. 2023, appendix E) as bitsandbytes stores it. fp4: bitsandbytes' own, in its order of codes.
 * e2m1: OCP Microscaling FP4. iq4_nl: ggml's. e4m3 (finite, NaN at 0x7f and 0xff), e5m2: OCP 8-bit floating point.
 */
export type CodebookName = (typeof codebookNames)[number]

export const isCodebookName = (name: unknown): name is CodebookName =>
  (codebookNames as readonly unknown[]).includes(name)

/** Sign, exponent and mantissa as in IEEE 754, without infinities; every code from 0 on. */
function floats(exponentBits: number, mantissaBits: number, bias: number): number[] {
  const size = 2 ** (1 + exponentBits + mantissaBits)
  return Array.from({ length: size }, (_, code) => {
    const sign = code >= size / 2 ? -1 : 1
    const magnitude = code % (size / 2)
    const exponent = Math.floor(magnitude / 2 ** mantissaBits)
    const mantissa = (magnitude % 2 ** mantissaBits) / 2 ** mantissaBits
    return sign * (exponent === 0 ? mantissa * 2 ** (1 - bias) : (1 + mantissa) * 2 ** (exponent - bias))
  })
}

function e4m3(): number[] {
  const values = floats(4, 3, 7)
  values[0x7f] = values[0xff] = Number.NaN
  return values
}

function e5m2(): number[] {
  return floats(5, 2, 15).map((value, code) => {
    const magnitude = code % 128
    return magnitude < 0x7c ? value : magnitude > 0x7c ? Number.NaN : code < 128 ? Infinity : -Infinity
  })
}

const fp4Magnitudes = [0, 0.0625 / 12, 8 / 12, 1, 4 / 12, 6 / 12, 2 / 12, 3 / 12]

const makers: Record<CodebookName, () => number[]> = {
  nf4: () => [
    -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
  ],
  // bitsandbytes stores no negative zero.
  fp4: () => [...fp4Magnitudes, ...fp4Magnitudes.map(value => 0 - value)],
  e2m1: () => floats(2, 1, 1),
  iq4_nl: () => [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
  e4m3,
  e5m2,
}

const made = new Map<CodebookName, Float32Array>()

/** The values of a code book by code, f32 on shared memory: 16 or 256. Not to be changed. ERR_OPTION for a name that is none. */
export function codebook(name: CodebookName): Float32Array {
  if (!isCodebookName(name))
    throw new TsqError("ERR_OPTION", `codebook is ${describe(name)}, expected ${listChoices(codebookNames)}`)
  let values = made.get(name)
  if (!values) {
    const numbers = makers[name]()
    values = new Float32Array(new SharedArrayBuffer(4 * numbers.length))
    values.set(numbers)
    made.set(name, values)
  }
  return values
}

/** Bits of a code: log2 of the number of values. */
export const codebookBits = (name: CodebookName): 4 | 8 => (codebook(name).length === 16 ? 4 : 8)

/** The name of the code book that has these values, bit for bit; null where they are nobody's known. */
export function knownCodebook(values: Float32Array): CodebookName | null {
  return codebookNames.find(name => sameFloats(codebook(name), values)) ?? null
}

const sameFloats = (a: Float32Array, b: Float32Array): boolean =>
  a.length === b.length && a.every((value, i) => Object.is(value, b[i]) || value === b[i])
