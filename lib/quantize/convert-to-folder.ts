// A checkpoint or a GGUF file as a Hugging Face folder: quantized in a format, or dense.

import { Checkpoint } from "../containers/checkpoint.ts"
import { editJson } from "../containers/json.ts"
import { OutputDirectory } from "../containers/output.ts"
import { type Dtype, dtypeInfo } from "../core/dtype.ts"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import type { ProgressStep } from "../core/progress.ts"
import type { QuantizedTensor } from "../core/quantized-tensor.ts"
import { sharedArray, sharedFloats } from "../core/tensor.ts"
import { packageVersion } from "../core/version.ts"
import { bytesOf, encodeScales, scaleNames } from "../formats/arrays.ts"
import {
  type CheckpointFormat,
  type GptqVersion,
  type NamedTensor,
  traitsOf,
  type WriteOptions,
} from "../formats/format.ts"
import { dequantizeAsync } from "../kernels/dequantize.ts"
import { configText, folderOfGguf } from "../models/gguf-folder.ts"
import { transposedBytes } from "../models/transposed.ts"
import { native } from "../native.ts"
import { ConversionRefused, type ConversionReport, Losses, type Refusal } from "./conversion-report.ts"
import type { ConversionSource, DenseWeight, QuantizedWeight, Weight } from "./conversion-source.ts"
import { schemeText } from "./inspect-model.ts"
import { linearsOf } from "./linears.ts"
import { scaleTypeOf } from "./plan.ts"
import { newScheme, type Requantization, roundAgain } from "./requantize.ts"
import { checkOrientation, transposedModules } from "./transposed.ts"
import { smokeTest, spreadTokens, verifyModules } from "./verify.ts"
import { type DenseSource, fromCheckpoint, writeCheckpoint } from "./write-checkpoint.ts"

type FloatType = "f32" | "f16" | "bf16"

export interface FolderTarget {
  /** null: dense. */
  format: CheckpointFormat | null
  /** Of what becomes dense. */
  dtype: FloatType | null
  gptqVersion: GptqVersion
  /** How to round what the format does not hold; null: refuse it. */
  requantization: Requantization | null
  force: boolean
  signal: AbortSignal | undefined
  report: (step: ProgressStep) => void
}

/** What becomes of a quantized module: its codes, other codes, or floats. */
interface Fate {
  how: "exact" | "again" | "dense"
  hasGroupIndex: boolean
  scheme: QuantizedTensor["scheme"]
  /** What the format writes of it, where that is known already. */
  layout?: Layout[]
}
type Layout = Omit<NamedTensor, "data">

/** See convertModel. */
export async function convertToFolder(
  source: ConversionSource,
  out: string,
  target: FolderTarget,
): Promise<ConversionReport> {
  const modules = source.weights.filter(weight => weight.kind === "quantized")
  if (modules.length > 0 && target.format && target.format.name !== "gptq")
    checkOrientation(source.program, "convertModel")
  const options = optionsOf(source, target)
  const fates = await decide(modules, target, options)
  const dtype = target.dtype ?? floatTypeOf(source, target)
  const output = await OutputDirectory.create(out, { source: source.path, force: target.force })
  try {
    const losses = new Losses()
    const writing = new Writing(source, target, fates, dtype, losses)
    const totalBytes = await writing.write(output.path)
    await writing.verify(output.path)
    await smokeTest(output.path, spreadTokens(source.program.config.vocabularySize), target.signal)
    await output.commit()
    const [from, to] = [source.format, target.format?.name ?? "dense"]
    return { from, to, modules: modules.length, totalBytes, ...losses.summary(), notes: [] }
  } catch (error) {
    await output.discard()
    throw error
  }
}

const optionsOf = ({ program }: ConversionSource, { format, gptqVersion }: FolderTarget): WriteOptions => ({
  scaleType: format ? scaleTypeOf(format.name, program) : "f32",
  gptqVersion,
})

