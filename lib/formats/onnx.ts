// Quantized linear layers as ONNX models that onnxruntime runs, and out of any ONNX model that has them.
import { setImmediate as turn } from "node:timers/promises"
import { OnnxFile } from "../containers/onnx.ts"
import type { OnnxNode } from "../containers/onnx-types.ts"
import { OnnxWriter, type OnnxWriterOptions } from "../containers/onnx-writer.ts"
import { dtypeInfo } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { FloatScaleType, Scheme } from "../core/scheme.ts"
import { sharedFloats } from "../core/shared-array.ts"
import { StoredTensor } from "../core/stored-tensor.ts"
import { native } from "../native.ts"
import { resizedRows, rowWords, unpack } from "./arrays.ts"
import { readGroupIndex } from "./group-index.ts"
import {
  groupsPerTurn,
  initializerData,
  linearsGraph,
  type OnnxLinear,
  type OnnxLinearPlan,
  operator,
  smallestBlock,
} from "./onnx-linear.ts"

export interface WriteOnnxOptions extends OnnxWriterOptions {
  /**
   * Type of the activations, and so of scales, bias and result. Default "f32", which holds any scales; ERR_UNSUPPORTED where scales would be rounded. onnxruntime's CPU
   * kernels take f32 and f16.
   */
  type?: FloatScaleType
  /** 0, the default: exact products. 4 allows the engine to round activations to 8 bits; 1 to 3 name the types between. */
  accuracyLevel?: number
}

/**
 * Writes a model of one MatMulNBits node for each entry, with input "<name>.input" [rows, k], output "<name>.output" [rows, n] and initializers
 * "<name>.qweight", ".scales", and where needed ".qzeros", ".g_idx", ".bias". Above 2 GiB the initializers go to "<file>.data" beside it.
 * ERR_UNSUPPORTED, naming the layer, for widths and groups that the operator does not have.
 */
export async function writeOnnx(
  path: string,
  linears: Readonly<Record<string, QuantizedTensor | OnnxLinear>>,
  options?: WriteOnnxOptions,
): Promise<{ files: string[]; totalBytes: number }> {
  if (typeof linears !== "object" || linears === null)
    throw new TsqError(
      "ERR_OPTION",
      `writeOnnx: the layers are ${describe(linears)}, expected an object of quantized tensors`,
    )
  const layers = new Map(Object.entries(linears).map(([name, value]) => [name, linearOf(name, value)]))
  const plans = [...layers].map(([name, { weight, bias }]): OnnxLinearPlan => {
    const { shape, scheme, groupIndex, offsets } = weight
    return { name, shape, scheme, groupIndex: groupIndex !== null, offsets: offsets !== null, bias: !!bias }
  })
  return writeOnnxLinears(path, plans, async name => layers.get(name)!, options)
}

function linearOf(name: string, value: unknown): OnnxLinear {
  const linear = value instanceof QuantizedTensor ? { weight: value } : (value as OnnxLinear | null)
  if (!(linear?.weight instanceof QuantizedTensor))
    throw new TsqError(
      "ERR_OPTION",
      `writeOnnx: ${JSON.stringify(name)} is ${describe(value)}, expected a QuantizedTensor, or an object with one as weight`,
    )
  const { bias = null } = linear
  if (bias !== null && !(bias instanceof Float32Array))
    throw new TsqError(
      "ERR_DTYPE",
      `writeOnnx: the bias of ${JSON.stringify(name)} is ${describe(bias)}, expected a Float32Array`,
    )
  return linear
}

/** The same for layers that are loaded one after the other, each when it is written. */
export async function writeOnnxLinears(
  path: string,
  plans: readonly OnnxLinearPlan[],
  load: (name: string) => Promise<OnnxLinear>,
  values?: WriteOnnxOptions,
): Promise<{ files: string[]; totalBytes: number }> {
  const options = new Options("writeOnnx", values, ["type", "accuracyLevel", "externalData", "force", "signal"])
  const type = options.oneOf("type", ["f32", "f16", "bf16"], "f32")
  const accuracyLevel = options.integer("accuracyLevel", { min: 0, max: 4 }, 0)
  const signal = options.signal()
  if (plans.length === 0) throw new TsqError("ERR_OPTION", `writeOnnx: there are no layers to write to ${path}`)
  const writer = await OnnxWriter.create(path, linearsGraph(plans, { type, accuracyLevel }), {
    externalData: options.boolean("externalData", undefined),
    force: options.boolean("force", false),
    signal,
  })
  try {
    for (const plan of plans)
      for await (const { name, data } of initializerData(plan, await load(plan.name), type))
        await writer.write(name, data)
    return await writer.finish()
  } finally {
    await writer.discard()
  }
}

