// ONNX models of MatMulNBits: the bytes parse back, and codes lie as the operator's documentation has them.
import t from "tap"
import type { BenchMatrix } from "../../../lib/bench/backend.ts"
import { nBitsWeight } from "../../../lib/bench/backend-ort.ts"
import { matmulNBitsModel } from "../../../lib/bench/onnx-model.ts"
import { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import { message, messages, numbers, texts } from "../containers/protobuf-fields.ts"

t.test("a model of two nodes parses back", async t => {
  const codes = Uint8Array.from({ length: 2 * 3 * 8 }, (_, i) => i)
  const scales = Float32Array.of(1, 2, 3, 4, 5, 6)
  const weight = { n: 2, k: 40, bits: 4, block: 16, accuracyLevel: 4, codes, scales } as const
  const model = matmulNBitsModel(weight, 2)
  t.strictSame(numbers(model, 1), [8])
  t.strictSame(
    messages(model, 8).map(opset => [texts(opset, 1)[0], numbers(opset, 2)[0]]),
    [
      ["", 17],
      ["com.microsoft", 1],
    ],
  )
  const graph = message(model, 7)
  const nodes = messages(graph, 1)
  t.equal(nodes.length, 2)
  t.strictSame(
    nodes.map(node => [texts(node, 1), texts(node, 2), texts(node, 4), texts(node, 7)]),
    [
      [["x", "w0", "s0"], ["y0"], ["MatMulNBits"], ["com.microsoft"]],
      [["x", "w1", "s1"], ["y1"], ["MatMulNBits"], ["com.microsoft"]],
    ],
  )
  const attributes = messages(nodes[1]!, 5).map(each => [texts(each, 1)[0], numbers(each, 3)[0], numbers(each, 20)[0]])
  t.strictSame(attributes, [
    ["K", 40, 2],
    ["N", 2, 2],
    ["bits", 4, 2],
    ["block_size", 16, 2],
    ["accuracy_level", 4, 2],
  ])
  const initializers = messages(graph, 5)
  t.strictSame(
    initializers.map(each => [texts(each, 8)[0], numbers(each, 1), numbers(each, 2)[0]]),
    [
      ["w0", [2, 3, 8], 2],
      ["s0", [2, 3], 1],
      ["w1", [2, 3, 8], 2],
      ["s1", [2, 3], 1],
    ],
  )
  t.strictSame([...message(initializers[0]!, 9)], [...codes])
  // Equal weights would be kept once for both nodes.
  t.strictSame([...message(initializers[2]!, 9)], [codes[0]! ^ 1, ...codes.subarray(1)])
  t.strictSame([...new Float32Array(message(initializers[3]!, 9).slice().buffer)], [...scales])
  // ValueInfo -> type -> tensor_type -> shape -> dim
  const dims = (value: Uint8Array) =>
    messages(message(value, 2, 1, 2), 1).map(dim => texts(dim, 2)[0] ?? numbers(dim, 1)[0])
  t.strictSame(dims(message(graph, 11)), ["m", 40])
  t.strictSame(messages(graph, 12).map(dims), [
    ["m", 2],
    ["m", 2],
  ])
})

t.test("codes of 4 and 8 bits in blocks, the last one padded", async t => {
  const row = (first: number, step: number, count: number, size: number) =>
    Array.from({ length: count }, (_, j) => (first + step * j) % size)
  const matrix = (codes: number[], k: number, bits: 4 | 8): BenchMatrix => ({
    ...{ n: 2, k, bits, groupSize: k },
    quantized: new QuantizedTensor({
      scheme: { bits, symmetric: true, granularity: "channel", groupSize: k, scaleType: "f32" },
      shape: [2, k],
      codes: Uint8Array.from(codes),
      scales: Float32Array.of(0.5, 0.25),
      zeros: null,
    }),
  })
  const variant = { accuracyLevel: 0, block: 32 } as const
  const four = await nBitsWeight(matrix([...row(0, 5, 40, 16), ...row(3, 5, 40, 16)], 40, 4), variant)
  t.equal(
    Buffer.from(four.codes).toString("hex"),
    `50fa943ed8721cb650fa943ed8721cb650fa943e${"00".repeat(12)}832dc7610ba54fe9832dc7610ba54fe9832dc761${"00".repeat(12)}`,
  )
  t.equal(four.scales.length, 4)
  const bytes = [...row(0, 37, 32, 256), ...row(11, 37, 32, 256)]
  t.strictSame([...(await nBitsWeight(matrix(bytes, 32, 8), variant)).codes], bytes)
})