/** What a format makes of a tensor, or why it cannot hold it. What refuses() cannot see, writing says. */
async function tried(
  { format, gptqVersion }: FolderTarget,
  module: string,
  tensor: QuantizedTensor,
  options: WriteOptions,
): Promise<Layout[] | string> {
  const reason = format!.refuses(module, tensor.shape, tensor.scheme, traitsOf(tensor, gptqVersion))
  if (reason) return reason
  try {
    const written = await format!.write(module, tensor, options)
    return written.map(({ name, dtype, shape }) => ({ name, dtype, shape }))
  } catch (error) {
    if (!(error instanceof TsqError) || error.code !== "ERR_UNSUPPORTED") throw error
    return error.message.startsWith(`${module}: `) ? error.message.slice(module.length + 2) : error.message
  }
}

async function decide(
  modules: readonly QuantizedWeight[],
  target: FolderTarget,
  options: WriteOptions,
): Promise<Map<string, Fate>> {
  const { format, requantization, report, signal } = target
  const fates = new Map<string, Fate>()
  const refused: Refusal[] = []
  for (const [index, module] of modules.entries()) {
    throwIfAborted(signal)
    const tensor = await module.read()
    const { name, shape } = module
    const found = format ? await tried(target, name, tensor, options) : []
    const exact: Fate = { how: "exact", scheme: tensor.scheme, hasGroupIndex: tensor.groupIndex !== null }
    if (!format) fates.set(name, { ...exact, how: "dense" })
    else if (typeof found !== "string") fates.set(name, { ...exact, layout: found })
    else if (requantization) {
      const scheme = newScheme(requantization, shape[1])
      const still = format.refuses(name, shape, scheme, { gptqVersion: target.gptqVersion })
      fates.set(name, { how: still === null ? "again" : "dense", scheme, hasGroupIndex: false })
    } else refused.push({ tensor: name, reason: found })
    report({ stage: "check", done: index + 1, total: modules.length, tensor: name })
  }
  if (refused.length > 0)
    throw new ConversionRefused(
      format!.name,
      refused,
      modules.length,
      "allowRequantize rounds them again, and says what that costs",
    )
  return fates
}

/** What the configuration says the model computes in. */
function floatTypeOf({ weights, program, checkpoint, format }: ConversionSource, target: FolderTarget): FloatType {
  if (!target.format && format !== "dense") return "f32"
  if (checkpoint) return typeNamed(program.config.torchDtype)
  const has = (dtype: Dtype) =>
    weights.some(
      ({ kind, shape, ...rest }) => kind === "dense" && shape.length === 2 && (rest as DenseWeight).dtype === dtype,
    )
  return has("bf16") ? "bf16" : has("f16") ? "f16" : typeNamed(program.config.torchDtype)
}

const typeNamed = (torch: string): FloatType => (torch === "bfloat16" ? "bf16" : torch === "float16" ? "f16" : "f32")
const torchNames = { f32: "float32", f16: "float16", bf16: "bfloat16" } as const

class Writing {
  readonly source: ConversionSource
  readonly target: FolderTarget
  readonly fates: ReadonlyMap<string, Fate>
  readonly dtype: FloatType
  readonly losses: Losses
  readonly #byName: ReadonlyMap<string, Weight>
  readonly #compared = new Set<string>()
  readonly #transposed: ReadonlyMap<string, unknown>

  constructor(
    source: ConversionSource,
    target: FolderTarget,
    fates: ReadonlyMap<string, Fate>,
    dtype: FloatType,
    losses: Losses,
  ) {
    this.source = source
    this.target = target
    this.fates = fates
    this.dtype = dtype
    this.losses = losses
    this.#transposed = transposedModules(source.program)
    this.#byName = new Map(source.weights.map(weight => [weight.name, weight]))
  }

