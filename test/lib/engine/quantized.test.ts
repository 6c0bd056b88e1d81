// Checkpoints of every format run as the float64 forward pass over their dequantized weights.
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { SafetensorsWriter } from "../../../lib/containers/safetensors-writer.ts"
import { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import { sharedArray, sharedBytes, sharedFloats } from "../../../lib/core/shared-array.ts"
import { Tensor } from "../../../lib/core/tensor.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { formats } from "../../../lib/formats/registry.ts"
import { forward64, type Weights } from "../models/support/float64-forward.ts"
import { letterTokenizer, random, randomWeights, tinyConfig } from "../models/support/tiny-checkpoint.ts"

const config = {
  ...tinyConfig,
  hidden_size: 64,
  intermediate_size: 96,
  model_type: "qwen2",
  tie_word_embeddings: true,
  torch_dtype: "float16",
}
const bits = 4
const groupSize = 32

/** Random codes, scales that f16 holds exactly, and the weight [n, k] that they stand for. */
function randomCodes(
  n: number,
  k: number,
  symmetric: boolean,
  next: () => number,
): { tensor: QuantizedTensor; values: Float64Array } {
  const groups = k / groupSize
  const codes = sharedBytes(n * k).map(() => Math.floor(next() * 2 ** bits))
  const scales = sharedFloats(n * groups).map(() => (1 + Math.floor(next() * 64)) / 1024)
  const zeros = symmetric ? null : sharedBytes(n * groups).map(() => 1 + Math.floor(next() * 15))
  const values = Float64Array.from(codes, (code, i) => {
    const group = Math.floor(i / k) * groups + Math.floor((i % k) / groupSize)
    return (code - (zeros?.[group] ?? 2 ** (bits - 1))) * scales[group]!
  })
  const scheme = { bits, symmetric, granularity: "group", groupSize, scaleType: "f16" } as const
  return { tensor: new QuantizedTensor({ scheme, shape: [n, k], codes, scales, zeros }), values }
}

/** Formats of such codes. Those of other numbers run in the tests of their formats. */
const holding = (symmetric: boolean) =>
  formats.filter(format => {
    const scheme = { bits, symmetric, granularity: "group", groupSize, scaleType: "f16" } as const
    const { hidden_size: k, intermediate_size: n } = config
    return [
      [n, k],
      [k, n],
    ].every(shape => format.refuses("q_proj", shape as [number, number], scheme) === null)
  })

for (const symmetric of [true, false])
  for (const format of holding(symmetric))
    t.test(`${format.name}, ${symmetric ? "symmetric" : "asymmetric"}`, async t => {
      const next = random(symmetric ? 11 : 12)
      const weights: Weights = randomWeights(config, 6)
      const directory = t.testdir()
      const writer = new SafetensorsWriter(directory)
      const modules = new Map<string, QuantizedTensor["scheme"] & { hasGroupIndex: boolean }>()
      for (const [name, { shape, values }] of Object.entries(weights)) {
        const module = name.replace(/\.weight$/, "")
        if (module.endsWith("_proj")) {
          const [n, k] = shape as [number, number]
          const made = randomCodes(n, k, symmetric, next)
          weights[name] = { shape, values: made.values }
          modules.set(module, { ...made.tensor.scheme, hasGroupIndex: false })
          for (const tensor of await format.write(module, made.tensor, { scaleType: "f16" })) await writer.add(tensor)
        } else {
          const data = sharedArray("f32", values.length) as Float32Array
          data.set(values)
          await writer.add({ name, dtype: "F32", shape, data: Tensor.from(data, shape) })
        }
      }
      await writer.finish()
      const summary = { modules, unquantized: ["lm_head"], damp: null, version: "0" }
      const { quantizationConfig, files } = format.configuration(summary, { scaleType: "f16" })
      writeFileSync(
        join(directory, "config.json"),
        JSON.stringify({ ...config, quantization_config: quantizationConfig }),
      )
      writeFileSync(join(directory, "tokenizer.json"), JSON.stringify(letterTokenizer(config.vocab_size)))
      for (const [name, value] of Object.entries(files)) writeFileSync(join(directory, name), JSON.stringify(value))

      const warnings: string[] = []
      const model = await loadModel(directory, { onWarning: message => warnings.push(message) })
      t.teardown(() => model.dispose())
      t.same(warnings, [])
      t.equal(model.weights.quantizedModules.length, 3 * 7)
      t.equal(model.bitsPerWeight, bits + (16 + (symmetric ? 0 : bits)) / groupSize)
      const ids = Array.from({ length: 20 }, () => Math.floor(next() * config.vocab_size))
      const { data } = await model.forward(ids)
      let worst = 0
      let size = 0
      forward64(config, weights, ids).forEach((row, i) => {
        row.forEach((value, j) => {
          worst = Math.max(worst, Math.abs(value - data[i * config.vocab_size + j]!))
          size = Math.max(size, Math.abs(value))
        })
      })
      t.ok(worst < 1e-5 * Math.max(size, 1), `largest difference ${worst} of logits up to ${size}`)
    })
