// Dense weights that a checkpoint stores [k, n] (GPT-2's Conv1D).
import type { Dtype } from "../core/dtype.ts"
import { shareable, sharedBytes, sharedFloats } from "../core/shared-array.ts"
import { Tensor } from "../core/tensor.ts"
import { native } from "../native.ts"

/** [columns, rows] of a [rows, columns] matrix on shared memory. */
export async function transposedFloats(values: Float32Array, rows: number, columns: number): Promise<Float32Array> {
  const out = sharedFloats(values.length)
  await native.transpose(values, rows, columns, 4, out)
  return out
}

/** The same of stored floats. */
export async function transposedBytes(
  stored: Uint8Array,
  rows: number,
  columns: number,
  dtype: Dtype,
): Promise<Uint8Array> {
  const out = sharedBytes(stored.length)
  await native.transpose(await shareable(stored), rows, columns, dtype === "f32" ? 4 : 2, out)
  return out
}

/** A dense tensor [rows, columns] of floats as one [columns, rows] of the same type. */
export async function transposedTensor(tensor: Tensor): Promise<Tensor> {
  const [rows, columns] = tensor.shape as readonly [number, number]
  const stored = await shareable(await tensor.toArray())
  const out = Tensor.empty([columns, rows], tensor.dtype)
  const bytes = tensor.dtype === "f32" ? 4 : 2
  await native.transpose(stored, rows, columns, bytes, out.data)
  return out
}
