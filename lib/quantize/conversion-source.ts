// What convertModel reads: every weight of a checkpoint folder or a GGUF file under its Hugging Face name, as it is stored.
import { Checkpoint } from "../containers/checkpoint.ts"
import type { GgufEntry } from "../containers/gguf.ts"
import { Gguf } from "../containers/gguf.ts"
import { type Dtype, isFloat } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { bytesOf } from "../core/shared-array.ts"
import { elementCount, sharedBytes, sharedFloats } from "../core/tensor.ts"
import { GgufModel } from "../engine/gguf-model.ts"
import type { FormatReader } from "../formats/format.ts"
import { decodeBlocks, matrixOfStack } from "../formats/gguf-blocks.ts"
import { blockScheme, readBlockTensor } from "../formats/gguf-tensor.ts"
import { detectFormat } from "../formats/registry.ts"
import { dequantizeAsync } from "../kernels/dequantize.ts"
import { checkpointOrder, GgufLayout, shifted } from "../models/gguf-layout.ts"
import { holdsExperts } from "../models/gguf-names.ts"
import type { ModelProgram } from "../models/program.ts"
import { describeModel } from "../models/registry.ts"
import { transposedBytes, transposedFloats } from "../models/transposed.ts"
import { type Mapped, native } from "../native.ts"
import { carriedOver } from "./carried.ts"
import { schemeText } from "./inspect-model.ts"

/** A weight as floats. */
export interface DenseWeight {
  kind: "dense"
  /** Of the tensor. */
  name: string
  shape: readonly number[]
  /** As the container names it. */
  type: string
  dtype: Dtype
  /** Stored bytes, in the order of rows of a Hugging Face checkpoint. */
  stored(): Promise<Uint8Array>
  values(): Promise<Float32Array>
}

/** A matrix as codes. */
export interface QuantizedWeight {
  kind: "quantized"
  /** Of the module. */
  name: string
  shape: readonly [number, number]
  type: string
  read(): Promise<QuantizedTensor>
  /** f32 [n, k]: what the codes stand for. */
  values(): Promise<Float32Array>
}

export type Weight = DenseWeight | QuantizedWeight

export interface ConversionSource {
  path: string
  /** "gguf", the format of a checkpoint, or "dense". */
  format: string
  program: ModelProgram
  config: Record<string, unknown>
  weights: readonly Weight[]
  /** What of the configuration the target keeps besides (FormatReader.carried). */
  carried: FormatReader["carried"]
  checkpoint: Checkpoint | null
  gguf: Gguf | null
  dispose(): void
}

/**
 * ERR_FORMAT, ERR_UNSUPPORTED … as opening and describing a checkpoint or a GGUF file gives them. `to`: the format that it is read
 * for; `warn` is told what that one has no place for.
 */
export async function openConversionSource(
  path: string,
  to: string,
  warn: (message: string) => void,
): Promise<ConversionSource> {
  return typeof path === "string" && path.endsWith(".gguf") ? ofGguf(path) : ofCheckpoint(path, to, warn)
}

async function ofCheckpoint(path: string, to: string, warn: (message: string) => void): Promise<ConversionSource> {
  const checkpoint = await Checkpoint.open(path)
  try {
    const settings = checkpoint.quantizationConfig
    const format = detectFormat(settings)
    const reader = format?.reader(checkpoint, settings!, warn) ?? null
    const program = describeModel(checkpoint.config, name => checkpoint.has(name))
    const { carried, left } = reader ? carriedOver(reader, format!.name, to, warn) : { carried: undefined, left: [] }
    const omitted = new Set(left)
    const owner = new Map<string, string>()
    for (const module of reader?.modules ?? []) for (const name of reader!.tensorNames(module)) owner.set(name, module)
    const weights: Weight[] = []
    const seen = new Set<string>()
    for (const name of checkpoint.names) {
      if (omitted.has(name)) continue
      const module = owner.get(name)
      if (module === undefined) weights.push(denseOf(checkpoint, name))
      else if (!seen.has(module)) {
        seen.add(module)
        const { shape, scheme } = await reader!.stored(module)
        const read = () => reader!.read(module)
        const values = async () => dequantizeAsync(await read())
        weights.push({ kind: "quantized", name: module, shape, type: schemeText(scheme), read, values })
      }
    }
    const { config } = checkpoint
    return {
      ...{ path, format: format?.name ?? "dense", program, config, weights, carried, checkpoint, gguf: null },
      dispose: () => checkpoint.dispose(),
    }
  } catch (error) {
    checkpoint.dispose()
    throw error
  }
}

