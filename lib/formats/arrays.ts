// What all formats are made of: bit streams, transposed matrices and scales, computed by the addon off the event loop.
import { setImmediate as turn } from "node:timers/promises"
import type { Checkpoint } from "../containers/checkpoint.ts"
import type { TensorEntry } from "../containers/safetensors.ts"
import { dtypeInfo } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { type FloatScaleType, type Scheme, storedScales } from "../core/scheme.ts"
import { bytesOf } from "../core/shared-array.ts"
import { codeLayouts } from "../core/stored-tensor.ts"
import { sharedArray, sharedBytes, sharedFloats, sharedInts } from "../core/tensor.ts"
import { native, type Source } from "../native.ts"

export { bytesOf } from "../core/shared-array.ts"

/** Safetensors names of the types that scales are stored in. */
export const scaleNames: Readonly<Record<FloatScaleType, string>> = { f32: "F32", f16: "F16", bf16: "BF16" }

interface BitStreamOptions {
  /** AWQ's order of each 8 columns; 4 bits. */
  interleave?: boolean
  /** Added modulo 2^bits: before packing, after unpacking. */
  add?: number
}

/** `array` itself when asynchronous calls can use its memory, otherwise a copy that they can. */
export function pinned<T extends Uint8Array | Float32Array | Int32Array>(array: T): T {
  if (array.buffer instanceof SharedArrayBuffer) return array
  const dtype = array instanceof Float32Array ? "f32" : array instanceof Int32Array ? "i32" : "u8"
  const copy = sharedArray(dtype, array.length) as T
  copy.set(array)
  return copy
}

export const rowWords = (cols: number, bits: number): number => Math.ceil((cols * bits) / 32)

/** Rows of codes as little-endian bit streams of whole words: [rows, ceil(cols · bits / 32)]. */
export async function pack(
  codes: Uint8Array,
  rows: number,
  cols: number,
  bits: number,
  options: BitStreamOptions = {},
): Promise<Int32Array> {
  const out = sharedInts(rows * rowWords(cols, bits))
  await native.packBits(pinned(codes), rows, cols, bits, options.interleave ?? false, options.add ?? 0, out)
  return out
}

/** The inverse of pack. */
export async function unpack(
  words: Int32Array,
  rows: number,
  cols: number,
  bits: number,
  options: BitStreamOptions = {},
): Promise<Uint8Array> {
  const out = sharedBytes(rows * cols)
  await native.unpackBits(words, rows, cols, bits, options.interleave ?? false, options.add ?? 0, out)
  return out
}

/** Rows of codes in GPTQModel's bit planes: [rows, cols · bits / 32], cols a multiple of 32. */
export async function packPlanes(codes: Uint8Array, rows: number, cols: number, bits: number): Promise<Int32Array> {
  const out = sharedInts((rows * cols * bits) / 32)
  await native.packPlanes(pinned(codes), rows, cols, bits, out)
  return out
}

/** The inverse of packPlanes. */
export async function unpackPlanes(words: Int32Array, rows: number, cols: number, bits: number): Promise<Uint8Array> {
  const out = sharedBytes(rows * cols)
  await native.unpackPlanes(words, rows, cols, bits, out)
  return out
}

interface NibbleOptions {
  /** The even element in the upper half of its byte (bitsandbytes), not the lower. */
  highFirst?: boolean
}

/** Codes below 16 as two a byte: [ceil(count / 2)]. Half a byte that is left over is 0. */
export async function packNibbles(
  codes: Uint8Array,
  count: number = codes.length,
  { highFirst = false }: NibbleOptions = {},
): Promise<Uint8Array> {
  const out = sharedBytes(Math.ceil(count / 2))
  await native.packNibbles(pinned(codes), count, highFirst, out)
  return out
}

