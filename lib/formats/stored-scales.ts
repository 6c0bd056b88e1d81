// Scales that are not floats: bytes of FP8 E4M3 under one number for the whole tensor (NVFP4), and bytes of E8M0, which are powers of
// two (OCP Microscaling). Both are looked up in a table of 256 values, off the event loop.
import { codebook } from "../core/codebooks.ts"
import { TsqError } from "../core/errors.ts"
import type { ScaleLevels } from "../core/quantized-tensor.ts"
import type { Scheme } from "../core/scheme.ts"
import { sharedBytes, sharedFloats } from "../core/tensor.ts"
import { native } from "../native.ts"
import { bytesOf, pinned } from "./arrays.ts"

/** Columns of a group, as the formats have them. */
export const nvfp4Group = 16
export const mxGroup = 32

export const nvfp4Scheme = (k: number): Scheme => ({
  bits: 4,
  symmetric: true,
  granularity: "group",
  groupSize: Math.min(nvfp4Group, k),
  scaleType: "levels",
  codebook: "e2m1",
})

/** values[bytes] of a matrix [rows, cols], on shared memory. */
async function lookUp(bytes: Uint8Array, table: Float32Array, rows: number, cols: number): Promise<Float32Array> {
  const out = sharedFloats(rows * cols)
  const ones = sharedFloats(rows).fill(1)
  const source = pinned(bytes)
  await native.dequantize(source, ones, null, null, table, rows, cols, 8, cols, null, null, out)
  return out
}

function tableOf(value: (byte: number) => number): Float32Array {
  const table = sharedFloats(256)
  for (let byte = 0; byte < 256; byte++) table[byte] = value(byte)
  return table
}

// ------------------------------------------------------------------------------------------------------------------ NVFP4

/** What a scale of each byte is: the byte's value times, or divided by, a number. */
function levelTable(global: number, divides: boolean): Float32Array {
  const values = codebook("e4m3")
  return tableOf(byte => (divides ? (values[byte] as number) / global : (values[byte] as number) * global))
}

/** Scales [n, groups] and their levels. ERR_FORMAT, naming the tensors, where a scale would not be a finite number. */
export async function nvfp4Scales(
  bytes: Uint8Array,
  [n, groups]: readonly [number, number],
  global: number,
  divides: boolean,
  names: { bytes: string; global: string },
): Promise<{ scales: Float32Array; levels: ScaleLevels }> {
  if (!(Number.isFinite(global) && global > 0))
    throw new TsqError("ERR_FORMAT", `${names.global}: is ${global}, expected a positive number`)
  for (const nan of [0x7f, 0xff])
    if (bytes.includes(nan))
      throw new TsqError(
        "ERR_FORMAT",
        `${names.bytes}: scale ${bytes.indexOf(nan)} is not a number; the file is damaged`,
      )
  return {
    scales: await lookUp(bytes, levelTable(global, divides), n, groups),
    levels: {
      codes: bytes,
      values: codebook("e4m3"),
      supers: Float32Array.of(global),
      perSuper: bytes.length,
      divides,
      shift: 0,
    },
  }
}

/** Why scales cannot be stored as NVFP4's by a format that divides by (or multiplies with) the global scale; null when they can. */
export function refusesLevels(levels: ScaleLevels, divides: boolean, format: string): string | null {
  if (levels.supers.length !== 1 || levels.shift !== 0 || !sameValues(levels.values))
    return `${format} stores scales of FP8 E4M3 under one number for the tensor, and those of this tensor have other levels`
  if (globalScale(levels, divides) !== null) return null
  const [own, other] = divides ? ["divides by", "multiplied with"] : ["multiplies with", "divided by"]
  return `${format} ${own} the global scale where this tensor's scales are ${other} it, and no number of f32 gives the same scales both ways`
}

const sameValues = (values: Float32Array): boolean => {
  const known = codebook("e4m3")
  return values === known || (values.length === 256 && values.every((value, i) => Object.is(value, known[i])))
}

/** The global scale by which a format divides, or multiplies with, for exactly the same scales; null where there is none. */
export function globalScale(levels: ScaleLevels, divides: boolean): number | null {
  const own = levels.supers[0] as number
  if (levels.divides === divides) return own
  const other = Math.fround(1 / own)
  // The way back has to lead to the same number.
  if (!Number.isFinite(other) || Math.fround(1 / other) !== own) return null
  const [a, b] = [levelTable(own, levels.divides), levelTable(other, divides)]
  return a.every((value, byte) => Object.is(value, b[byte])) ? other : null
}

// ------------------------------------------------------------------------------------------------------------------- E8M0

/** 2^(byte - 127); 255 is not a number. Not to be changed. */
export const powers = tableOf(byte => (byte === 255 ? Number.NaN : 2 ** (byte - 127)))
/** Bytes by value: the limit before a value is the value below it, so that a value itself is found. */
const powerSteps = {
  codes: Uint8Array.from({ length: 255 }, (_, byte) => byte),
  limits: powers.slice(0, 254),
  reciprocal: false,
}

/** Scales [n, groups] of bytes. ERR_FORMAT, naming the tensor, for one that is not a number. */
export async function powerScales(bytes: Uint8Array, [n, groups]: readonly [number, number], name: string) {
  if (bytes.includes(255))
    throw new TsqError("ERR_FORMAT", `${name}: scale ${bytes.indexOf(255)} is not a number; the file is damaged`)
  return lookUp(bytes, powers, n, groups)
}

/** The bytes of scales that are powers of two; null where one is not. */
export async function powerBytes(scales: Float32Array): Promise<Uint8Array | null> {
  const count = scales.length
  const source = pinned(scales)
  const bytes = sharedBytes(count)
  await native.roundCodebook(source, 1, count, count, sharedFloats(1).fill(1), powerSteps, bytes, null)
  const back = await lookUp(bytes, powers, 1, count)
  return Buffer.compare(bytesOf(back), bytesOf(source)) === 0 ? bytes : null
}