/** The layers of a model's MatMulNBits nodes, by the names of the nodes. Everything else in the model is left out. */
export async function readOnnx(path: string): Promise<Record<string, OnnxLinear>> {
  const reader = await OnnxReader.open(path)
  try {
    const found: [string, OnnxLinear][] = []
    for (const name of reader.names) found.push([name, await reader.read(name)])
    return Object.fromEntries(found)
  } finally {
    reader.dispose()
  }
}

/** The inputs of the operator, by place. */
interface Inputs {
  codes: string
  scales: string
  zeros: string
  groupIndex: string
  bias: string
}

interface Layer extends Inputs {
  n: number
  k: number
  bits: 2 | 4 | 8
  block: number
  blocks: number
}

/** A model whose layers are read one by one. */
export class OnnxReader {
  /** Of the nodes, in the order of the graph. */
  readonly names: readonly string[]
  readonly #file: OnnxFile
  readonly #nodes: ReadonlyMap<string, OnnxNode>

  private constructor(file: OnnxFile) {
    this.#file = file
    const nodes = new Map<string, OnnxNode>()
    for (const node of file.nodes) {
      const name = node.name || (node.outputs[0] ?? "")
      if (name === "" || nodes.has(name))
        throw new TsqError(
          "ERR_FORMAT",
          `${file.path}: a ${operator.operator} node is called ${JSON.stringify(name)}, which is no name of its own`,
        )
      nodes.set(name, node)
    }
    this.#nodes = nodes
    this.names = [...nodes.keys()]
  }

  /** ERR_CORRUPT or ERR_FORMAT, naming what, when the file breaks a rule, or has no such node. */
  static async open(path: string): Promise<OnnxReader> {
    const file = await OnnxFile.open(path, [operator])
    try {
      const reader = new OnnxReader(file)
      if (reader.names.length === 0)
        throw new TsqError("ERR_FORMAT", `${path}: the model has no ${operator.operator} node, so no quantized layer`)
      return reader
    } catch (error) {
      file.dispose()
      throw error
    }
  }