/** The inverse: [count], a byte a code. */
export async function unpackNibbles(
  bytes: Source,
  count: number,
  { highFirst = false }: NibbleOptions = {},
): Promise<Uint8Array> {
  const out = sharedBytes(count)
  const layout = highFirst ? codeLayouts.nibblesHigh : codeLayouts.nibbles
  if (count > 0) await native.unpackCodes(bytes, layout, 1, count, 4, out)
  return out
}

/** Codes less 2^(bits-1), as the bytes of int8. */
export async function signedBytes(codes: Uint8Array, bits: number): Promise<Uint8Array> {
  const out = sharedBytes(codes.length)
  await native.signCodes(pinned(codes), codes.length, bits, out)
  return out
}

/** The inverse: codes of the bytes of int8. ERR_FORMAT where one is not in the range of `bits`. */
export async function unsignedCodes(bytes: Source, count: number, bits: number): Promise<Uint8Array> {
  const out = sharedBytes(count)
  if (count > 0) await native.unpackCodes(bytes, codeLayouts.signed, 1, count, bits, out)
  return out
}

/** [groupSize, blockRows, runLength] of expandShared. */
function sharing(scheme: Scheme, [n, k]: readonly [number, number]): [number, number, number] {
  const { granularity, groupSize, blockRows = 1, runLength = 0 } = scheme
  return [groupSize, blockRows, granularity === "tensor" ? n * k : runLength]
}

/** [n, groups] of values as a file stores them (storedScales of them): scales, or zero points. ERR_SHAPE for another count. */
export async function expandScales<T extends Uint8Array | Float32Array>(
  scheme: Scheme,
  shape: readonly [number, number],
  stored: T,
): Promise<T> {
  const [n, k] = shape
  const expected = storedScales(scheme, shape)
  if (stored.length !== expected)
    throw new TsqError(
      "ERR_SHAPE",
      `quantized tensor [${n}, ${k}]: ${stored.length} scales or zero points are stored, expected ${expected} for granularity ${JSON.stringify(scheme.granularity)}`,
    )
  const floats = stored instanceof Float32Array
  const out = sharedArray(floats ? "f32" : "u8", n * Math.ceil(k / scheme.groupSize)) as T
  await native.expandShared(pinned(stored), n, k, ...sharing(scheme, shape), floats ? 4 : 1, out)
  return out
}

/** The inverse of expandScales: null where rows or groups that share a value have different ones. */
export async function collapseScales<T extends Uint8Array | Float32Array>(
  scheme: Scheme,
  shape: readonly [number, number],
  values: T,
): Promise<T | null> {
  const [n, k] = shape
  const floats = values instanceof Float32Array
  const out = sharedArray(floats ? "f32" : "u8", storedScales(scheme, shape)) as T
  const same = await native.collapseShared(pinned(values), n, k, ...sharing(scheme, shape), floats ? 4 : 1, out)
  return same ? out : null
}

/** The scales of a tensor as a file stores them; null where those that its scheme says are shared differ. */
export const storedScalesOf = (
  tensor: Pick<QuantizedTensor, "scheme" | "shape" | "scales">,
): Promise<Float32Array | null> => collapseScales(tensor.scheme, tensor.shape, tensor.scales)

/** [cols, rows] of a [rows, cols] matrix. */
export async function transposed<T extends Uint8Array | Float32Array | Int32Array>(
  source: T,
  rows: number,
  cols: number,
): Promise<T> {
  const input = pinned(source)
  const bytes = input.BYTES_PER_ELEMENT as 1 | 4
  const out = sharedArray(input instanceof Float32Array ? "f32" : bytes === 4 ? "i32" : "u8", rows * cols) as T
  await native.transpose(input, rows, cols, bytes, out)
  return out
}

/** Rows of `from` elements as rows of `to`: cut, or filled up with zeros. */
export async function resizedRows(source: Uint8Array, rows: number, from: number, to: number): Promise<Uint8Array> {
  if (from === to) return source
  const out = sharedBytes(rows * to)
  const kept = Math.min(from, to)
  for (let row = 0; row < rows; row++) {
    out.set(source.subarray(row * from, row * from + kept), row * to)
    if (row % 4096 === 4095) await turn()
  }
  return out
}