function denseOf(checkpoint: Checkpoint, name: string): DenseWeight {
  const { shape, dtype: type } = checkpoint.entry(name)
  // Integers and the like are copied as they are; only whoever needs values meets the type.
  const known: Readonly<Record<string, Dtype>> = { F32: "f32", F16: "f16", BF16: "bf16" }
  const dtype = known[type] ?? "u8"
  const stored = () => checkpoint.readBytes(name)
  return { kind: "dense", name, shape, type, dtype, stored, values: () => checkpoint.floats(name) }
}

async function ofGguf(path: string): Promise<ConversionSource> {
  const model = await GgufModel.of(await Gguf.open(path))
  try {
    const { gguf, config } = model
    const program = describeModel(config)
    const layout = new GgufLayout(program.config)
    const weights: Weight[] = []
    for (const entry of gguf.entries.values()) {
      const name = layout.names.hf(entry.name)
      const stacked = holdsExperts(entry.name)
      // Frequency factors are part of the configuration.
      if (name === null && !stacked) continue
      if (!entry.type.decode)
        throw new TsqError(
          "ERR_UNSUPPORTED",
          `${path}: tensor ${JSON.stringify(entry.name)} is ${entry.type.name}, whose values this version does not read`,
        )
      if (name !== null) weights.push(weightOf(entry, () => gguf.mapped(entry.name), name, layout))
      else weights.push(...expertsOf(gguf, entry, layout, program))
    }
    return {
      ...{ path, format: "gguf", program, config, weights, carried: undefined, checkpoint: null, gguf },
      dispose: () => gguf.dispose(),
    }
  } catch (error) {
    model.dispose()
    throw error
  }
}

/** The matrices of a tensor [experts, n, k]. */
function expertsOf(gguf: Gguf, entry: GgufEntry, layout: GgufLayout, { config }: ModelProgram): Weight[] {
  const { count = 0 } = config.experts ?? {}
  if (entry.shape.length !== 3 || entry.shape[0] !== count)
    throw new TsqError(
      "ERR_SHAPE",
      `${gguf.path}: tensor ${entry.name} is [${entry.shape.join(", ")}], expected [${count}, n, k]: the metadata counts ${count} experts`,
    )
  return Array.from({ length: count }, (_, expert) => {
    const of = () => matrixOfStack(entry, gguf.mapped(entry.name), expert)
    return weightOf(of().tensor, () => of().source, `${layout.names.expertModule(entry.name, expert)}.weight`, layout)
  })
}

function weightOf(entry: GgufEntry, source: () => Mapped, name: string, layout: GgufLayout): Weight {
  const { shape, type } = entry
  const order = checkpointOrder(layout.rows(entry.name), shape[0] ?? 1)
  const shift = -layout.offset(entry.name)
  const values = async () => shifted(inOrder(await decodeBlocks(entry, source()), order), shift)
  if (blockScheme(type) !== null && shape.length === 2) {
    const module = name.replace(/\.weight$/, "")
    const [n, k] = shape as readonly [number, number]
    const read = () => readBlockTensor(entry, source(), order)
    return { kind: "quantized", name: module, shape: [n, k], type: type.name, read, values }
  }
  const dtype: Dtype = shift !== 0 ? "f32" : type.name === "F16" ? "f16" : type.name === "BF16" ? "bf16" : "f32"
  const stored = async () => {
    if (type.blockSize > 1 || shift !== 0) return bytesOf(await values())
    const { mapping, offset, bytes: size } = source()
    const bytes = sharedBytes(size)
    if (size > 0) await native.readMappingAsync(mapping, offset, bytes)
    return inOrder(bytes, order)
  }
  const weight: DenseWeight = { kind: "dense", name, shape, type: type.name, dtype, stored, values }
  return layout.isTransposed(entry.name) && shape.length === 2 ? turned(weight) : weight
}

/** A dense matrix with its sides exchanged. */
export function turned(weight: DenseWeight): DenseWeight {
  const [rows, columns] = weight.shape as readonly [number, number]
  return {
    ...weight,
    shape: [columns, rows],
    stored: async () => transposedBytes(await weight.stored(), rows, columns, weight.dtype),
    values: async () => transposedFloats(await weight.values(), rows, columns),
  }
}

/** Row i of the result is row order[i]; rows are of equal length. The array itself without an order. */
export function inOrder<T extends Uint8Array | Float32Array>(rows: T, order: Int32Array | null): T {
  if (order === null) return rows
  const width = rows.length / order.length
  const out = (rows instanceof Float32Array ? sharedFloats(rows.length) : sharedBytes(rows.length)) as T
  for (const [row, from] of order.entries())
    out.set(rows.subarray(from * width, (from + 1) * width) as never, row * width)
  return out
}

/** Whether a dense weight is of floats that every target has. */
export const isPlainFloat = (weight: DenseWeight): boolean => isFloat(weight.dtype)

export const sizeOf = ({ name, shape }: Weight): number => elementCount(shape, name)