  async read(name: string): Promise<OnnxLinear> {
    const { bias } = this.#layer(name)
    const weight = await (await this.stored(name)).unpacked()
    return { weight, bias: bias === "" ? null : await this.#floats(bias, weight.shape[0], name) }
  }

  /** The weight, its codes where they are in the file where rows are whole blocks; the reader must stay open. */
  async stored(name: string): Promise<StoredTensor> {
    const layer = this.#layer(name)
    const { n, k, bits, block, blocks } = layer
    const scheme: Scheme = {
      ...{
        bits,
        symmetric: layer.zeros === "",
        granularity: block < k ? "group" : "channel",
        groupSize: Math.min(block, k),
      },
      scaleType: this.#scaleType(layer.scales, name),
    }
    this.#expect(layer.codes, "u8", n * blocks * ((block * bits) / 8), name)
    const row = (blocks * block * bits) / 8
    const codes =
      row === rowWords(k, bits) * 4
        ? this.#file.mapped(layer.codes)
        : await resizedRows(await this.#file.read(layer.codes), n, row, rowWords(k, bits) * 4)
    const scales = await this.#floats(layer.scales, n * blocks, name)
    return new StoredTensor({
      ...{ scheme, shape: [n, k], codes, layout: "rows", scales },
      ...(await this.#zeros(layer, scales, name)),
      groupIndex: layer.groupIndex === "" ? null : await this.#groupIndex(layer, name),
    })
  }

  dispose(): void {
    this.#file.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  #layer(name: string): Layer {
    const node = this.#nodes.get(name)
    if (!node)
      throw new TsqError("ERR_OPTION", `${this.#file.path}: has no ${operator.operator} node ${JSON.stringify(name)}`)
    const { attributes, inputs } = node
    const attribute = (key: string, expected: string, valid: (value: number) => boolean, missing?: number): number => {
      const value = attributes[key] ?? missing
      if (value === undefined || !Number.isSafeInteger(value) || !valid(value))
        throw this.#corrupt(name, `the attribute ${key} is ${value ?? "missing"}, expected ${expected}`)
      return value
    }
    const size = (value: number) => value >= 1 && value <= 2 ** 31 - 1
    const n = attribute("N", "the number of outputs", size)
    const k = attribute("K", "the number of inputs", size)
    const bits = attribute("bits", "2, 4 or 8", value => [2, 4, 8].includes(value), 4) as Layer["bits"]
    const block = attribute(
      "block_size",
      `a power of two of at least ${smallestBlock}`,
      value => value >= smallestBlock && size(value) && Number.isInteger(Math.log2(value)),
    )
    if ((attributes.weight_prepacked ?? 0) !== 0)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${this.#file.path}: ${name}: the weight is packed for one engine (weight_prepacked ${attributes.weight_prepacked}); use the model as it was exported`,
      )
    const [, codes = "", scales = "", zeros = "", groupIndex = "", bias = ""] = inputs
    if (codes === "" || scales === "") throw this.#corrupt(name, "codes or scales are missing from its inputs")
    return { n, k, bits, block, blocks: Math.ceil(k / block), codes, scales, zeros, groupIndex, bias }
  }

  #corrupt(name: string, text: string): TsqError {
    return new TsqError("ERR_CORRUPT", `${this.#file.path}: ${name}: ${text}`)
  }

  /** ERR_DTYPE or ERR_SHAPE where an initializer is not as the operator has it. */
  #expect(initializer: string, type: string, count: number, name: string): void {
    const { type: found, shape } = this.#file.initializer(initializer)
    const what = `${this.#file.path}: ${name}: initializer ${initializer}`
    if (found !== type) throw new TsqError("ERR_DTYPE", `${what} is ${found ?? "of another type"}, expected ${type}`)
    if (shape.reduce((product, size) => product * size, 1) !== count)
      throw new TsqError("ERR_SHAPE", `${what} is [${shape.join(", ")}], expected ${count} elements`)
  }

  #scaleType(initializer: string, name: string): FloatScaleType {
    const { type } = this.#file.initializer(initializer)
    if (type === "f32" || type === "f16" || type === "bf16") return type
    throw new TsqError(
      "ERR_DTYPE",
      `${this.#file.path}: ${name}: initializer ${initializer} is ${type ?? "of another type"}, expected f32, f16 or bf16`,
    )
  }

  async #floats(initializer: string, count: number, name: string): Promise<Float32Array> {
    const type = this.#scaleType(initializer, name)
    this.#expect(initializer, type, count, name)
    const source = this.#file.mapped(initializer)
    const out = sharedFloats(count)
    await native.convertAsync(source, dtypeInfo(type).code, out, dtypeInfo("f32").code, count)
    return out
  }

  /** Zero points in codes, or those that are floats as the offsets that they make. */
  async #zeros(
    { zeros, n, blocks, bits }: Layer,
    scales: Float32Array,
    name: string,
  ): Promise<{ zeros: Uint8Array | null; offsets: Float32Array | null }> {
    if (zeros === "") return { zeros: null, offsets: null }
    if (this.#file.initializer(zeros).type !== "u8") {
      const offsets = await this.#floats(zeros, n * blocks, name)
      for (const [i, zero] of offsets.entries()) {
        offsets[i] = -(scales[i] as number) * zero
        if (i % groupsPerTurn === groupsPerTurn - 1) await turn()
      }
      return { zeros: null, offsets }
    }
    const bytes = Math.ceil((blocks * bits) / 8)
    this.#expect(zeros, "u8", n * bytes, name)
    const rows = await resizedRows(await this.#file.read(zeros), n, bytes, rowWords(blocks, bits) * 4)
    const words = new Int32Array(rows.buffer, rows.byteOffset, rows.byteLength / 4)
    return { zeros: await unpack(words, n, blocks, bits), offsets: null }
  }

  async #groupIndex({ groupIndex, k, block, blocks }: Layer, name: string): Promise<Int32Array | null> {
    // Either of the inputs, or of whole blocks.
    const padded = blocks * block
    const [length = 0] = this.#file.initializer(groupIndex).shape
    this.#expect(groupIndex, "i32", length === padded ? padded : k, name)
    const bytes = await this.#file.read(groupIndex)
    const index = new Int32Array(bytes.buffer, 0, k)
    return readGroupIndex(index, block, blocks, true, `${name}: initializer ${groupIndex}`, () => {})
  }
}