  async write(directory: string): Promise<number> {
    const { source, target, fates } = this
    const { format, signal, report } = target
    const { program } = source
    const quantized = [...fates].filter(([, { how }]) => how !== "dense")
    const linears = program.blocks.flatMap((_, layer) =>
      linearsOf(program, layer).map(slot => program.blockPrefix(layer) + slot.module),
    )
    const folder = this.#folder()
    const layout = await this.#layout()
    const { totalBytes } = await writeCheckpoint(directory, {
      source: folder.source,
      format,
      summary: {
        modules: new Map(quantized.map(([name, { scheme, hasGroupIndex }]) => [name, { ...scheme, hasGroupIndex }])),
        unquantized: [...new Set([...linears, program.head])].filter(
          module => (fates.get(module)?.how ?? "dense") === "dense" && module !== program.embedding,
        ),
        damp: null,
        version: packageVersion,
        carried: source.carried,
      },
      options: optionsOf(source, target),
      ...(layout && { tensors: layout }),
      tensor: module => this.#tensor(module),
      moduleAt: name => (quantizedFate(fates.get(name)) ? name : null),
      omitted: new Set(),
      files: () => folder.files,
      signal,
      onTensor: (tensor, done, total) => report({ stage: "write", done, total, tensor }),
    })
    return totalBytes
  }

  /** Reads the checkpoint back: quantized modules are the same codes, and dense ones the same floats. */
  async verify(directory: string): Promise<void> {
    const { fates, target } = this
    const { format, signal } = target
    const quantized = [...fates].filter(([, fate]) => quantizedFate(fate)).map(([name]) => name)
    if (format) await verifyModules(directory, format.name, quantized, module => this.#tensor(module), signal)
    const checkpoint = await Checkpoint.open(directory)
    try {
      for (const weight of this.source.weights) {
        throwIfAborted(signal)
        if (weight.kind === "quantized" && quantizedFate(fates.get(weight.name))) continue
        const name = weight.kind === "quantized" ? `${weight.name}.weight` : weight.name
        const { data } = weight.kind === "quantized" ? await this.#floats(weight) : await this.#denseBytes(weight)
        const found = await checkpoint.readBytes(name)
        if (Buffer.compare(found, data as Uint8Array) !== 0)
          throw new TsqError(
            "ERR_CORRUPT",
            `${directory}: ${name} reads back with other bytes than were written; is the disk damaged?`,
          )
      }
    } finally {
      checkpoint.dispose()
    }
  }

  /** Every tensor of the output, in order; null where that shows only when codes are rounded again. */
  async #layout(): Promise<Layout[] | null> {
    const tensors: Layout[] = []
    for (const weight of this.source.weights) {
      const fate = this.fates.get(weight.name)
      if (quantizedFate(fate) && !fate!.layout) return null
      if (quantizedFate(fate)) tensors.push(...fate!.layout!)
      else if (weight.kind === "quantized")
        tensors.push({ name: `${weight.name}.weight`, dtype: scaleNames[this.dtype], shape: this.#denseShape(weight) })
      else if (this.source.checkpoint) tensors.push({ name: weight.name, dtype: weight.type, shape: weight.shape })
      else {
        const { name, dtype, shape } = await this.#denseBytes(weight)
        tensors.push({ name, dtype, shape })
      }
    }
    return tensors
  }

  #folder(): { source: DenseSource; files: Record<string, unknown> } {
    const { source, target, dtype } = this
    const names = source.weights.map(({ name }) => name)
    const dense = (name: string) => this.#dense(name)
    const { checkpoint, gguf } = source
    if (checkpoint) {
      const base = fromCheckpoint(checkpoint)
      if (target.format || source.format === "dense") return { source: { ...base, names, dense }, files: {} }
      const config = withTorchDtype(base.configText, checkpoint.config, torchNames[dtype])
      return { source: { ...base, configText: config, names, dense }, files: {} }
    }
    const { config, files } = folderOfGguf(gguf!.metadata, source.config, source.path)
    const text = configText({ ...config, torch_dtype: torchNames[dtype] })
    return { source: { configText: text, names, dense, companions: new Map() }, files }
  }

  async #tensor(name: string): Promise<QuantizedTensor> {
    const weight = this.#byName.get(name) as QuantizedWeight
    const { type, shape } = weight
    const fate = this.fates.get(name)!
    const first = !this.#compared.has(name)
    this.#compared.add(name)
    if (fate.how === "exact") {
      if (first) this.losses.keep({ name, shape, from: type, to: schemeText(fate.scheme) })
      return weight.read()
    }
    const values = await weight.values()
    const tensor = await roundAgain(name, values, shape, this.target.requantization!, this.target.signal)
    if (first)
      await this.losses.compare(
        { name, shape, from: type, to: schemeText(tensor.scheme) },
        values,
        await dequantizeAsync(tensor),
      )
    return tensor
  }