/** Floats rounded to a type, as f32 again. */
export async function roundedTo(values: Float32Array, type: FloatScaleType): Promise<Float32Array> {
  if (type === "f32") return values
  const encoded = sharedArray(type, values.length)
  const back = sharedFloats(values.length)
  const [f32, code] = [dtypeInfo("f32").code, dtypeInfo(type).code]
  await native.convertAsync(pinned(values), f32, encoded, code, values.length)
  await native.convertAsync(encoded, code, back, f32, values.length)
  return back
}

/** Scales in the first of `types` that holds them all exactly; null when none does. */
export async function encodeScales(
  scales: Float32Array,
  types: readonly FloatScaleType[],
): Promise<{ dtype: string; data: Uint8Array } | null> {
  const source = pinned(scales)
  for (const type of types) {
    if (type === "f32") return { dtype: scaleNames.f32, data: bytesOf(source) }
    const encoded = sharedArray(type, source.length)
    const back = sharedFloats(source.length)
    const { code } = dtypeInfo(type)
    await native.convertAsync(source, dtypeInfo("f32").code, encoded, code, source.length)
    await native.convertAsync(encoded, code, back, dtypeInfo("f32").code, source.length)
    if (Buffer.compare(bytesOf(back), bytesOf(source)) === 0) return { dtype: scaleNames[type], data: bytesOf(encoded) }
  }
  return null
}

/** The entry of a tensor of a quantized module; ERR_DTYPE or ERR_SHAPE, naming it, when it is not as the format has it. */
export function expectEntry(
  checkpoint: Checkpoint,
  name: string,
  dtypes: readonly string[],
  shape?: readonly number[],
): TensorEntry {
  const entry = checkpoint.entry(name)
  if (!dtypes.includes(entry.dtype))
    throw new TsqError(
      "ERR_DTYPE",
      `${checkpoint.directory}: tensor ${name} is ${entry.dtype}, expected ${dtypes.join(" or ")}`,
    )
  if (shape && (entry.shape.length !== shape.length || entry.shape.some((size, axis) => size !== shape[axis])))
    throw new TsqError(
      "ERR_SHAPE",
      `${checkpoint.directory}: tensor ${name} is [${entry.shape.join(", ")}], expected [${shape.join(", ")}]; its quantization_config does not describe it`,
    )
  return entry
}

/** The rows and columns of a two-dimensional tensor; ERR_SHAPE for another rank or an empty one. */
export function matrixShape(checkpoint: Checkpoint, entry: TensorEntry): [number, number] {
  const [rows, cols] = entry.shape
  if (entry.shape.length !== 2 || !rows || !cols)
    throw new TsqError(
      "ERR_SHAPE",
      `${checkpoint.directory}: tensor ${entry.name} is [${entry.shape.join(", ")}], expected a matrix`,
    )
  return [rows, cols]
}

export async function readInts(checkpoint: Checkpoint, name: string): Promise<Int32Array> {
  const bytes = await checkpoint.readBytes(name)
  return new Int32Array(bytes.buffer)
}

/** Scales as f32, and the type they are stored in. */
export async function readScales(
  checkpoint: Checkpoint,
  name: string,
): Promise<{ values: Float32Array; scaleType: FloatScaleType }> {
  const { dtype } = expectEntry(checkpoint, name, Object.values(scaleNames))
  const scaleType = (Object.keys(scaleNames) as FloatScaleType[]).find(
    type => scaleNames[type] === dtype,
  ) as FloatScaleType
  return { values: await checkpoint.floats(name), scaleType }
}

/** Modules that have a tensor of this suffix (".qweight"), in the checkpoint's order. */
export const modulesWith = (checkpoint: Checkpoint, suffix: string): string[] =>
  checkpoint.names.filter(name => name.endsWith(suffix)).map(name => name.slice(0, -suffix.length))
