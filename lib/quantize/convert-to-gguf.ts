// A checkpoint folder as a GGUF file: codes as the block type that holds them, floats as they are, or everything in a mixture.
import { basename, resolve } from "node:path"
import { Gguf } from "../containers/gguf.ts"
import { type GgmlType, ggmlTypeNamed } from "../containers/gguf-types.ts"
import { GgufWriter } from "../containers/gguf-writer.ts"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import type { ProgressStep } from "../core/progress.ts"
import { elementCount, sharedFloats } from "../core/tensor.ts"
import { GgufModel } from "../engine/gguf-model.ts"
import { bytesOf } from "../formats/arrays.ts"
import { decodeBlocks, encodeBlocks, matrixOfStack } from "../formats/gguf-blocks.ts"
import { type GgufPreset, ggufFileType, mixedType, staysFloat } from "../formats/gguf-mixes.ts"
import { blockTypeFor, writeBlockTensor } from "../formats/gguf-tensor.ts"
import { ggufOfConfig } from "../models/gguf-config-writer.ts"
import { fileOrder, GgufLayout, shifted } from "../models/gguf-layout.ts"
import { holdsExperts } from "../models/gguf-names.ts"
import { type ModelProgram, tensorsOf } from "../models/program.ts"
import { describeModel } from "../models/registry.ts"
import { ConversionRefused, type ConversionReport, expectSame, Losses, type Refusal } from "./conversion-report.ts"
import { type ConversionSource, inOrder, isPlainFloat, turned, type Weight } from "./conversion-source.ts"
import { describeTokenizer } from "./quantize-gguf.ts"
import { runTokens, spreadTokens } from "./verify.ts"

export interface GgufTarget {
  /** Types of a mixture; null: those that hold what is there. */
  preset: GgufPreset | null
  allowRequantize: boolean
  maxPartBytes: number | undefined
  force: boolean
  signal: AbortSignal | undefined
  report: (step: ProgressStep) => void
  warn: (message: string) => void
}

/** A tensor of the file. */
interface Planned {
  name: string
  shape: readonly number[]
  type: GgmlType
  /** What it holds, one matrix behind the other: of all experts, otherwise one; none where it is computed. */
  parts: Part[]
  computed?: Float32Array
}

/** A tensor of the checkpoint. */
interface Part {
  weight: Weight
  /** The checkpoint's row of each row of the file; null where they are the same. */
  order: Int32Array | null
  /** What the file has more in every element. */
  offset: number
  /** Codes or floats as they are; otherwise encoded from values. */
  exact: boolean
}

/** See convertModel. */
export async function convertToGguf(
  source: ConversionSource,
  out: string,
  target: GgufTarget,
): Promise<ConversionReport> {
  const { program, path } = source
  const { signal, report } = target
  const has = (tensor: string) => source.checkpoint?.has(tensor) ?? false
  // Refusals of the configuration come before those of tensors.
  ggufOfConfig(source.config, { name: "", fileType: 0, has })
  const planned = await plan(source, target)
  const { metadata, computed, notes } = ggufOfConfig(source.config, {
    name: basename(resolve(path)),
    fileType: target.preset ? ggufFileType(target.preset) : fileTypeOf(planned),
    has,
  })
  const tokenizer = await describeTokenizer(path, program)
  notes.push(...tokenizer.notes)
  for (const note of notes) target.warn(note)
  planned.unshift(...[...computed].map(([name, values]) => computedTensor(name, values)))
  const writer = await GgufWriter.create(out, {
    metadata: new Map([...metadata, ...tokenizer.metadata]),
    tensors: planned,
    ...(target.maxPartBytes !== undefined && { maxPartBytes: target.maxPartBytes }),
    force: target.force,
    signal,
  })
  const losses = new Losses()
  try {
    for (const [done, tensor] of planned.entries()) {
      throwIfAborted(signal)
      await writeTensor(writer, tensor, losses, signal)
      report({ stage: "write", done: done + 1, total: planned.length, tensor: tensor.name })
    }
    const { totalBytes } = await writer.finish(paths => verify(paths, planned, target))
    const modules = source.weights.filter(({ kind }) => kind === "quantized").length
    return { from: source.format, to: "gguf", modules, totalBytes, ...losses.summary(), notes }
  } finally {
    await writer.discard()
  }
}

