// Writes a checkpoint: quantized modules in a format, everything else as it was, configuration and companion files along.
import { copyFile, mkdir } from "node:fs/promises"
import { dirname, join } from "node:path"
import type { Checkpoint } from "../containers/checkpoint.ts"
import { writeError, writeNewFile } from "../containers/disk.ts"
import { editJson } from "../containers/json.ts"
import { type NamedTensor, OtherTensors, SafetensorsWriter } from "../containers/safetensors-writer.ts"
import { type Dtype, dtypeInfo } from "../core/dtype.ts"
import { throwIfAborted } from "../core/errors.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { Tensor } from "../core/tensor.ts"
import type { CheckpointFormat, FormatSummary, WriteOptions } from "../formats/format.ts"
import { native } from "../native.ts"

/** What is written besides quantized modules, in this order. */
export interface DenseSource {
  /** config.json; keys that are not about quantization keep their text. */
  configText: string
  /** Tensors, and modules or tensors of modules in whose place quantized ones are written. */
  names: readonly string[]
  dense(name: string): Promise<NamedTensor>
  /** The type and shape of a tensor in the source, where that is what dense() gives. */
  entry?(name: string): Omit<NamedTensor, "data">
  /** Files that travel along: paths by their names in the folder. */
  companions: ReadonlyMap<string, string>
}

/** A checkpoint as it is. `changed`: new values of dense tensors, null where unchanged. */
export const fromCheckpoint = (
  checkpoint: Checkpoint,
  changed: (name: string) => Promise<Float32Array | null> = async () => null,
): DenseSource => ({
  configText: checkpoint.configText,
  names: checkpoint.names,
  dense: async name => denseTensor(checkpoint, name, await changed(name)),
  entry: name => {
    const { dtype, shape } = checkpoint.entry(name)
    return { name, dtype, shape }
  },
  companions: new Map(checkpoint.companionFiles().map(name => [name, join(checkpoint.directory, name)])),
})

export interface CheckpointContents {
  source: DenseSource
  /** null: nothing is quantized. */
  format: CheckpointFormat | null
  summary: FormatSummary
  options: WriteOptions
  /** A quantized module by its full name. */
  tensor(module: string): Promise<QuantizedTensor>
  /** Tensors of no module that come last; source tensors of their names belong into `omitted`. */
  added?: readonly NamedTensor[]
  /** Source tensors that are left out because they belong to a module's former format. */
  omitted: ReadonlySet<string>
  /** The module that is written at the place of a source tensor, or null. */
  moduleAt(name: string): string | null
  /** All tensors in the order of writing, as far as can be foreseen: then they are written once (SafetensorsWriterOptions.tensors). */
  tensors?: readonly Omit<NamedTensor, "data">[]
  /** More files (name -> JSON), given the bytes of all tensors. */
  files(totalBytes: number): Record<string, unknown>
  signal?: AbortSignal | undefined
  onTensor?: (name: string, done: number, total: number) => void
}

/** Fills `directory`, which exists and is empty. Memory: one tensor. */
export async function writeCheckpoint(
  directory: string,
  contents: CheckpointContents,
): Promise<{ totalBytes: number; files: string[] }> {
  const { source, format, options, signal } = contents
  // First: a format refuses what its configuration cannot describe before gigabytes are written.
  const { quantizationConfig, files } = format?.configuration(contents.summary, options) ?? {
    quantizationConfig: undefined,
    files: {},
  }
  const write = async (tensors: CheckpointContents["tensors"]) => {
    const writer = new SafetensorsWriter(directory, { signal, ...(tensors && { tensors }) })
    return addTensors(writer, contents).catch(async error => {
      await writer.discard()
      throw error
    })
  }
  const written = await write(contents.tensors).catch(error => {
    if (error instanceof OtherTensors) return write(undefined)
    throw error
  })
  const config = editJson(source.configText, { quantization_config: quantizationConfig, compression_config: undefined })
  await writeNewFile(join(directory, "config.json"), config)
  for (const [name, value] of Object.entries({ ...files, ...contents.files(written.totalBytes) }))
    await writeNewFile(join(directory, name), `${JSON.stringify(value, null, 2)}\n`)
  for (const [name, path] of source.companions) {
    const target = join(directory, name)
    try {
      await mkdir(dirname(target), { recursive: true })
      await copyFile(path, target)
    } catch (cause) {
      throw writeError(`copy ${name} to`, target, cause)
    }
  }
  return written
}

/**
 * The tensors that a checkpoint will have, from one module of each shape and scheme: the others of its kind are stored alike, but for
 * formats that hold texts of their own length.
 */
export async function foreseenTensors(contents: CheckpointContents): Promise<Omit<NamedTensor, "data">[]> {
  const { source, format, options, summary, omitted } = contents
  const kinds = new Map<string, Omit<NamedTensor, "data">[]>()
  const tensors: Omit<NamedTensor, "data">[] = []
  for (const name of source.names) {
    const module = contents.moduleAt(name)
    const entry = source.entry!(name)
    if (module === null || !format) {
      if (!omitted.has(name)) tensors.push(entry)
      continue
    }
    const kind = JSON.stringify([entry.shape, summary.modules.get(module)])
    let parts = kinds.get(kind)
    if (!parts) {
      const made = await format.write(module, await contents.tensor(module), options)
      parts = made.map(({ data: _, ...part }) => ({ ...part, name: part.name.slice(module.length) }))
      kinds.set(kind, parts)
    }
    tensors.push(...parts.map(part => ({ ...part, name: module + part.name })))
  }
  for (const { data: _, ...entry } of contents.added ?? []) tensors.push(entry)
  return tensors
}

async function addTensors(writer: SafetensorsWriter, contents: CheckpointContents) {
  const { source, format, options, signal } = contents
  let done = 0
  for (const name of source.names) {
    throwIfAborted(signal)
    const module = contents.moduleAt(name)
    if (module !== null && format)
      for (const tensor of await format.write(module, await contents.tensor(module), options)) await writer.add(tensor)
    else if (!contents.omitted.has(name)) await writer.add(await source.dense(name))
    contents.onTensor?.(name, ++done, source.names.length)
  }
  for (const tensor of contents.added ?? []) await writer.add(tensor)
  return writer.finish()
}

const fileTypes: Record<string, Dtype> = { F32: "f32", F16: "f16", BF16: "bf16" }

async function denseTensor(source: Checkpoint, name: string, values: Float32Array | null): Promise<NamedTensor> {
  const { dtype, shape, bytes } = source.entry(name)
  if (values === null && source.isComputed(name)) return denseTensor(source, name, await source.floats(name))
  if (values === null) {
    const copyable = ["F32", "F16", "BF16", "I8", "U8", "I32"].includes(dtype)
    return { name, dtype, shape, data: copyable && bytes > 0 ? source.tensor(name) : await source.readBytes(name) }
  }
  return { name, dtype, shape, data: await roundTo(values, shape, fileTypes[dtype]!) }
}

/** Values in a tensor's stored type, nearest even. */
export async function roundTo(values: Float32Array, shape: readonly number[], dtype: Dtype): Promise<Tensor> {
  const out = Tensor.empty(shape, dtype)
  await native.convertAsync(values, dtypeInfo("f32").code, out.data, dtypeInfo(dtype).code, values.length)
  return out
}
