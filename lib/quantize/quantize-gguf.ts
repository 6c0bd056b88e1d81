// A Hugging Face checkpoint as a GGUF file in one of llama-quantize's mixtures, tensor by tensor.
import { basename, resolve } from "node:path"
import { Checkpoint } from "../containers/checkpoint.ts"
import { ggmlTypeNamed } from "../containers/gguf-types.ts"
import { GgufWriter } from "../containers/gguf-writer.ts"
import { isFloat } from "../core/dtype.ts"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { progressReporter } from "../core/progress.ts"
import { elementCount, sharedFloats } from "../core/tensor.ts"
import { encodeBlocks } from "../formats/gguf-blocks.ts"
import { type GgufPreset, ggufFileType, mixedType } from "../formats/gguf-mixes.ts"
import { readChatTemplates } from "../models/chat-template.ts"
import { readOptionalObject } from "../models/companion-files.ts"
import { readGenerationDefaults } from "../models/generation-config.ts"
import { ggufOfConfig } from "../models/gguf-config-writer.ts"
import { GgufLayout } from "../models/gguf-layout.ts"
import { ggufOfTokenizer } from "../models/gguf-tokenizer-writer.ts"
import { type ModelProgram, tensorsOf } from "../models/program.ts"
import { describeModel } from "../models/registry.ts"
import type { GptqReport } from "../native.ts"
import { Adapters } from "./adapters.ts"
import { GgufGptq } from "./gguf-gptq.ts"
import { Weighing } from "./gguf-importance.ts"
import { type GgufOptions, type GgufRecipe, makeGgufRecipe } from "./gguf-recipe.ts"
import { type PlannedTensor, readRows } from "./gguf-rows.ts"
import type { RoundingName } from "./recipe.ts"

export type { GgufOptions } from "./gguf-recipe.ts"

export interface GgufTensorReport {
  name: string
  shape: readonly number[]
  type: string
  bytes: number
  /** The mixture's type, where rows do not fill its blocks. */
  instead: string | null
  /** gptq: mean squared output error, summed over outputs, and that of the blocks without error feedback. */
  error?: number
  nearestError?: number
}

export interface GgufReport {
  format: "gguf"
  preset: GgufPreset
  rounding: RoundingName
  architecture: string
  /** Of the matrices of the blocks, and of all tensors. */
  bitsPerWeight: number
  fileBitsPerWeight: number
  sourceBytes: number
  outputBytes: number
  tensors: GgufTensorReport[]
  /** What a GGUF file cannot say. */
  notes: string[]
}

/** f32 numbers that are converted at a time. */
const chunkElements = 16 << 20

/**
 * Writes the checkpoint in folder `source` to the file `out`, which appears when it is complete: blocks as llama-quantize makes them, with
 * errors weighed by an importance matrix or by calibration where there is one, vectors in f32. ERR_OPTION and ERR_UNSUPPORTED for options, models and tokenizers that GGUF cannot hold, with the reason;
 * ERR_NUMERIC for weights that are no finite numbers, or too large for their type.
 */
