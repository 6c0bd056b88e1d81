// Codes back to floats.
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import { shareable, sharedFloats } from "../core/shared-array.ts"
import { Tensor } from "../core/tensor.ts"
import { native } from "../native.ts"

/**
 * The f32 weight [n, k] that a quantized tensor stands for (see QuantizedTensor), each operation rounded to f32. On the calling thread.
 */
export function dequantize(q: QuantizedTensor): Tensor {
  check(q)
  const [n, k] = q.shape
  const out = Tensor.empty(q.shape)
  const { bits, groupSize } = q.scheme
  const { codes, scales, zeros, offsets, codebook, groupIndex, inputScale } = q
  const values = out.data as Float32Array
  native.dequantizeSync(codes, scales, zeros, offsets, codebook, n, k, bits, groupSize, groupIndex, inputScale, values)
  return out
}

/** The same off the event loop: f32 [n, k] on shared memory. */
export async function dequantizeAsync(q: QuantizedTensor): Promise<Float32Array> {
  check(q)
  const [n, k] = q.shape
  const out = sharedFloats(n * k)
  await native.dequantize(
    await shareable(q.codes),
    await shareable(q.scales),
    q.zeros && (await shareable(q.zeros)),
    q.offsets && (await shareable(q.offsets)),
    q.codebook && (await shareable(q.codebook)),
    n,
    k,
    q.scheme.bits,
    q.scheme.groupSize,
    q.groupIndex && (await shareable(q.groupIndex)),
    q.inputScale && (await shareable(q.inputScale)),
    out,
  )
  return out
}

function check(q: unknown): void {
  if (!(q instanceof QuantizedTensor))
    throw new TsqError("ERR_DTYPE", `dequantize: the argument is ${describe(q)}, expected a QuantizedTensor`)
}
