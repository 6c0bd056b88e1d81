// What reading and writing ONNX models share: the parts of a graph that matter here, and the numbers of their fields.
// Source: onnx/onnx, onnx/onnx.proto (IR version 8).
import { elementCount } from "../core/tensor.ts"

/** TensorProto.DataType, of the types that are written. */
export const onnxTypes = { f32: 1, u8: 2, i32: 6, f16: 10, bf16: 16 } as const
export type OnnxType = keyof typeof onnxTypes

const elementBytes: Readonly<Record<OnnxType, number>> = { f32: 4, u8: 1, i32: 4, f16: 2, bf16: 2 }

export const onnxTypeOf = (number: number): OnnxType | null =>
  (Object.keys(onnxTypes) as OnnxType[]).find(type => onnxTypes[type] === number) ?? null

export interface OnnxTensor {
  name: string
  type: OnnxType
  shape: readonly number[]
}

export const onnxBytes = ({ name, type, shape }: OnnxTensor): number =>
  elementCount(shape, `tensor ${JSON.stringify(name)}`) * elementBytes[type]

/** An input or an output of a graph: dimensions by size or by name. */
export interface OnnxValue {
  name: string
  type: OnnxType
  shape: readonly (number | string)[]
}

export interface OnnxNode {
  name: string
  operator: string
  domain: string
  /** "" for an input that is left out. */
  inputs: readonly string[]
  outputs: readonly string[]
  /** Those that are integers. */
  attributes: Readonly<Record<string, number>>
}

export const fieldsOf = {
  model: { irVersion: 1, producerName: 2, graph: 7, opset: 8 },
  opset: { domain: 1, version: 2 },
  graph: { node: 1, name: 2, initializer: 5, input: 11, output: 12 },
  node: { input: 1, output: 2, name: 3, operator: 4, attribute: 5, domain: 7 },
  attribute: { name: 1, integer: 3, type: 20 },
  tensor: {
    ...{ dims: 1, type: 2, segment: 3, floats: 4, ints: 5, name: 8, raw: 9, external: 13, location: 14 },
  },
  entry: { key: 1, value: 2 },
  value: { name: 1, type: 2 },
  type: { tensor: 1 },
  tensorType: { element: 1, shape: 2 },
  shape: { dim: 1 },
  dim: { value: 1, name: 2 },
} as const

/** AttributeProto.AttributeType.INT; TensorProto.DataLocation.EXTERNAL. */
export const integerAttribute = 2
export const externalLocation = 1