/** In the order of llama.cpp's own files: embedding, blocks, the last norm, the head. */
async function plan(source: ConversionSource, target: GgufTarget): Promise<Planned[]> {
  const weights = new Map(
    source.weights.map(weight => [weight.kind === "dense" ? weight.name : `${weight.name}.weight`, weight]),
  )
  const planned = new Map<string, Planned>()
  const refused: Refusal[] = []
  const slots = tensorsOf(source.program)
  const layout = new GgufLayout(source.program.config)
  for (const [index, { name: hf, shape }] of slots.entries()) {
    throwIfAborted(target.signal)
    const expert = layout.names.expert(hf)
    const name = layout.names.tensor(hf)
    const stored = weights.get(hf)
    if (name === null) throw new TsqError("ERR_UNSUPPORTED", `convertModel: GGUF files have no tensor for ${hf}`)
    const known = planned.get(name)
    if (known && !expert) continue
    if (!stored) throw new TsqError("ERR_FORMAT", `${source.path}: tensor ${hf} is missing`)
    // Quantized weights are [n, k] whatever the dense ones are.
    const isTurned = stored.kind === "dense" && layout.isTransposed(name)
    checkShape(stored, hf, isTurned ? shape.toReversed() : shape)
    const weight = isTurned ? turned(stored) : stored
    const found = await typeOf(weight, name, source.program, target)
    const order = fileOrder(layout.rows(name), shape[0]!)
    if ("reason" in found) refused.push({ tensor: weight.name, reason: found.reason })
    else {
      const { type, exact } = found
      const whole = expert ? [source.program.config.experts!.count, ...shape] : shape
      const tensor: Planned = known ?? { name, shape: whole, type, parts: [] }
      const other = oneType(tensor, found)
      if (other) refused.push({ tensor: weight.name, reason: other })
      tensor.parts.push({ weight, order, offset: layout.offset(name), exact })
      planned.set(name, tensor)
    }
    target.report({ stage: "check", done: index + 1, total: slots.length, tensor: hf })
  }
  if (refused.length > 0)
    throw new ConversionRefused(
      "gguf",
      refused,
      source.weights.filter(({ kind }) => kind === "quantized").length,
      target.preset
        ? "allowRequantize rounds them again, and says what that costs"
        : "allowRequantize with a preset rounds them again, and says what that costs",
    )
  return [...planned.values()]
}

/** Experts share a tensor, and so a type: floats of several types are all F32. The reason why it cannot be. */
function oneType(tensor: Planned, { type }: { type: GgmlType }): string | null {
  if (type === tensor.type) return null
  if (type.blockSize > 1 || tensor.type.blockSize > 1)
    return `it would be ${type.name} beside experts that are ${tensor.type.name}, and one tensor holds them all`
  tensor.type = f32()
  return null
}

function checkShape(weight: Weight, name: string, shape: readonly number[]): void {
  if (weight.kind === "dense" && !isPlainFloat(weight))
    throw new TsqError("ERR_DTYPE", `tensor ${name} is ${weight.type}, expected F32, F16 or BF16`)
  if (weight.shape.length !== shape.length || weight.shape.some((size, i) => size !== shape[i]))
    throw new TsqError(
      "ERR_SHAPE",
      `${name} is [${weight.shape.join(", ")}], expected [${shape.join(", ")}] from config.json; the configuration belongs to another model`,
    )
}

const f32 = (): GgmlType => ggmlTypeNamed("F32") as GgmlType

async function typeOf(
  weight: Weight,
  name: string,
  program: ModelProgram,
  { preset, allowRequantize }: GgufTarget,
): Promise<{ type: GgmlType; exact: boolean } | { reason: string }> {
  // llama.cpp computes norms and biases in f32 only.
  if (weight.shape.length === 1 || (weight.kind === "dense" && staysFloat(name.replace(/\.weight$/, ""))))
    return { type: f32(), exact: true }
  const mixed = preset
    ? mixedType(preset, mixModel(program), { name: name.replace(/\.weight$/, ""), k: weight.shape[1]! }).type
    : null
  if (weight.kind === "dense") {
    const own = ggmlTypeNamed(weight.type) as GgmlType
    return mixed && mixed !== own ? { type: mixed, exact: false } : { type: own, exact: true }
  }
  const found = await blockTypeFor(await weight.read())
  if (mixed === null) return "reason" in found ? found : { type: found.type, exact: true }
  if ("type" in found && found.type === mixed) return { type: mixed, exact: true }
  if (allowRequantize) return { type: mixed, exact: false }
  return { reason: `it is ${weight.type}, and the preset makes ${mixed.name} of it` }
}

