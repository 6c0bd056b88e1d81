// Rows of a checkpoint's tensor in the order of the GGUF tensor.
import { setImmediate as turn } from "node:timers/promises"
import type { Checkpoint } from "../containers/checkpoint.ts"
import type { GgufTensorPlan } from "../containers/gguf-writer.ts"
import { dtypeInfo } from "../core/dtype.ts"
import { sharedFloats } from "../core/tensor.ts"
import { type RowOrder, shifted } from "../models/gguf-layout.ts"
import { transposedFloats } from "../models/transposed.ts"
import { native } from "../native.ts"

/** A tensor of the checkpoint and what becomes of it. */
export interface PlannedTensor extends GgufTensorPlan, StoredTensor {
  /** Values that no checkpoint has. */
  computed?: Float32Array
  /** Tensors of the checkpoint that follow each other in this one, [experts, n, k]; source is the first. */
  experts?: readonly string[]
  /** The mixture's type, where rows do not fill its blocks. */
  instead: string | null
}

/** A tensor of the checkpoint, and how the file's differs. */
export interface StoredTensor {
  /** Empty where it is computed. */
  source: string
  rows: RowOrder | null
  /** It is [k, n] in the checkpoint. */
  transposed: boolean
  /** What the file has more in every element. */
  offset: number
}

const turnElements = 1 << 20

/** f32 [count, k], on shared memory. Where rows change places, `begin` and `count` are whole heads. */
export async function readRows(
  checkpoint: Checkpoint,
  { source, rows: order, transposed, offset }: StoredTensor,
  [begin, count, k]: readonly [number, number, number],
): Promise<Float32Array> {
  const { dtype } = checkpoint.tensor(source)
  if (transposed) {
    const n = checkpoint.entry(source).shape[1]!
    return (await transposedFloats(await checkpoint.floats(source), k, n)).subarray(begin * k, (begin + count) * k)
  }
  const { bytes, code } = dtypeInfo(dtype)
  const { mapping, offset: at } = checkpoint.mapped(source)
  const values = sharedFloats(count * k)
  for (const { from, to, rows } of runsOf(order, begin, count)) {
    const stored = { mapping, offset: at + from * k * bytes, bytes: rows * k * bytes }
    await native.convertAsync(stored, code, values.subarray(to * k, (to + rows) * k), dtypeInfo("f32").code, rows * k)
  }
  if (order === null || order.hfRow(1) === order.hfRow(0) + 1) return shifted(values, offset)
  const ordered = sharedFloats(count * k)
  // A few megabytes in one turn of the event loop.
  const rowsInTurn = Math.max(1, Math.floor(turnElements / k))
  for (let row = 0; row < count; row++) {
    if (row > 0 && row % rowsInTurn === 0) await turn()
    const head = row - (row % order.head)
    const from = (head + (order.hfRow(begin + row) % order.head)) * k
    ordered.set(values.subarray(from, from + k), row * k)
  }
  return shifted(ordered, offset)
}

/** Rows of heads that lie together in the checkpoint as they do in the file, `to` counted from the first row asked for. */
function runsOf(order: RowOrder | null, begin: number, count: number): { from: number; to: number; rows: number }[] {
  if (order === null) return [{ from: begin, to: 0, rows: count }]
  const runs: { from: number; to: number; rows: number }[] = []
  for (let to = 0; to < count; to += order.head) {
    const first = order.hfRow(begin + to)
    const from = first - (first % order.head)
    const last = runs.at(-1)
    if (last && last.from + last.rows === from) last.rows += order.head
    else runs.push({ from, to, rows: order.head })
  }
  return runs
}
