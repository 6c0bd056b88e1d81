// Writes what a checkpoint reads as, computed tensors included, unquantized.
import { mkdirSync } from "node:fs"
import type { Checkpoint } from "../../../../lib/containers/checkpoint.ts"
import { fromCheckpoint, writeCheckpoint } from "../../../../lib/quantize/write-checkpoint.ts"

/** Into the new folder `out`. */
export async function writeDense(checkpoint: Checkpoint, out: string): Promise<void> {
  mkdirSync(out)
  await writeCheckpoint(out, {
    source: fromCheckpoint(checkpoint),
    format: null,
    summary: { modules: new Map(), unquantized: [], damp: null, version: "" },
    options: { scaleType: "f32", gptqVersion: "v1" },
    tensor: () => Promise.reject(new Error("nothing is quantized")),
    moduleAt: () => null,
    omitted: new Set(),
    files: () => ({}),
  })
}
