// A checkpoint with outlier channels in what its norms put out, as large models have them and small ones do not: the same function, with
// activations that plain int8 cannot hold.
import { Checkpoint } from "../../../../lib/containers/checkpoint.ts"
import { sharedFloats } from "../../../../lib/core/shared-array.ts"
import { describeModel } from "../../../../lib/models/registry.ts"
import { native } from "../../../../lib/native.ts"
import { writeDense } from "./dense-checkpoint.ts"

export interface Outliers {
  /** A power of two: the function stays the same, bit for bit. */
  factor: number
  /** Of the norms of a block. */
  channels(layer: number, hiddenSize: number): readonly number[]
}

/** Writes the twin of the checkpoint in folder `source` into the new folder `out`: channels of every norm times the factor, and the columns of the linears behind it divided by it. */
export async function plantOutliers(source: string, out: string, { factor, channels }: Outliers): Promise<void> {
  const checkpoint = await Checkpoint.open(source)
  try {
    const program = describeModel(checkpoint.config, name => checkpoint.has(name))
    const { hiddenSize } = program.config
    const scaleOf = (layer: number, by: number) => {
      const scale = sharedFloats(hiddenSize).fill(1)
      for (const channel of channels(layer, hiddenSize)) scale[channel] = by
      return scale
    }
    const scaled = (name: string, n: number, scale: Float32Array) =>
      checkpoint.compute(name, checkpoint.floatType(name), async () => {
        const values = await checkpoint.storedFloats(name)
        await native.scaleMatrix(values, n, hiddenSize, null, scale, values)
        return values
      })
    program.blocks.forEach((index, layer) => {
      const prefix = program.blockPrefix(layer)
      const { weights } = program.sections[index]!
      for (const { source: from, targets } of program.scaleGroups(layer)) {
        if (from.kind !== "vector") continue
        scaled(prefix + from.tensor, 1, scaleOf(layer, factor))
        for (const module of targets) {
          const slot = weights.find(weight => weight.kind === "linear" && weight.module === module)
          if (slot?.kind === "linear") scaled(`${prefix}${module}.weight`, slot.n, scaleOf(layer, 1 / factor))
        }
      }
    })
    await writeDense(checkpoint, out)
  } finally {
    checkpoint.dispose()
  }
}
