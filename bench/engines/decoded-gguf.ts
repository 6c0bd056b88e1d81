// A GGUF file with the same values in f32: what an engine makes of it shows what the blocks are worth, without the arithmetic
// that the engine has for blocks.
import { Gguf } from "../../lib/containers/gguf.ts"
import { ggmlTypeNamed } from "../../lib/containers/gguf-types.ts"
import { GgufWriter } from "../../lib/containers/gguf-writer.ts"
import { decodeBlocks } from "../../lib/formats/gguf-blocks.ts"
import { ggufFileType } from "../../lib/formats/gguf-mixes.ts"

export async function writeDecoded(source: string, out: string): Promise<void> {
  const file = await Gguf.open(source)
  try {
    const type = ggmlTypeNamed("F32")!
    const entries = [...file.entries.values()]
    const fileType = { type: "u32", value: ggufFileType("f32") } as const
    const writer = await GgufWriter.create(out, {
      metadata: new Map([...file.metadata, ["general.file_type", fileType]]),
      tensors: entries.map(({ name, shape }) => ({ name, type, shape })),
      force: true,
    })
    try {
      for (const entry of entries) {
        const values = await decodeBlocks(entry, file.mapped(entry.name))
        await writer.write(entry.name, new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
      }
      await writer.finish()
    } finally {
      await writer.discard()
    }
  } finally {
    file.dispose()
  }
}
