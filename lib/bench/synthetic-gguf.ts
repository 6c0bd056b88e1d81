// GGUF files of random weights in the mixtures that llama-quantize makes, so that llama.cpp does the work it does on a real model.
import { f32, flag, string, strings, u32 } from "../containers/gguf-fields.ts"
import { type GgmlType, type GgufValue, ggmlTypeNamed } from "../containers/gguf-types.ts"
import { type GgufTensorPlan, GgufWriter } from "../containers/gguf-writer.ts"
import { mixedType } from "../formats/gguf-mixes.ts"
import type { ModelShape } from "./shapes.ts"
import { RandomBytes, randomHalves } from "./synthetic-bytes.ts"
import { type SyntheticMatrix, syntheticContext, syntheticModel } from "./synthetic-model.ts"
import { syntheticVocabulary } from "./synthetic-tokenizer.ts"

export const ggufTypes = ["q4_0", "q4_k_m"] as const
export type GgufType = (typeof ggufTypes)[number]

/** `halves`: where a block keeps f16 numbers, and how large they are for weights of deviation 1: random bits would be any number. */
interface BlockType extends GgmlType {
  halves: readonly [at: number, scale: number][]
}

/** Of the types that the mixtures come to. */
const halves: Readonly<Record<string, BlockType["halves"]>> = {
  F16: [[0, 1]],
  Q4_0: [[0, 1 / 4.6]],
  Q5_0: [[0, 1 / 9.2]],
  Q8_0: [[0, 1 / 74]],
  // Six-bit scales and minima about 32; codes about 7.5.
  Q4_K: [
    [0, 1 / 180],
    [2, 1 / 24],
  ],
  Q6_K: [[208, 1 / 1366]],
}

/** The type of a matrix in a mixture. */
export function blockType(mixture: GgufType, shape: ModelShape, { gguf, k }: SyntheticMatrix): BlockType {
  const { type } = mixedType(mixture, shape, { name: gguf, k })
  return { ...type, halves: halves[type.name]! }
}

/** Blocks with random codes. */
export function randomBlocks(name: string, type: BlockType, n: number, k: number): Uint8Array {
  const random = new RandomBytes(name)
  const deviation = 1 / Math.sqrt(k)
  if (type.name === "F16") return new Uint8Array(randomHalves(random, n * k, deviation, true).buffer)
  const blocks = (n * k) / type.blockSize
  const bytes = random.fill(new Uint8Array(blocks * type.blockBytes))
  for (const [at, scale] of type.halves) {
    const stored = halfBits(scale * deviation)
    for (let block = 0, i = at; block < blocks; block++, i += type.blockBytes) {
      bytes[i] = stored & 0xff
      bytes[i + 1] = stored >> 8
    }
  }
  return bytes
}

/** A small positive number as f16, cut off. */
function halfBits(value: number): number {
  const exponent = Math.floor(Math.log2(value))
  if (exponent < -14) return Math.max(1, Math.floor(value * 2 ** 24))
  return ((exponent + 15) << 10) | Math.floor((value / 2 ** exponent - 1) * 1024)
}

/** Creates the file, which must not exist yet. Memory: one tensor. */
export async function writeSyntheticGguf(
  path: string,
  shape: ModelShape,
  mixture: GgufType,
  signal?: AbortSignal,
): Promise<void> {
  const { matrices, vectors } = syntheticModel(shape)
  const tensors: (GgufTensorPlan & { data: () => Uint8Array })[] = matrices.map(matrix => {
    const { gguf, n, k } = matrix
    const type = blockType(mixture, shape, matrix)
    return { name: `${gguf}.weight`, type, shape: [n, k], data: () => randomBlocks(gguf, type, n, k) }
  })
  for (const { gguf, size, kind } of vectors)
    tensors.push({
      name: gguf,
      type: ggmlTypeNamed("F32")!,
      shape: [size],
      data: () => new Uint8Array(new Float32Array(size).fill(kind === "norm" ? 1 : 0.05).buffer),
    })
  const writer = await GgufWriter.create(path, { metadata: metadata(shape, mixture), tensors, signal })
  try {
    for (const { name, data } of tensors) await writer.write(name, data())
    await writer.finish()
  } finally {
    await writer.discard()
  }
}

function metadata(shape: ModelShape, mixture: GgufType): Map<string, GgufValue> {
  const { tokens, merges, beginId, endId } = syntheticVocabulary(shape.vocabulary)
  // Mistral's tensors are a llama's.
  const name = shape.modelType === "mistral" ? "llama" : shape.modelType
  const [ordinary, control] = [1, 3]
  const kinds = Int32Array.from(tokens, (_, id) => (id >= beginId ? control : ordinary))
  const values: Record<string, GgufValue> = {
    "general.architecture": string(name),
    "general.name": string(shape.name),
    "general.file_type": u32(mixture === "q4_0" ? 2 : 15),
    "general.quantization_version": u32(2),
    [`${name}.context_length`]: u32(syntheticContext),
    [`${name}.embedding_length`]: u32(shape.hidden),
    [`${name}.block_count`]: u32(shape.layers),
    [`${name}.feed_forward_length`]: u32(shape.intermediate),
    [`${name}.attention.head_count`]: u32(shape.heads),
    [`${name}.attention.head_count_kv`]: u32(shape.kvHeads),
    [`${name}.attention.key_length`]: u32(shape.headDim),
    [`${name}.attention.value_length`]: u32(shape.headDim),
    [`${name}.attention.layer_norm_rms_epsilon`]: f32(shape.rmsNormEps),
    [`${name}.rope.dimension_count`]: u32(shape.headDim),
    [`${name}.rope.freq_base`]: f32(shape.ropeTheta),
    [`${name}.vocab_size`]: u32(shape.vocabulary),
    "tokenizer.ggml.model": string("gpt2"),
    "tokenizer.ggml.pre": string(name.startsWith("qwen") ? "qwen2" : "llama-bpe"),
    "tokenizer.ggml.tokens": strings(tokens),
    "tokenizer.ggml.token_type": { type: "array", of: "i32", value: kinds },
    "tokenizer.ggml.merges": strings(merges),
    "tokenizer.ggml.bos_token_id": u32(beginId),
    "tokenizer.ggml.eos_token_id": u32(endId),
    "tokenizer.ggml.add_bos_token": flag(false),
  }
  return new Map(Object.entries(values))
}
