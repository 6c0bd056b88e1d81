// Checkpoints as GGUF files of one type, for tests.
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { type GgmlType, type GgufMetadata, ggmlTypeNamed } from "../../../lib/containers/gguf-types.ts"
import { GgufWriter } from "../../../lib/containers/gguf-writer.ts"
import { sharedFloats } from "../../../lib/core/tensor.ts"
import { encodeBlocks } from "../../../lib/formats/gguf-blocks.ts"
import { ggufOfConfig } from "../../../lib/models/gguf-config-writer.ts"
import { GgufLayout, type RowOrder } from "../../../lib/models/gguf-layout.ts"
import { ggufOfTokenizer } from "../../../lib/models/gguf-tokenizer-writer.ts"
import { describeModel } from "../../../lib/models/registry.ts"

export interface GgufTensor {
  name: string
  type: GgmlType
  shape: readonly number[]
  /** In the file's order of rows. */
  values: Float32Array
}

export interface GgufContent {
  metadata: Map<string, GgufMetadata extends ReadonlyMap<string, infer V> ? V : never>
  tensors: GgufTensor[]
}

/** What a file of the checkpoint's weights holds; vectors are F32. */
export async function contentOf(directory: string, typeName: string): Promise<GgufContent> {
  const type = ggmlTypeNamed(typeName) as GgmlType
  const checkpoint = await Checkpoint.open(directory)
  try {
    const { config } = describeModel(checkpoint.config)
    const read = async (name: string) => JSON.parse(await readFile(join(directory, name), "utf8"))
    const { metadata } = ggufOfConfig(checkpoint.config, { name: "test", fileType: 1 })
    const tokenizer = ggufOfTokenizer(await read("tokenizer.json"), await read("tokenizer_config.json"), {
      vocabularySize: config.vocabularySize,
      bosTokenIds: config.bosTokenIds,
      eosTokenIds: config.eosTokenIds,
    })
    const layout = new GgufLayout(config)
    const tensors: GgufTensor[] = []
    for (const hf of checkpoint.names) {
      const name = layout.names.gguf(hf)
      if (name === null || (config.tiedEmbeddings && name === "output.weight")) continue
      const { shape } = checkpoint.entry(hf)
      const values = await checkpoint.floats(hf)
      const order = layout.rows(name)
      tensors.push({
        name,
        type: shape.length === 1 ? (ggmlTypeNamed("F32") as GgmlType) : type,
        shape,
        values: order ? inFileOrder(values, shape, order) : values,
      })
    }
    return { metadata: new Map([...metadata, ...tokenizer.metadata]), tensors }
  } finally {
    checkpoint.dispose()
  }
}

function inFileOrder(values: Float32Array, [n = 0, k = 1]: readonly number[], order: RowOrder): Float32Array {
  const ordered = sharedFloats(values.length)
  for (let row = 0; row < n; row++) {
    const source = order.hfRow(row) * k
    ordered.set(values.subarray(source, source + k), row * k)
  }
  return ordered
}

export async function writeGguf(
  path: string,
  { metadata, tensors }: GgufContent,
  options: { maxPartBytes?: number } = {},
): Promise<void> {
  const writer = await GgufWriter.create(path, { metadata, tensors, ...options })
  try {
    for (const tensor of tensors) await writer.write(tensor.name, await encodeBlocks(tensor, tensor.values))
    await writer.finish()
  } finally {
    await writer.discard()
  }
}
