// What the tests of formats share: vectors as quantized tensors, and checkpoints of a few modules.

import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import type { IntegerScheme } from "../../../lib/core/scheme.ts"
import type {
  CheckpointFormat,
  FormatReader,
  FormatSummary,
  NamedTensor,
  WriteOptions,
} from "../../../lib/formats/format.ts"
import { native } from "../../../lib/native.ts"
import { folder, type random, type Vector, writeCheckpoint } from "../containers/support.ts"

/** [cols][rows] of a nested array. */
export const transpose = (rows: number[][]): number[][] =>
  (rows[0] as number[]).map((_, col) => rows.map(row => row[col] as number))

/** Words of a tensor as the vectors spell them, in rows. */
export function hexRows(tensors: NamedTensor[], name: string): string[][] {
  const { shape, data } = find(tensors, name)
  const words = Array.from(
    new Uint32Array(Uint8Array.from(data as Uint8Array).buffer),
    word => `0x${word.toString(16).padStart(8, "0")}`,
  )
  const [rows, cols] = shape as [number, number]
  return Array.from({ length: rows }, (_, row) => words.slice(row * cols, (row + 1) * cols))
}

export function find(tensors: NamedTensor[], name: string): NamedTensor {
  const found = tensors.find(tensor => tensor.name === name)
  if (!found) throw new Error(`no ${name} among ${tensors.map(tensor => tensor.name)}`)
  return found
}

/** Bytes of hex words, in file order. */
export const wordBytes = (rows: string[][]): Uint8Array => new Uint8Array(Uint32Array.from(rows.flat(), Number).buffer)

export const halves = (values: ArrayLike<number>): Uint8Array => {
  const source = Float32Array.from(values)
  const out = new Uint16Array(source.length)
  native.convert(source, 0, out, 1, source.length)
  return new Uint8Array(out.buffer)
}

export const ints = (values: Iterable<number>): Uint8Array => new Uint8Array(Int32Array.from(values).buffer)

/** w[n, k] of a quantized tensor, in double precision. */
export function dequantized(q: QuantizedTensor): number[][] {
  const [n, k] = q.shape
  return Array.from({ length: n }, (_, row) =>
    Array.from({ length: k }, (_, column) => {
      const group = row * q.groups + (q.groupIndex?.[column] ?? Math.floor(column / q.scheme.groupSize))
      const zero = q.zeros ? (q.zeros[group] as number) : 2 ** (q.scheme.bits - 1)
      return (q.scales[group] as number) * ((q.codes[row * k + column] as number) - zero)
    }),
  )
}

/** A GPTQ or AWQ vector: codes and zeros come as [k][n] and [groups][n]. */
export function fromColumns(v: Vector): QuantizedTensor {
  return new QuantizedTensor({
    scheme: {
      bits: (v.bits ?? 4) as IntegerScheme["bits"],
      symmetric: v.sym ?? false,
      granularity: "group",
      groupSize: v.group_size,
      scaleType: "f16",
    },
    shape: [v.out_features, v.in_features],
    codes: Uint8Array.from(transpose(v.codes_KxN).flat()),
    scales: Float32Array.from(transpose(v.scales_GxN).flat()),
    zeros: v.sym ? null : Uint8Array.from(transpose(v.zeros_GxN).flat()),
  })
}

type Numbers = ReturnType<typeof random>

/** A tensor of random codes; scales are powers of two times small integers, exact in every type. */
export function randomTensor(
  numbers: Numbers,
  shape: [number, number],
  scheme: IntegerScheme,
  extra: { ordered?: boolean; minZero?: number } = {},
): QuantizedTensor {
  const { below } = numbers
  const [n, k] = shape
  const groups = Math.ceil(k / scheme.groupSize)
  const minZero = extra.minZero ?? 0
  const whole = 1 + below(200)
  const scales = Float32Array.from(
    { length: n * groups },
    () => (scheme.granularity === "tensor" ? whole : 1 + below(200)) * 2 ** -12,
  )
  let groupIndex: Int32Array | null = null
  if (extra.ordered && groups > 1) {
    groupIndex = Int32Array.from({ length: k }, (_, column) => Math.floor(column / scheme.groupSize))
    for (let i = k - 1; i > 0; i--) {
      const j = below(i + 1)
      ;[groupIndex[i], groupIndex[j]] = [groupIndex[j] as number, groupIndex[i] as number]
    }
    // It has to decrease somewhere.
    groupIndex.set([groups - 1, 0])
  }
  return new QuantizedTensor({
    scheme,
    shape,
    codes: Uint8Array.from({ length: n * k }, () => below(2 ** scheme.bits)),
    scales,
    zeros: scheme.symmetric
      ? null
      : Uint8Array.from({ length: n * groups }, () => minZero + below(2 ** scheme.bits - minZero)),
    groupIndex,
  })
}

export const summaryOf = (
  tensors: Record<string, QuantizedTensor>,
  unquantized: string[] = [],
  damp: number | null = null,
): FormatSummary => ({
  modules: new Map(
    Object.entries(tensors).map(([module, q]) => [module, { ...q.scheme, hasGroupIndex: q.groupIndex !== null }]),
  ),
  unquantized,
  damp,
  version: "0.1.0",
})

/** A checkpoint of hand-made tensors with a quantization_config. */
export async function checkpointOf(
  t: { teardown(handler: () => void): unknown },
  config: object,
  tensors: NamedTensor[],
): Promise<Checkpoint> {
  const directory = folder(t)
  await writeCheckpoint(directory, { quantization_config: config }, tensors)
  const checkpoint = await Checkpoint.open(directory)
  t.teardown(() => checkpoint.dispose())
  return checkpoint
}

/** Writes modules in a format, and opens what was written. */
export async function written(
  t: { teardown(handler: () => void): unknown },
  format: CheckpointFormat,
  tensors: Record<string, QuantizedTensor>,
  options: WriteOptions = { scaleType: "f16" },
  unquantized: string[] = [],
): Promise<{
  reader: FormatReader
  warnings: string[]
  tensors: NamedTensor[]
  config: Record<string, unknown>
  checkpoint: Checkpoint
}> {
  const files: NamedTensor[] = []
  for (const [module, tensor] of Object.entries(tensors)) files.push(...(await format.write(module, tensor, options)))
  const { quantizationConfig } = format.configuration(summaryOf(tensors, unquantized), options)
  const checkpoint = await checkpointOf(t, quantizationConfig, files)
  const warnings: string[] = []
  const config = checkpoint.quantizationConfig as Record<string, unknown>
  const reader = format.reader(checkpoint, config, message => warnings.push(message))
  return { reader, warnings, tensors: files, config, checkpoint }
}

/** What makes two quantized tensors the same, in a form that a test can compare. */
export const contents = (q: QuantizedTensor, change: Partial<IntegerScheme> = {}) => ({
  scheme: { ...q.scheme, ...change },
  shape: [...q.shape],
  codes: Buffer.from(q.codes).toString("hex"),
  scales: Buffer.from(q.scales.slice().buffer).toString("hex"),
  zeros: q.zeros && Buffer.from(q.zeros).toString("hex"),
  groupIndex: q.groupIndex && [...q.groupIndex],
})