  async #dense(name: string): Promise<NamedTensor> {
    const weight = this.#byName.get(name)!
    if (weight.kind === "dense") {
      const tensor = await this.#denseBytes(weight)
      this.losses.keep({ name, shape: weight.shape, from: weight.type, to: tensor.dtype })
      return tensor
    }
    const { data, back, values } = await this.#floats(weight)
    const { shape, type } = weight
    await this.losses.compare({ name, shape, from: type, to: scaleNames[this.dtype] }, values, back)
    return { name: `${name}.weight`, dtype: scaleNames[this.dtype], shape: this.#denseShape(weight), data }
  }

  /** Of what becomes a dense tensor: some are stored [k, n]. */
  #denseShape({ name, shape }: QuantizedWeight): readonly number[] {
    return this.#transposed.has(name) ? shape.toReversed() : shape
  }

  async #inPlace({ name, shape: [n, k] }: QuantizedWeight, data: Uint8Array): Promise<Uint8Array> {
    return this.#transposed.has(name) ? transposedBytes(data, n, k, this.dtype) : data
  }

  /** A checkpoint's tensors stay as they are; those of a GGUF file, which has vectors in f32, take the model's type where it holds them. */
  async #denseBytes(weight: DenseWeight): Promise<NamedTensor> {
    const { name, shape, type } = weight
    if (this.source.checkpoint) return { name, shape, dtype: type, data: await weight.stored() }
    const encoded = weight.dtype === "f32" ? await encodeScales(await weight.values(), [this.dtype]) : null
    return {
      name,
      shape,
      ...(encoded ?? { dtype: scaleNames[weight.dtype as FloatType], data: await weight.stored() }),
    }
  }

  async #floats(weight: QuantizedWeight): Promise<{ data: Uint8Array; back: Float32Array; values: Float32Array }> {
    const values = await weight.values()
    if (this.dtype === "f32") return { data: await this.#inPlace(weight, bytesOf(values)), back: values, values }
    const { f32 } = { f32: dtypeInfo("f32").code }
    const { code } = dtypeInfo(this.dtype)
    const rounded = sharedArray(this.dtype, values.length)
    const back = sharedFloats(values.length)
    await native.convertAsync(values, f32, rounded, code, values.length)
    await native.convertAsync(rounded, code, back, f32, values.length)
    const [, , peak, bad] = await native.scan(back, f32, back.length)
    if (bad! >= 0)
      throw new TsqError(
        "ERR_NUMERIC",
        `${weight.name}: as ${scaleNames[this.dtype]} it would not be finite (largest ${peak}); use dtype "bf16" or "f32"`,
      )
    return { data: await this.#inPlace(weight, bytesOf(rounded)), back, values }
  }
}

const quantizedFate = (fate: Fate | undefined): boolean => fate !== undefined && fate.how !== "dense"

/** Under the name that the file has for it. */
function withTorchDtype(text: string, config: Record<string, unknown>, dtype: string): string {
  return editJson(text, { [config.dtype === undefined ? "torch_dtype" : "dtype"]: dtype })
}
