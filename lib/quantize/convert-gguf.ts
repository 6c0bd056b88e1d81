// A GGUF file as another: parts joined or divided with every byte as it was, or tensors in the types of a mixture.
import { resolve } from "node:path"
import { Gguf, type GgufEntry } from "../containers/gguf.ts"
import type { GgmlType, GgufMetadata } from "../containers/gguf-types.ts"
import { GgufWriter } from "../containers/gguf-writer.ts"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { sharedBytes } from "../core/tensor.ts"
import { GgufModel } from "../engine/gguf-model.ts"
import { decodeBlocks, encodeBlocks } from "../formats/gguf-blocks.ts"
import { type GgufPreset, ggufFileType, mixedType } from "../formats/gguf-mixes.ts"
import type { ModelProgram } from "../models/program.ts"
import { describeModel } from "../models/registry.ts"
import { native } from "../native.ts"
import { ConversionRefused, type ConversionReport, Losses, type Refusal } from "./conversion-report.ts"
import { type GgufTarget, mixModel } from "./convert-to-gguf.ts"
import { runTokens, spreadTokens } from "./verify.ts"

interface Planned {
  name: string
  shape: readonly number[]
  type: GgmlType
  entry: GgufEntry
}

/** See convertModel. Without a preset any architecture and any type is copied. */
export async function convertGguf(source: string, out: string, target: GgufTarget): Promise<ConversionReport> {
  const gguf = await Gguf.open(source)
  try {
    if (gguf.files.some(file => file.path === resolve(out)))
      throw new TsqError("ERR_OPTION", `source and output are the same file, ${out}; choose another output`)
    const planned = await plan(gguf, target)
    const writer = await GgufWriter.create(out, {
      metadata: metadataOf(gguf, target.preset),
      tensors: planned,
      ...(target.maxPartBytes !== undefined && { maxPartBytes: target.maxPartBytes }),
      force: target.force,
      signal: target.signal,
    })
    const losses = new Losses()
    try {
      for (const [done, tensor] of planned.entries()) {
        await writer.write(tensor.name, await bytesFor(gguf, tensor, losses, target.signal))
        target.report({ stage: "write", done: done + 1, total: planned.length, tensor: tensor.name })
      }
      const { totalBytes } = await writer.finish(paths => verify(paths, gguf, planned, target))
      const modules = planned.filter(({ entry }) => entry.type.blockSize > 1).length
      return { from: "gguf", to: "gguf", modules, totalBytes, ...losses.summary(), notes: [] }
    } finally {
      await writer.discard()
    }
  } finally {
    gguf.dispose()
  }
}

function metadataOf({ metadata }: Gguf, preset: GgufPreset | null): GgufMetadata {
  if (preset === null) return metadata
  return new Map([
    ...metadata,
    ["general.file_type", { type: "u32", value: ggufFileType(preset) }],
    ["general.quantization_version", { type: "u32", value: 2 }],
  ])
}

async function plan(gguf: Gguf, { preset, allowRequantize }: GgufTarget): Promise<Planned[]> {
  const entries = [...gguf.entries.values()]
  const asTheyAre = entries.map(entry => ({ name: entry.name, shape: entry.shape, type: entry.type, entry }))
  if (preset === null) return asTheyAre
  const program = await programOf(gguf)
  const refused: Refusal[] = []
  const planned = asTheyAre.map(tensor => {
    const { name, shape, entry } = tensor
    if (shape.length < 2) return tensor
    const { type } = mixedType(preset, mixModel(program), { name: name.replace(/\.weight$/, ""), k: shape.at(-1)! })
    const reason = !entry.type.decode
      ? `its values, ${entry.type.name}, are not read by this version`
      : entry.type.blockSize > 1 && !allowRequantize
        ? `it is ${entry.type.name}, and the preset makes ${type.name} of it`
        : null
    if (type !== entry.type && reason !== null) refused.push({ tensor: name, reason })
    return { ...tensor, type }
  })
  if (refused.length > 0)
    throw new ConversionRefused(
      "gguf",
      refused,
      entries.length,
      "allowRequantize rounds them again, and says what that costs",
    )
  return planned
}

/** ERR_UNSUPPORTED for a model whose layers are not known. */
async function programOf({ path }: Gguf): Promise<ModelProgram> {
  const model = await GgufModel.open(path)
  try {
    return describeModel(model.config)
  } finally {
    model.dispose()
  }
}

async function stored(gguf: Gguf, { name, bytes }: GgufEntry): Promise<Uint8Array> {
  const out = sharedBytes(bytes)
  const { mapping, offset } = gguf.mapped(name)
  if (bytes > 0) await native.readMappingAsync(mapping, offset, out)
  return out
}

async function bytesFor(
  gguf: Gguf,
  { name, shape, type, entry }: Planned,
  losses: Losses,
  signal: AbortSignal | undefined,
): Promise<ReturnType<Gguf["mapped"]> | Uint8Array> {
  throwIfAborted(signal)
  const line = { name, shape, from: entry.type.name, to: type.name }
  if (type === entry.type) {
    losses.keep(line)
    return gguf.mapped(name)
  }
  const values = await decodeBlocks(entry, gguf.mapped(name))
  const blocks = await encodeBlocks({ name, type, shape }, values, { signal })
  await losses.compare(line, values, await decodeBlocks({ name, type, shape }, blocks))
  return blocks
}

/** Copied tensors are the same bytes; a model that this version runs computes finite numbers. */
async function verify(
  paths: readonly string[],
  source: Gguf,
  planned: readonly Planned[],
  { preset, signal }: GgufTarget,
): Promise<void> {
  const found = await Gguf.openParts(paths)
  try {
    for (const { name, type, entry } of planned) {
      throwIfAborted(signal)
      const same = type === entry.type && found.entry(name).type === type
      if (same && Buffer.compare(await stored(found, found.entry(name)), await stored(source, entry)) !== 0)
        throw new TsqError(
          "ERR_CORRUPT",
          `${paths[0]}: tensor ${name} reads back with other bytes than were written; is the disk damaged?`,
        )
    }
  } finally {
    found.dispose()
  }
  if (preset === null) return
  const model = await GgufModel.of(await Gguf.openParts(paths))
  try {
    const program = describeModel(model.config)
    await runTokens(program, model.weights, spreadTokens(program.config.vocabularySize), signal)
  } finally {
    model.dispose()
  }
}
