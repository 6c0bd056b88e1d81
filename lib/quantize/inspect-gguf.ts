// What a GGUF file holds: its metadata and tensors. Nothing is decoded.
import { Gguf, type GgufEntry } from "../containers/gguf.ts"
import type { GgufArray, GgufMetadata, GgufValue } from "../containers/gguf-types.ts"
import type { EngineName, StoredModel } from "../formats/engines/engine.ts"
import { judge } from "../formats/engines/registry.ts"
import type { ModelInspection } from "./inspect-model.ts"

/** `value` as JSON can hold it: of an array the first elements, 64-bit integers beyond 2^53 and numbers that are not finite as text. */
export interface MetadataField {
  key: string
  /** As the file names it: "u32", "string", "array of f32". */
  type: string
  value: MetadataScalar | MetadataScalar[]
  /** Elements of an array. */
  length?: number
}

type MetadataScalar = string | number | boolean

/** Elements of an array that are shown: the rest of a vocabulary says nothing more. */
const shownElements = 8

export async function inspectGguf(
  path: string,
  engines: readonly EngineName[] | null = null,
): Promise<ModelInspection> {
  const model = await Gguf.open(path)
  try {
    const entries = [...model.entries.values()]
    const quantized = entries.filter(({ type }) => type.blockSize > 1)
    const types = [...new Set(quantized.map(({ type }) => type.name))]
    const architecture = model.metadata.get("general.architecture")
    const all = sizeOf(entries)
    return {
      architecture: architecture?.type === "string" ? architecture.value : "unknown",
      parameters: all.weights,
      format: "gguf",
      scheme: types.length > 1 ? "mixed" : (types[0] ?? null),
      bitsPerWeight: bits(quantized.length > 0 ? sizeOf(quantized) : all),
      fileBitsPerWeight: bits(all),
      weightBytes: all.bytes,
      kvCacheBytes: 0,
      context: 0,
      batch: 0,
      tensors: entries.map(tensorOf),
      metadata: fieldsOf(model.metadata),
      ...(engines && { findings: judge(engines, storedModel(model)) }),
    }
  } finally {
    model.dispose()
  }
}

function storedModel({ metadata, entries }: Gguf): StoredModel {
  const architecture = metadata.get("general.architecture")
  return {
    format: "gguf",
    architecture: architecture?.type === "string" ? architecture.value : "unknown",
    ...{ configText: null, settings: null, modules: [], metadata },
    tensors: Array.from(entries.values(), ({ name, shape, type }) => ({ name, shape, type: type.name })),
  }
}

const tensorOf = ({ name, shape, type, bytes }: GgufEntry): ModelInspection["tensors"][number] => ({
  name,
  shape: [...shape],
  dtype: type.name,
  scheme: null,
  bytes,
})

interface Size {
  weights: number
  bytes: number
}

const sizeOf = (entries: readonly { shape: readonly number[]; bytes: number }[]): Size => ({
  weights: entries.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0),
  bytes: entries.reduce((sum, { bytes }) => sum + bytes, 0),
})

const bits = ({ weights, bytes }: Size) => (weights > 0 ? (8 * bytes) / weights : 0)

const fieldsOf = (metadata: GgufMetadata): MetadataField[] =>
  Array.from(metadata, ([key, value]) =>
    value.type === "array"
      ? { key, type: `array of ${value.of}`, value: firstOf(value), length: value.value.length }
      : { key, type: value.type, value: scalar(value) },
  )

function firstOf(array: GgufArray): MetadataScalar[] {
  if (array.of === "array")
    return array.value.slice(0, shownElements).map(inner => `array of ${inner.of}, ${inner.value.length} elements`)
  const first = array.value.slice(0, shownElements) as Iterable<string | number | bigint>
  return Array.from(first, value => (array.of === "bool" ? value === 1 : plain(value)))
}

const scalar = ({ value }: Exclude<GgufValue, GgufArray>): MetadataScalar => plain(value)

function plain(value: string | number | bigint | boolean): MetadataScalar {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value)
  return typeof value === "number" && !Number.isFinite(value) ? String(value) : value
}
