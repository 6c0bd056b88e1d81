// ONNX models of MatMulNBits nodes, written in memory: the few protobuf messages that takes, and no library for it.
//
// A message is a list of byte chunks, so that the weights are copied once, into the finished model.

interface Message {
  bytes: number
  chunks: Uint8Array[]
}

const message = (...parts: Message[]): Message => ({
  bytes: parts.reduce((sum, part) => sum + part.bytes, 0),
  chunks: parts.flatMap(part => part.chunks),
})

const chunk = (bytes: Uint8Array): Message => ({ bytes: bytes.byteLength, chunks: [bytes] })

/** A base-128 number, low digits first. */
export function varint(value: number): Uint8Array {
  const digits: number[] = []
  let rest = value
  do {
    digits.push((rest % 128) + (rest >= 128 ? 128 : 0))
    rest = Math.floor(rest / 128)
  } while (rest > 0)
  return Uint8Array.from(digits)
}

const varintType = 0
const lengthType = 2

/** A field of a non-negative integer. */
const number = (field: number, value: number): Message =>
  chunk(Uint8Array.from([...varint(field * 8 + varintType), ...varint(value)]))

/** A field of bytes: text, raw data or a message. */
const nested = (field: number, content: Message): Message =>
  message(chunk(Uint8Array.from([...varint(field * 8 + lengthType), ...varint(content.bytes)])), content)

const text = (field: number, value: string): Message => nested(field, chunk(new TextEncoder().encode(value)))

// TensorProto.DataType
export const elementTypes = { f32: 1, u8: 2 } as const
type ElementType = keyof typeof elementTypes

/** TensorProto: dims 1, data_type 2, name 8, raw_data 9. */
const tensor = (name: string, type: ElementType, shape: readonly number[], data: Message): Message =>
  message(...shape.map(size => number(1, size)), number(2, elementTypes[type]), text(8, name), nested(9, data))

/** Bytes like those given, but for the first four, which tell copies apart; copy 0 is equal. */
function distinct(bytes: Uint8Array, copy: number): Message {
  const head = bytes.slice(0, 4)
  for (let i = 0; i < head.length; i++) head[i]! ^= copy >> (8 * i)
  return message(chunk(head), chunk(bytes.subarray(4)))
}

/** ValueInfoProto: name 1, type 2 = { tensor_type 1 = { elem_type 1, shape 2 = { dim 1 = { dim_value 1 | dim_param 2 } } } }. */
const value = (name: string, shape: readonly (number | string)[]): Message =>
  message(
    text(1, name),
    nested(
      2,
      nested(
        1,
        message(
          number(1, elementTypes.f32),
          nested(
            2,
            message(...shape.map(size => nested(1, typeof size === "string" ? text(2, size) : number(1, size)))),
          ),
        ),
      ),
    ),
  )

const integerAttribute = 2

/** AttributeProto: name 1, i 3, type 20. */
const attribute = (name: string, value: number): Message =>
  message(text(1, name), number(3, value), number(20, integerAttribute))

export interface NBitsWeight {
  n: number
  k: number
  bits: number
  /** Columns that share a scale: a power of two of at least 16. */
  block: number
  /** 0: activations as they are. 4: 8-bit activations. */
  accuracyLevel: 0 | 4
  /** [n, ceil(k / block), block * bits / 8]. */
  codes: Uint8Array
  /** [n, ceil(k / block)]. */
  scales: Float32Array
}

/**
 * A model of `copies` nodes that all read the input "x" [m, k], each multiplying it with weights of its own into
 * "y0", "y1" … The weights differ in a few codes, else onnxruntime would keep one packed copy of them for all nodes and read
 * it from the cache. The first node's are those given.
 */
export function matmulNBitsModel(weight: NBitsWeight, copies: number): Uint8Array {
  const { n, k, bits, block, accuracyLevel, codes, scales } = weight
  const blocks = Math.ceil(k / block)
  const nodes: Message[] = []
  const initializers: Message[] = []
  const outputs: Message[] = []
  const scaleBytes = chunk(new Uint8Array(scales.buffer, scales.byteOffset, scales.byteLength))
  for (let i = 0; i < copies; i++) {
    // NodeProto: input 1, output 2, name 3, op_type 4, attribute 5, domain 7.
    nodes.push(
      message(
        ...["x", `w${i}`, `s${i}`].map(name => text(1, name)),
        text(2, `y${i}`),
        text(3, `matmul${i}`),
        text(4, "MatMulNBits"),
        ...Object.entries({ K: k, N: n, bits, block_size: block, accuracy_level: accuracyLevel }).map(([name, value]) =>
          nested(5, attribute(name, value)),
        ),
        text(7, "com.microsoft"),
      ),
    )
    initializers.push(
      tensor(`w${i}`, "u8", [n, blocks, (block * bits) / 8], distinct(codes, i)),
      tensor(`s${i}`, "f32", [n * blocks], scaleBytes),
    )
    outputs.push(value(`y${i}`, ["m", n]))
  }
  // GraphProto: node 1, name 2, initializer 5, input 11, output 12.
  const graph = message(
    ...nodes.map(node => nested(1, node)),
    text(2, "bench"),
    ...initializers.map(initializer => nested(5, initializer)),
    nested(11, value("x", ["m", k])),
    ...outputs.map(output => nested(12, output)),
  )
  // OperatorSetIdProto: domain 1, version 2. ModelProto: ir_version 1, producer_name 2, graph 7, opset_import 8.
  const model = message(
    number(1, 8),
    text(2, "tsq-native"),
    nested(7, graph),
    nested(8, message(text(1, ""), number(2, 17))),
    nested(8, message(text(1, "com.microsoft"), number(2, 1))),
  )
  const bytes = new Uint8Array(model.bytes)
  let offset = 0
  for (const part of model.chunks) {
    bytes.set(part, offset)
    offset += part.byteLength
  }
  return bytes
}
