// g_idx: which group each input column belongs to, as GPTQ and compressed-tensors store it for activation order.
import { TsqError } from "../core/errors.ts"
import { sharedInts } from "../core/tensor.ts"

/** floor(k / groupSize), what a file stores where groups are consecutive columns. */
export function consecutiveGroups(k: number, groupSize: number): Int32Array {
  const index = sharedInts(k)
  for (let column = 0; column < k; column++) index[column] = Math.floor(column / groupSize)
  return index
}

/**
 * What a stored index means: null where groups are consecutive columns, otherwise the index itself. An index that never
 * decreases and yet differs is what some writers leave behind without activation order: `ordered` says whether to follow it.
 * ERR_CORRUPT, naming the tensor, for a group that does not exist.
 */
export function readGroupIndex(
  index: Int32Array,
  groupSize: number,
  groups: number,
  ordered: boolean,
  name: string,
  warn: (message: string) => void,
): Int32Array | null {
  let consecutive = true
  let monotonic = true
  for (const [column, group] of index.entries()) {
    if (group < 0 || group >= groups)
      throw new TsqError(
        "ERR_CORRUPT",
        `${name}: column ${column} belongs to group ${group}, expected 0 to ${groups - 1}`,
      )
    consecutive &&= group === Math.floor(column / groupSize)
    monotonic &&= column === 0 || group >= (index[column - 1] as number)
  }
  if (consecutive) return null
  if (ordered || !monotonic) return index
  warn(
    `${name}: differs from column / ${groupSize} although the configuration says that columns are not reordered; it is ignored, as other loaders do`,
  )
  return null
}
