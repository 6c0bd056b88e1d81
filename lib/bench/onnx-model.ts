// Models of MatMulNBits nodes in memory, as the benchmark wants them: many nodes that read one input.
import { onnxModelBytes } from "../containers/onnx-bytes.ts"
import { operator } from "../formats/onnx-linear.ts"

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

/** Bytes like those given, but for the first four, which tell copies apart; copy 0 is equal. */
function distinct(bytes: Uint8Array, copy: number): Uint8Array {
  if (copy === 0) return bytes
  const other = bytes.slice()
  for (let i = 0; i < Math.min(4, other.length); i++) other[i]! ^= copy >> (8 * i)
  return other
}

/**
 * A model of `copies` nodes that all read the input "x" [m, k], each multiplying it with weights of its own into
 * "y0", "y1" … The weights differ in a few codes, else onnxruntime would keep one packed copy of them for all nodes and read
 * it from the cache. The first node's are those given.
 */
export function matmulNBitsModel(weight: NBitsWeight, copies: number): Uint8Array {
  const { n, k, bits, block, accuracyLevel, codes, scales } = weight
  const blocks = Math.ceil(k / block)
  const indices = Array.from({ length: copies }, (_, i) => i)
  const attributes = { K: k, N: n, bits, block_size: block, accuracy_level: accuracyLevel }
  const scaleBytes = new Uint8Array(scales.buffer, scales.byteOffset, scales.byteLength)
  return onnxModelBytes(
    {
      name: "bench",
      nodes: indices.map(i => ({
        ...operator,
        name: `matmul${i}`,
        inputs: ["x", `w${i}`, `s${i}`],
        outputs: [`y${i}`],
        attributes,
      })),
      initializers: indices.flatMap(i => [
        { name: `w${i}`, type: "u8", shape: [n, blocks, (block * bits) / 8] } as const,
        { name: `s${i}`, type: "f32", shape: [n, blocks] } as const,
      ]),
      inputs: [{ name: "x", type: "f32", shape: ["m", k] }],
      outputs: indices.map(i => ({ name: `y${i}`, type: "f32", shape: ["m", n] }) as const),
    },
    name => (name.startsWith("w") ? distinct(codes, Number(name.slice(1))) : scaleBytes),
  )
}
