// Quantizes one weight and multiplies with it, fused: the weight is never dequantized in memory.
import { dequantize, matmul, matmulW4A16, quantize, Tensor } from "tsq-native"

const n = 1024
const k = 2048
const weight = Tensor.from(
  Float32Array.from({ length: n * k }, () => (Math.random() - 0.5) * 0.1),
  [n, k],
)
const x = Tensor.from(
  Float32Array.from({ length: 4 * k }, () => Math.random() - 0.5),
  [4, k],
)

async function main() {
  const quantized = await quantize(weight, { scheme: "w4a16", groupSize: 128 })
  const y = matmulW4A16(x, quantized)
  const exact = matmul(x, weight)
  const restored = matmul(x, dequantize(quantized))
  const distance = (a: Tensor, b: Tensor) => {
    let difference = 0
    let square = 0
    for (let i = 0; i < a.size; i++) {
      difference += (a.data[i]! - b.data[i]!) ** 2
      square += b.data[i]! ** 2
    }
    return Math.sqrt(difference / square)
  }
  console.log(`${quantized.bitsPerWeight.toFixed(3)} bits per weight, y is [${y.shape.join(", ")}]`)
  console.log(`distance from the unquantized product ${distance(y, exact).toFixed(4)}`)
  console.log(`distance from the product with dequantized weights ${distance(y, restored).toExponential(1)}`)
}

main()
