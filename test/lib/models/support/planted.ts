// A model with outliers planted into it: the same function, with activations that plain int8 cannot hold.
import { mkdirSync } from "node:fs"
import { Checkpoint } from "../../../../lib/containers/checkpoint.ts"
import { fromCheckpoint, writeCheckpoint } from "../../../../lib/quantize/write-checkpoint.ts"

/**
 * Writes the model in `directory` to `out` with some channels of every norm before linears times `factor`, a power of two, and the
 * columns that read them divided by it: what linears compute stays as it was, and their inputs have outliers.
 */
export async function plantOutliers(
  directory: string,
  out: string,
  { factor, channels }: { factor: number; channels: readonly number[] },
): Promise<void> {
  const checkpoint = await Checkpoint.open(directory)
  try {
    const norm = /layers\.\d+\.(input|post_attention)_layernorm\.weight$/
    const reader = /layers\.\d+\.(self_attn\.[qkv]_proj|mlp\.(gate|up)_proj)\.weight$/
    const changed = async (name: string): Promise<Float32Array | null> => {
      if (!norm.test(name) && !reader.test(name)) return null
      const values = await checkpoint.floats(name)
      const k = norm.test(name) ? values.length : (checkpoint.entry(name).shape[1] as number)
      for (let i = 0; i < values.length; i += k)
        for (const channel of channels) values[i + channel]! *= norm.test(name) ? factor : 1 / factor
      return values
    }
    mkdirSync(out, { recursive: true })
    await writeCheckpoint(out, {
      source: fromCheckpoint(checkpoint, changed),
      format: null,
      summary: { modules: new Map(), unquantized: [] } as never,
      options: {} as never,
      tensor: () => Promise.reject(new Error("nothing is quantized")),
      omitted: new Set(),
      moduleAt: () => null,
      files: () => ({}),
    })
  } finally {
    checkpoint.dispose()
  }
}
