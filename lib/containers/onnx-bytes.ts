// The bytes of an ONNX model: one graph of nodes with integer attributes, and its initializers.
import { TsqError } from "../core/errors.ts"
import {
  externalLocation,
  fieldsOf,
  integerAttribute,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValue,
  onnxBytes,
  onnxTypes,
} from "./onnx-types.ts"
import { type Message, message, nestedField, numberField, textField } from "./protobuf.ts"

export interface OnnxGraph {
  name: string
  nodes: readonly OnnxNode[]
  initializers: readonly OnnxTensor[]
  inputs: readonly OnnxValue[]
  outputs: readonly OnnxValue[]
}

/** Where the bytes of an initializer come. */
export interface InitializerData {
  name: string
  bytes: number
}

/** A file beside the model, and where in it the initializers begin. */
export interface ExternalData {
  location: string
  offsets: readonly number[]
}

/** The initializers of a model in order, behind each other in a file: at whole pages, so that loaders can map them. */
export function externalOffsets(graph: OnnxGraph): { offsets: number[]; bytes: number } {
  const page = 4096
  let bytes = 0
  const offsets = graph.initializers.map(tensor => {
    const begin = Math.ceil(bytes / page) * page
    bytes = begin + onnxBytes(tensor)
    return begin
  })
  return { offsets, bytes }
}

/** A model in pieces: bytes, and the places of its initializers' data, in order. `external`: the data lies elsewhere. */
export function onnxModel(graph: OnnxGraph, external: ExternalData | null = null): Message<InitializerData> {
  checkNames(graph)
  const { model, opset } = fieldsOf
  const domains = new Map([
    ["", 17],
    ["com.microsoft", 1],
  ])
  return message<InitializerData>(
    numberField(model.irVersion, 8),
    textField(model.producerName, "tsq-native"),
    nestedField(model.graph, graphMessage(graph, external)),
    ...[...domains].map(([domain, version]) =>
      nestedField(model.opset, message(textField(opset.domain, domain), numberField(opset.version, version))),
    ),
  )
}

/** A whole model in memory. */
export function onnxModelBytes(graph: OnnxGraph, data: (name: string) => Uint8Array): Uint8Array {
  const model = onnxModel(graph)
  const bytes = new Uint8Array(model.bytes)
  let offset = 0
  for (const part of model.chunks) {
    const content = part instanceof Uint8Array ? part : checkedData(part, data(part.name))
    bytes.set(content, offset)
    offset += content.byteLength
  }
  return bytes
}

/** ERR_SHAPE where an initializer's bytes are not as many as its shape needs. */
export function checkedData({ name, bytes }: InitializerData, data: Uint8Array): Uint8Array {
  if (data.byteLength !== bytes)
    throw new TsqError(
      "ERR_SHAPE",
      `initializer ${JSON.stringify(name)} needs ${bytes} bytes, ${data.byteLength} have come`,
    )
  return data
}

function checkNames({ initializers, inputs, nodes }: OnnxGraph): void {
  const names = new Set<string>()
  const defined = [...initializers, ...inputs].map(({ name }) => name)
  for (const name of [...defined, ...nodes.flatMap(({ outputs }) => outputs)]) {
    if (name === "" || names.has(name))
      throw new TsqError("ERR_FORMAT", `the value ${JSON.stringify(name)} of an ONNX graph has no name of its own`)
    names.add(name)
  }
}

function graphMessage(graph: OnnxGraph, external: ExternalData | null): Message<InitializerData> {
  const { node, name, initializer, input, output } = fieldsOf.graph
  return message<InitializerData>(
    ...graph.nodes.map(each => nestedField(node, nodeMessage(each))),
    textField(name, graph.name),
    ...graph.initializers.map((tensor, index) =>
      nestedField(
        initializer,
        external ? externalTensor(tensor, external.location, external.offsets[index]!) : ownTensor(tensor),
      ),
    ),
    ...graph.inputs.map(value => nestedField(input, valueMessage(value))),
    ...graph.outputs.map(value => nestedField(output, valueMessage(value))),
  )
}

function nodeMessage({ name, operator, domain, inputs, outputs, attributes }: OnnxNode): Message {
  const { node } = fieldsOf
  return message(
    ...inputs.map(input => textField(node.input, input)),
    ...outputs.map(output => textField(node.output, output)),
    textField(node.name, name),
    textField(node.operator, operator),
    ...Object.entries(attributes).map(([key, value]) => nestedField(node.attribute, attributeMessage(key, value))),
    textField(node.domain, domain),
  )
}

const attributeMessage = (name: string, value: number): Message =>
  message(
    textField(fieldsOf.attribute.name, name),
    numberField(fieldsOf.attribute.integer, value),
    numberField(fieldsOf.attribute.type, integerAttribute),
  )

const tensorHead = ({ name, type, shape }: OnnxTensor): Message =>
  message(
    ...shape.map(size => numberField(fieldsOf.tensor.dims, size)),
    numberField(fieldsOf.tensor.type, onnxTypes[type]),
    textField(fieldsOf.tensor.name, name),
  )

function ownTensor(tensor: OnnxTensor): Message<InitializerData> {
  const data: InitializerData = { name: tensor.name, bytes: onnxBytes(tensor) }
  return message<InitializerData>(
    tensorHead(tensor),
    nestedField(fieldsOf.tensor.raw, { bytes: data.bytes, chunks: [data] }),
  )
}

function externalTensor(tensor: OnnxTensor, location: string, offset: number): Message {
  const { entry } = fieldsOf
  const entries = { location, offset: String(offset), length: String(onnxBytes(tensor)) }
  return message(
    tensorHead(tensor),
    ...Object.entries(entries).map(([key, value]) =>
      nestedField(fieldsOf.tensor.external, message(textField(entry.key, key), textField(entry.value, value))),
    ),
    numberField(fieldsOf.tensor.location, externalLocation),
  )
}

function valueMessage({ name, type, shape }: OnnxValue): Message {
  const { value, type: kind, tensorType, shape: shapeFields, dim } = fieldsOf
  const dims = shape.map(size =>
    nestedField(shapeFields.dim, typeof size === "string" ? textField(dim.name, size) : numberField(dim.value, size)),
  )
  const tensor = message(
    numberField(tensorType.element, onnxTypes[type]),
    nestedField(tensorType.shape, message(...dims)),
  )
  return message(textField(value.name, name), nestedField(value.type, nestedField(kind.tensor, tensor)))
}
