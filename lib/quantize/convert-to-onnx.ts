// The quantized layers of a model as an ONNX model of MatMulNBits operators, a node each, under their modules' names.
import { rm } from "node:fs/promises"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import type { ProgressStep } from "../core/progress.ts"
import { traitsOf } from "../formats/format.ts"
import { OnnxReader, writeOnnxLinears } from "../formats/onnx.ts"
import { type OnnxLinear, type OnnxLinearPlan, refusesOnnx } from "../formats/onnx-linear.ts"
import { dequantizeAsync } from "../kernels/dequantize.ts"
import { ConversionRefused, type ConversionReport, expectSame, Losses, type Refusal } from "./conversion-report.ts"
import type { ConversionSource, DenseWeight, QuantizedWeight } from "./conversion-source.ts"

export interface OnnxTarget {
  force: boolean
  signal: AbortSignal | undefined
  report: (step: ProgressStep) => void
  warn: (message: string) => void
}

/** See convertModel. What is no quantized layer has no place in the file. */
export async function convertToOnnx(
  source: ConversionSource,
  out: string,
  { force, signal, report, warn }: OnnxTarget,
): Promise<ConversionReport> {
  const layers = source.weights.filter(weight => weight.kind === "quantized")
  const biases = new Map(
    source.weights
      .filter(weight => weight.kind === "dense")
      .map((weight): [string, DenseWeight] => [weight.name, weight]),
  )
  const plans = await plan(layers, biases, signal, report)
  const losses = new Losses()
  const byName = new Map(layers.map((layer): [string, QuantizedWeight] => [layer.name, layer]))
  let done = 0
  const load = async (name: string): Promise<OnnxLinear> => {
    throwIfAborted(signal)
    const { shape, type, read } = byName.get(name)!
    report({ stage: "write", done: ++done, total: plans.length, tensor: name })
    losses.keep({ name, shape, from: type, to: "MatMulNBits" })
    return { weight: await read(), bias: (await biases.get(`${name}.bias`)?.values()) ?? null }
  }
  const { files, totalBytes } = await writeOnnxLinears(out, plans, load, { force, ...(signal && { signal }) })
  try {
    await verify(out, layers, signal)
  } catch (error) {
    for (const file of files) await rm(file, { force: true })
    throw error
  }
  const left = source.weights.filter(({ kind, name }) => kind === "dense" && !isBias(name, byName)).length
  const note = `${left} tensors that are no quantized layer (embeddings, norms, dense layers) are left out: the file holds operators, not the model's graph`
  if (left > 0) warn(note)
  return {
    ...{ from: source.format, to: "onnx", modules: layers.length, totalBytes },
    ...losses.summary(),
    notes: left > 0 ? [note] : [],
  }
}

const isBias = (name: string, modules: ReadonlyMap<string, unknown>): boolean =>
  name.endsWith(".bias") && modules.has(name.slice(0, -".bias".length))

async function plan(
  layers: readonly QuantizedWeight[],
  biases: ReadonlyMap<string, unknown>,
  signal: AbortSignal | undefined,
  report: OnnxTarget["report"],
): Promise<OnnxLinearPlan[]> {
  const refused: Refusal[] = []
  const plans: OnnxLinearPlan[] = []
  for (const [index, { name, shape, read }] of layers.entries()) {
    throwIfAborted(signal)
    const tensor = await read()
    const { scheme, groupIndex, offsets } = tensor
    const reason =
      refusesOnnx(shape, scheme, traitsOf(tensor)) ??
      (offsets && "MatMulNBits has zero points where the tensor has minima, which would be rounded")
    if (reason) refused.push({ tensor: name, reason })
    const bias = biases.has(`${name}.bias`)
    plans.push({ name, shape, scheme, groupIndex: groupIndex !== null, offsets: false, bias })
    report({ stage: "check", done: index + 1, total: layers.length, tensor: name })
  }
  if (refused.length > 0)
    throw new ConversionRefused(
      "onnx",
      refused,
      layers.length,
      "convert to a checkpoint that it holds first: 4 bits in groups of 32, with allowRequantize",
    )
  return plans
}

/** ERR_CORRUPT, naming the layer, where the file reads back with other values. */
async function verify(
  path: string,
  layers: readonly QuantizedWeight[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const reader = await OnnxReader.open(path)
  try {
    for (const { name, values } of layers) {
      throwIfAborted(signal)
      const { weight } = await reader.read(name)
      await expectSame(`${path}: ${name}`, await values(), await dequantizeAsync(weight))
    }
  } catch (error) {
    if (error instanceof TsqError && error.code === "ERR_OPTION")
      throw new TsqError("ERR_CORRUPT", `${path}: a layer is missing from the file just written`, { cause: error })
    throw error
  } finally {
    reader.dispose()
  }
}
