import t from "tap"
import * as library from "../../lib/index.ts"

t.test("the public surface, no more and no less", async t => {
  t.same(Object.keys(library).sort(), [
    "CudaGraph",
    "PackedWeight",
    "QuantizedTensor",
    "Tensor",
    "TsqError",
    "captureGraph",
    "convertModel",
    "dequantize",
    "devices",
    "evaluateModel",
    "evaluateNeedle",
    "evaluateTask",
    "inspectModel",
    "loadModel",
    "matmul",
    "matmulW4A16",
    "planQuantization",
    "prepack",
    "quantize",
    "quantizeModel",
    "readOnnx",
    "setThreads",
    "writeOnnx",
  ])
})

t.test("the first example of the documentation", async t => {
  const { quantize, matmulW4A16, matmul, Tensor } = library
  const [n, k] = [32, 256]
  const weight = Tensor.from(
    new Float32Array(n * k).map((_, i) => Math.sin(i * i)),
    [n, k],
  )
  const activations = Tensor.from(
    new Float32Array(64 * k).map((_, i) => Math.cos(i * 0.37)),
    [64, k],
  )
  const q = await quantize(weight, { rounding: "gptq", scheme: "w4a16", groupSize: 128, calibration: activations })
  const y = matmulW4A16(activations, q)
  t.same(y.shape, [64, n])
  const exact = matmul(activations, weight)
  const off = Math.max(...Array.from(y.data, (value, i) => Math.abs(value - exact.data[i]!)))
  t.ok(off > 0 && off < 1, `largest difference ${off}`)
})
