// How far a quantized model is from the original, measured before anything is written.
import { throwIfAborted } from "../../core/errors.ts"
import { CheckpointSource } from "../../engine/checkpoint-source.ts"
import type { StoredBlock } from "../block-store.ts"
import { CalibrationRun } from "../calibration-run.ts"
import type { QuantizationJob } from "../job.ts"
import { storedSource } from "../stored-source.ts"
import { outputOf, probeSet } from "./sensitivity.ts"

export interface StoredBlocks {
  /** By layer. */
  blocks: readonly StoredBlock[]
  /** Embedding and head; null where both are kept. */
  ends: StoredBlock | null
  /** What to dispose. */
  all: readonly StoredBlock[]
}

/** Mean KL(original || quantized) in nats per token, on the windows that damages were measured on. Memory: one block at a time. */
export async function storedDivergence(
  { checkpoint, program, calibration }: QuantizationJob,
  { blocks, ends }: StoredBlocks,
  signal: AbortSignal | undefined,
): Promise<number> {
  const dense = new CheckpointSource(checkpoint, () => {})
  const outer = ends ? storedSource(ends, dense) : dense
  const set = probeSet(calibration!)
  const original = await CalibrationRun.start(program, dense, set, signal)
  try {
    const reference = await outputOf(original, program, signal)
    // An embedding that was rounded changes what the first block reads; the original's head is bound from `dense` all the same.
    const run = ends ? await CalibrationRun.start(program, dense, set, signal, null, outer) : original
    try {
      for (const [layer, block] of blocks.entries()) {
        throwIfAborted(signal)
        const bound = await run.bind(layer, storedSource(block, dense))
        try {
          await run.advance(bound, signal)
        } finally {
          bound.dispose()
        }
      }
      return Math.max(0, await run.divergence(reference, signal, outer))
    } finally {
      if (run !== original) run.dispose()
    }
  } finally {
    original.dispose()
  }
}