export async function quantizeToGguf(source: string, out: string, values: GgufOptions): Promise<GgufReport> {
  const recipe = makeGgufRecipe(values, out)
  const { preset, force } = recipe
  const { signal, onWarning } = values
  const report = progressReporter(values.onProgress)
  throwIfAborted(signal)
  const checkpoint = await Checkpoint.open(source)
  let adapters: Adapters | null = null
  try {
    if (checkpoint.quantizationConfig)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${source}: this checkpoint is quantized already (${String(checkpoint.quantizationConfig.quant_method ?? "unknown method")}); make the GGUF file of the original`,
      )
    const program = describeModel(checkpoint.config, name => checkpoint.has(name))
    if (recipe.rounding === "gptq" && program.config.experts)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `quantizeModel: rounding "gptq" for GGUF files does not know mixtures of experts (${program.config.architecture}) in this version; leave rounding out, and errors are weighed by calibration`,
      )
    adapters = await Adapters.open(recipe.adapters, checkpoint, onWarning ?? (() => {}))
    const { metadata, computed, notes } = ggufOfConfig(checkpoint.config, {
      name: basename(resolve(source)),
      fileType: ggufFileType(preset),
      has: name => checkpoint.has(name),
    })
    const tokenizer = await describeTokenizer(source, program)
    notes.push(...tokenizer.notes)
    const weighing = await Weighing.prepare(recipe, source, program)
    const layout = new GgufLayout(program.config)
    const tensors = planTensors(checkpoint, program, preset, weighing.weighs, layout, computed)
    for (const note of notes) onWarning?.(note)
    warnOfFallbacks(tensors, onWarning)
    weighing.check(preset, tensors)
    const writer = await GgufWriter.create(out, {
      metadata: new Map([...metadata, ...tokenizer.metadata, ...weighing.metadata]),
      tensors,
      force,
      signal,
    })
    let gptq: GgufGptq | null = null
    let done = 0
    const progress = (tensor: string, detail?: string) =>
      report({ stage: "quantize", done, total: tensors.length, tensor, ...(detail !== undefined && { detail }) })
    try {
      const warn = onWarning ?? (() => {})
      await adapters.merge(out, signal, (done, total, tensor) => report({ stage: "merge", done, total, tensor }))
      const importance = await weighing.importance(checkpoint, tensors, { signal, report, warn })
      if (recipe.rounding === "gptq") {
        const input = { checkpoint, program, tensors, importance, set: weighing.set!, options: recipe.gptq }
        gptq = await GgufGptq.start({ ...input, signal, warn, onTensor: progress })
      }
      const context = { writer, checkpoint, importance, signal }
      for (const tensor of tensors) {
        const rounded = (await gptq?.take(tensor)) ?? null
        if (rounded) await writer.write(tensor.name, rounded)
        else await writeTensor(context, tensor)
        done++
        progress(tensor.source || tensor.name)
      }
      const { totalBytes } = await writer.finish()
      return makeReport(recipe, layout.architecture, checkpoint, tensors, gptq, totalBytes, notes)
    } finally {
      gptq?.dispose()
      await writer.discard()
    }
  } finally {
    checkpoint.dispose()
    await adapters?.dispose()
  }
}

export async function describeTokenizer(
  source: string,
  { config }: ModelProgram,
): Promise<ReturnType<typeof ggufOfTokenizer>> {
  const json = await readOptionalObject(source, "tokenizer.json")
  if (!json)
    throw new TsqError("ERR_FORMAT", `${source} has no tokenizer.json, and a GGUF file needs the model's tokenizer`)
  const settings = (await readOptionalObject(source, "tokenizer_config.json")) ?? {}
  const { eosTokenIds } = await readGenerationDefaults(source)
  return ggufOfTokenizer(json, settings, {
    vocabularySize: config.vocabularySize,
    name: basename(resolve(source)),
    templates: await readChatTemplates(source, settings),
    bosTokenIds: config.bosTokenIds,
    eosTokenIds: [...new Set([...config.eosTokenIds, ...eosTokenIds])],
  })
}

/** In the order of llama.cpp's own files: embedding, blocks, the last norm, the head. */
function planTensors(
  checkpoint: Checkpoint,
  program: ModelProgram,
  preset: GgufPreset,
  importance: boolean,
  layout: GgufLayout,
  computed: ReadonlyMap<string, Float32Array>,
): PlannedTensor[] {
  const { layers, heads, kvHeads, tiedEmbeddings: tied, experts } = program.config
  const model = { layers, heads, kvHeads, tied, importance, experts: experts?.count ?? 0 }
  const f32 = ggmlTypeNamed("F32")!
  const planned = new Map<string, PlannedTensor>()
  for (const [name, values] of computed)
    planned.set(name, {
      ...{ name, type: f32, shape: [values.length], source: "", computed: values, ...plain },
      instead: null,
    })
  const mixed = (name: string, k: number) => mixedType(preset, model, { name: name.replace(/\.weight$/, ""), k })
  const addExpert = (hf: string, { name }: { name: string }, [n, k]: readonly [number, number]) => {
    checkEntry(checkpoint, hf, [n, k])
    const known = planned.get(name)
    if (known) return void (known.experts as string[]).push(hf)
    const { type, instead } = mixed(name, k)
    const stored = { source: hf, ...plain, experts: [hf] }
    planned.set(name, { name, type, shape: [experts!.count, n, k], ...stored, instead: instead?.name ?? null })
  }
  for (const { name: hf, shape } of tensorsOf(program)) {
    const expert = layout.names.expert(hf)
    const name = layout.names.gguf(hf)
    if (expert) addExpert(hf, expert, shape as [number, number])
    else if (name === null) throw new TsqError("ERR_UNSUPPORTED", `quantizeModel: GGUF files have no tensor for ${hf}`)
    else if (!planned.has(name)) {
      const transposed = layout.isTransposed(name)
      checkEntry(checkpoint, hf, transposed ? shape.toReversed() : shape)
      const { type, instead } = shape.length === 1 ? { type: f32, instead: null } : mixed(name, shape[1]!)
      const stored = { source: hf, rows: layout.rows(name), transposed, offset: layout.offset(name) }
      planned.set(name, { name, type, shape, ...stored, instead: instead?.name ?? null })
    }
  }
  return [...planned.values()]
}

/** As the checkpoint has it. */
const plain = { rows: null, transposed: false, offset: 0 } as const

function checkEntry(checkpoint: Checkpoint, name: string, shape: readonly number[]): void {
  const entry = checkpoint.entry(name)
  if (!isFloat(checkpoint.tensor(name).dtype))
    throw new TsqError(
      "ERR_DTYPE",
      `${checkpoint.directory}: tensor ${name} is ${entry.dtype}, expected F32, F16 or BF16`,
    )
  if (entry.shape.length !== shape.length || entry.shape.some((size, i) => size !== shape[i]))
    throw new TsqError(
      "ERR_SHAPE",
      `${name} is [${entry.shape.join(", ")}], expected [${shape.join(", ")}] from config.json; the configuration belongs to another model`,
    )
}

function warnOfFallbacks(tensors: readonly PlannedTensor[], warn: GgufOptions["onWarning"]): void {
  const other = tensors.filter(({ instead }) => instead !== null)
  const first = other[0]
  if (!first) return
  warn?.(
    `rows of ${first.shape[1]} columns (${first.source}${other.length > 1 ? ` and ${other.length - 1} more tensors` : ""}) do not fill blocks of ${first.instead}: as in llama-quantize they become ${first.type.name}`,
  )
}

/** What writeTensor works with. */
interface Writing {
  writer: GgufWriter
  checkpoint: Checkpoint
  /** Weights of columns' errors, by tensor. */
  importance: ReadonlyMap<string, Float32Array>
  signal: AbortSignal | undefined
}

/** In pieces of whole rows. Rows that change places do so by heads. */
async function writeTensor(context: Writing, tensor: PlannedTensor): Promise<void> {
  const { writer, checkpoint, signal } = context
  const { name, type, shape, source, computed, rows: order } = tensor
  const importance = context.importance.get(name) ?? null
  const write = async (piece: readonly number[], data: Float32Array) =>
    writer.write(name, await encodeBlocks({ name: source || name, type, shape: piece }, data, { importance, signal }))
  if (computed) {
    const values = sharedFloats(computed.length)
    values.set(computed)
    return write(shape, values)
  }
  if (tensor.experts) {
    const [, n = 0, k = 0] = shape
    for (const [expert, own] of tensor.experts.entries()) {
      throwIfAborted(signal)
      const values = await readRows(checkpoint, { ...tensor, source: own }, [0, n, k])
      const weights = importance?.subarray(expert * k, (expert + 1) * k) ?? null
      const blocks = await encodeBlocks({ name: own, type, shape: [n, k] }, values, { importance: weights, signal })
      await writer.write(name, blocks)
    }
    return
  }
  const vector = shape.length === 1
  const [n, k] = vector ? [order ? shape[0]! : 1, order ? 1 : shape[0]!] : [shape[0]!, shape[1]!]
  const step = order?.head ?? 1
  const rows = Math.max(step, Math.floor(chunkElements / k / step) * step)
  for (let begin = 0; begin < n; begin += rows) {
    throwIfAborted(signal)
    const count = Math.min(rows, n - begin)
    await write(vector ? [count * k] : [count, k], await readRows(checkpoint, tensor, [begin, count, k]))
  }
}

const errorsOf = (report: GptqReport | undefined) =>
  report && { error: report.error, nearestError: report.nearestError }

function makeReport(
  { preset, rounding }: GgufRecipe,
  architecture: string,
  checkpoint: Checkpoint,
  planned: readonly PlannedTensor[],
  gptq: GgufGptq | null,
  outputBytes: number,
  notes: string[],
): GgufReport {
  const tensors = planned.map(({ name, shape, type, instead }) => {
    const bytes = (elementCount(shape, name) / type.blockSize) * type.blockBytes
    return { name, shape, type: type.name, bytes, instead, ...errorsOf(gptq?.reports.get(name)) }
  })
  const bitsOf = (of: typeof tensors) =>
    (8 * of.reduce((sum, { bytes }) => sum + bytes, 0)) /
    of.reduce((sum, { shape, name }) => sum + elementCount(shape, name), 0)
  return {
    format: "gguf",
    preset,
    rounding,
    architecture,
    bitsPerWeight: bitsOf(tensors.filter(({ name, shape }) => shape.length > 1 && name.startsWith("blk."))),
    fileBitsPerWeight: bitsOf(tensors),
    sourceBytes: checkpoint.names.reduce((sum, name) => sum + checkpoint.entry(name).bytes, 0),
    outputBytes,
    tensors,
    notes,
  }
}
