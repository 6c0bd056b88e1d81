// Checkpoints with outlier channels in what their norms put out or in their keys, as large models have them and small ones do not: the same
// function, with activations that plain int8, and keys that int4, cannot hold.
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

/**
 * Writes a twin whose keys have an outlier channel for each half that RoPE turns: one pair in the slower half of every KV head times the
 * factor, and the same pair of the queries divided by it. For checkpoints with q_proj and k_proj and no norms behind them.
 */
export async function plantKeyOutliers(source: string, out: string, factor: number): Promise<void> {
  const checkpoint = await Checkpoint.open(source)
  try {
    const program = describeModel(checkpoint.config, name => checkpoint.has(name))
    const { hiddenSize, heads, kvHeads, headDim } = program.config
    program.blocks.forEach((_, layer) => {
      for (const [module, count, by] of [
        ["q_proj", heads, 1 / factor],
        ["k_proj", kvHeads, factor],
      ] as const) {
        const name = `${program.blockPrefix(layer)}self_attn.${module}.weight`
        const scale = sharedFloats(count * headDim).fill(1)
        for (let head = 0; head < count; head++)
          for (const half of [0, 1]) scale[head * headDim + ((headDim * 3) >> 3) + half * (headDim >> 1)] = by
        checkpoint.compute(name, checkpoint.floatType(name), async () => {
          const values = await checkpoint.storedFloats(name)
          await native.scaleMatrix(values, count * headDim, hiddenSize, scale, null, values)
          return values
        })
      }
    })
    await writeDense(checkpoint, out)
  } finally {
    checkpoint.dispose()
  }
}