export const mixModel = ({ config: { layers, heads, kvHeads, tiedEmbeddings: tied, experts } }: ModelProgram) => ({
  experts: experts?.count ?? 0,
  layers,
  heads,
  kvHeads,
  tied,
})

const computedTensor = (name: string, values: Float32Array): Planned => ({
  ...{ name, shape: [values.length], type: f32(), parts: [], computed: values },
})

/** Values in the file's order. */
const valuesOf = async ({ weight, order, offset }: Part): Promise<Float32Array> =>
  shifted(inOrder(await weight.values(), order), offset)

async function writeTensor(
  writer: GgufWriter,
  { name, type, parts, computed }: Planned,
  losses: Losses,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (computed) {
    const values = sharedFloats(computed.length)
    values.set(computed)
    await writer.write(name, bytesOf(values))
  }
  for (const part of parts) {
    throwIfAborted(signal)
    await writer.write(name, await blocksOf(part, type, losses, signal))
  }
}

async function blocksOf(
  part: Part,
  type: GgmlType,
  losses: Losses,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const { weight, order, offset, exact } = part
  const { name, shape } = weight
  const entry = { name, shape, from: weight.type, to: type.name }
  if (exact) {
    losses.keep(entry)
    if (weight.kind === "quantized") return writeBlockTensor(name, await weight.read(), type, order)
    if (weight.type === type.name && offset === 0) return inOrder(await weight.stored(), order)
    return bytesOf(await valuesOf(part))
  }
  const values = await valuesOf(part)
  const tensor = { name, type, shape }
  const blocks = await encodeBlocks(tensor, values, { signal })
  await losses.compare(entry, values, await decodeBlocks(tensor, blocks))
  return blocks
}

/** Reads the file back, compares what should be the same, and runs the model. */
async function verify(paths: readonly string[], planned: readonly Planned[], { signal }: GgufTarget): Promise<void> {
  const model = await GgufModel.of(await Gguf.openParts(paths))
  try {
    for (const { name, parts } of planned)
      for (const [index, part] of parts.entries()) {
        throwIfAborted(signal)
        if (!part.exact) continue
        const [entry, mapped] = [model.gguf.entry(name), model.gguf.mapped(name)]
        const one = parts.length > 1 || holdsExperts(name) ? matrixOfStack(entry, mapped, index) : null
        const found = await decodeBlocks(one?.tensor ?? entry, one?.source ?? mapped)
        await expectSame(`${paths[0]}: tensor ${name}`, await valuesOf(part), found)
      }
    const program = describeModel(model.config)
    await runTokens(program, model.weights, spreadTokens(program.config.vocabularySize), signal)
  } finally {
    model.dispose()
  }
}

/** general.file_type by the type that most elements of matrices have. Source: llama.cpp, include/llama.h, llama_ftype. */
const fileTypes: ReadonlyMap<string, number> = new Map([
  ...([
    ["F32", 0],
    ["F16", 1],
    ["Q4_0", 2],
    ["Q4_1", 3],
    ["Q8_0", 7],
    ["Q5_0", 8],
    ["Q5_1", 9],
    ["Q2_K", 10],
  ] as const),
  ...([
    ["Q3_K", 12],
    ["Q4_K", 15],
    ["Q5_K", 17],
    ["Q6_K", 18],
    ["IQ4_NL", 25],
    ["IQ4_XS", 30],
    ["BF16", 32],
  ] as const),
  ...([
    ["TQ1_0", 36],
    ["TQ2_0", 37],
    ["MXFP4", 38],
  ] as const),
])

export function fileTypeOf(tensors: readonly { name: string; shape: readonly number[]; type: GgmlType }[]): number {
  const sizes = new Map<string, number>()
  for (const { name, shape, type } of tensors)
    if (shape.length > 1) sizes.set(type.name, (sizes.get(type.name) ?? 0) + elementCount(shape, name))
  const [most] = [...sizes].sort(([, a], [, b]) => b - a)[0] ?? ["F32"]
  return fileTypes.get(most) ?? 1
}
