// A Hugging Face checkpoint of random weights: 4-bit linears in compressed-tensors' form, embedding and head in 8, 4 or 16 bits. Codes are
// random bits, so that nothing is quantized: it takes little longer than writing the files.
import { mkdir } from "node:fs/promises"
import { join } from "node:path"
import { writeNewFile } from "../containers/disk.ts"
import { type NamedTensor, SafetensorsWriter } from "../containers/safetensors-writer.ts"
import { throwIfAborted } from "../core/errors.ts"
import type { IntegerScheme } from "../core/scheme.ts"
import { packageVersion } from "../core/version.ts"
import { compressedTensors } from "../formats/compressed-tensors.ts"
import type { FormatSummary } from "../formats/format.ts"
import type { ModelShape } from "./shapes.ts"
import { RandomBytes, randomHalves } from "./synthetic-bytes.ts"
import { type SyntheticMatrix, type SyntheticVector, syntheticModel } from "./synthetic-model.ts"
import { syntheticVocabulary, tokenizerFiles } from "./synthetic-tokenizer.ts"

export interface SyntheticScheme {
  /** Of the blocks' linears. */
  bits: IntegerScheme["bits"]
  groupSize: number
  /** Of embedding and head; 16: f16. */
  headBits: 4 | 8 | 16
}

/** Fills `directory`, which must not exist. Memory: one matrix. */
export async function writeSyntheticCheckpoint(
  directory: string,
  shape: ModelShape,
  scheme: SyntheticScheme,
  signal?: AbortSignal,
): Promise<void> {
  const { matrices, vectors, config } = syntheticModel(shape)
  const schemes = new Map<string, IntegerScheme & { hasGroupIndex: boolean }>()
  const unquantized: string[] = []
  for (const { module, k, layer } of matrices) {
    const bits = layer === null ? scheme.headBits : scheme.bits
    if (bits === 16) unquantized.push(module)
    else schemes.set(module, { ...integerScheme(bits, Math.min(scheme.groupSize, k)), hasGroupIndex: false })
  }
  const summary: FormatSummary = { modules: schemes, unquantized, damp: null, version: packageVersion }
  const { quantizationConfig } = compressedTensors.configuration(summary, { scaleType: "f16" })

  await mkdir(directory)
  const writer = new SafetensorsWriter(directory, { signal })
  try {
    for (const matrix of matrices) {
      throwIfAborted(signal)
      const own = schemes.get(matrix.module)
      for (const tensor of own ? codes(matrix, own) : [halves(matrix)]) await writer.add(tensor)
    }
    for (const vector of vectors) await writer.add(vectorTensor(vector))
    await writer.finish()
  } catch (error) {
    await writer.discard()
    throw error
  }
  const files = tokenizerFiles(syntheticVocabulary(shape.vocabulary))
  for (const [name, value] of Object.entries({
    ...files,
    "config.json": { ...config, quantization_config: quantizationConfig },
  }))
    await writeNewFile(join(directory, name), JSON.stringify(value))
}

const integerScheme = (bits: IntegerScheme["bits"], groupSize: number): IntegerScheme => ({
  bits,
  symmetric: true,
  granularity: "group",
  groupSize,
  scaleType: "f16",
})

const bytesOf = (data: ArrayBufferView): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

function codes({ module, n, k }: SyntheticMatrix, { bits, groupSize }: IntegerScheme): NamedTensor[] {
  const random = new RandomBytes(module)
  const words = Math.ceil((k * bits) / 32)
  const groups = Math.ceil(k / groupSize)
  // Codes are uniform over 2^bits values: outputs come out about as large as inputs.
  const scales = randomHalves(random, n * groups, 2 / (2 ** bits * Math.sqrt(k)), false)
  return [
    {
      name: `${module}.weight_packed`,
      dtype: "I32",
      shape: [n, words],
      data: random.fill(new Uint8Array(n * words * 4)),
    },
    { name: `${module}.weight_scale`, dtype: "F16", shape: [n, groups], data: bytesOf(scales) },
    {
      name: `${module}.weight_shape`,
      dtype: "I64",
      shape: [2],
      data: bytesOf(BigInt64Array.of(BigInt(n), BigInt(k))),
    },
  ]
}

function halves({ module, n, k }: SyntheticMatrix): NamedTensor {
  const data = randomHalves(new RandomBytes(module), n * k, 1 / Math.sqrt(k), true)
  return { name: `${module}.weight`, dtype: "F16", shape: [n, k], data: bytesOf(data) }
}

function vectorTensor({ tensor, size, kind }: SyntheticVector): NamedTensor {
  // 0x3c00 is 1.
  const data =
    kind === "norm" ? new Uint16Array(size).fill(0x3c00) : randomHalves(new RandomBytes(tensor), size, 0.05, true)
  return { name: tensor, dtype: "F16", shape: [size], data: bytesOf(data) }
}
