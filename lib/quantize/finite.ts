// The refusal of NaN and Inf, with their position.
import { dtypeInfo } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import type { Tensor } from "../core/tensor.ts"
import { native } from "../native.ts"

/** ERR_NUMERIC where a float tensor (mapped or pinned) holds NaN or Inf: `what` names the tensor, `advice` says what to do. */
export async function checkFinite(tensor: Tensor, what: string, advice: string): Promise<void> {
  if (tensor.size === 0) return
  const [nans, infinities, , first] = await native.scan(tensor.source, dtypeInfo(tensor.dtype).code, tensor.size)
  if (first === -1) return
  const counts = [nans! > 0 ? `${nans} NaN` : "", infinities! > 0 ? `${infinities} Inf` : ""]
    .filter(Boolean)
    .join(" and ")
  throw new TsqError(
    "ERR_NUMERIC",
    `${what} [${tensor.shape.join(", ")}] holds ${counts}, the first at [${position(first!, tensor.shape).join(", ")}], expected finite values; ${advice}`,
  )
}

function position(index: number, shape: readonly number[]): number[] {
  const result: number[] = []
  for (const size of [...shape].reverse()) {
    result.unshift(index % size)
    index = Math.floor(index / size)
  }
  return result
}
