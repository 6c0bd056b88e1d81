// Rows of a checkpoint's tensor in the order of the GGUF tensor.
import { setImmediate as turn } from "node:timers/promises"
import type { Checkpoint } from "../containers/checkpoint.ts"
import type { GgufTensorPlan } from "../containers/gguf-writer.ts"
import { dtypeInfo } from "../core/dtype.ts"
import { sharedFloats } from "../core/tensor.ts"
import { hfRow } from "../models/gguf-names.ts"
import { native } from "../native.ts"

/** A tensor of the checkpoint and what becomes of it. */
export interface PlannedTensor extends GgufTensorPlan {
  /** null: the frequency factors, which are no tensor of a checkpoint. */
  source: string | null
  permuted: boolean
  /** Tensors of the checkpoint that follow each other in this one, [experts, n, k]; source is the first. */
  experts?: readonly string[]
  /** The mixture's type, where rows do not fill its blocks. */
  instead: string | null
}

const turnElements = 1 << 20

/** f32 [count, k], on shared memory. Where rows change places, `begin` and `count` are whole heads. */
export async function readRows(
  checkpoint: Checkpoint,
  { source, permuted }: { source: string; permuted: boolean },
  [begin, count, k]: readonly [number, number, number],
  headDim: number,
): Promise<Float32Array> {
  const { dtype } = checkpoint.tensor(source)
  const { bytes, code } = dtypeInfo(dtype)
  const { mapping, offset } = checkpoint.mapped(source)
  const size = count * k
  const values = sharedFloats(size)
  const stored = { mapping, offset: offset + begin * k * bytes, bytes: size * bytes }
  await native.convertAsync(stored, code, values, dtypeInfo("f32").code, size)
  if (!permuted) return values
  const ordered = sharedFloats(size)
  // A few megabytes in one turn of the event loop.
  const rowsInTurn = Math.max(1, Math.floor(turnElements / k))
  for (let row = 0; row < count; row++) {
    if (row > 0 && row % rowsInTurn === 0) await turn()
    const from = hfRow(row, headDim) * k
    ordered.set(values.subarray(from, from + k), row * k)
  }
  return ordered
}
