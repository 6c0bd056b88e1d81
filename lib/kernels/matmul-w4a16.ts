// matmul for 4-bit weights: 16-bit (or f32) activations against dequantized weights, f32 accumulation.
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import type { Tensor } from "../core/tensor.ts"
import { checkHost, type MatmulOptions, multiply, multiplyAsync } from "./matmul.ts"
import { PackedWeight, packedOf } from "./packed-weight.ts"

/**
 * y = x Wᵀ (+ bias) with a 4-bit weight: x [k] or [..., k] in f32, f16 or bf16, result of the same type. Activations are never
 * quantized silently, whatever the scheme of the weight says. A QuantizedTensor is packed by the first call and the pack kept. On a CUDA device, where x, a packed weight
 * and a bias then all must lie, it only enqueues the product. Refuses weights that are not 4-bit with
 * ERR_UNSUPPORTED (`matmul` takes any); other refusals as for `matmul`.
 */
export function matmulW4A16(x: Tensor, w: QuantizedTensor | PackedWeight, options?: MatmulOptions): Tensor {
  const packed = w instanceof PackedWeight ? w : packedHere(x, w)
  if (packed.bits !== 4) refuse(packed.bits)
  return multiply("matmulW4A16", x, packed, options, "exact")
}

/** The same off the event loop. Arrays that may be detached are copied first; `out` is written when the promise resolves. */
matmulW4A16.async = async (x: Tensor, w: QuantizedTensor | PackedWeight, options?: MatmulOptions): Promise<Tensor> => {
  if (!(w instanceof PackedWeight)) fourBit(w)
  else if (w.bits !== 4) refuse(w.bits)
  return multiplyAsync("matmulW4A16", x, w, options, "exact")
}

/** Checks before packing, which a refused call should not cost. */
function packedHere(x: Tensor, w: QuantizedTensor): PackedWeight {
  fourBit(w)
  checkHost("matmulW4A16", x)
  return packedOf(w)
}

function fourBit(w: QuantizedTensor): void {
  if (!(w instanceof QuantizedTensor))
    throw new TsqError(
      "ERR_DTYPE",
      `matmulW4A16: the weight is ${describe(w)}, expected a QuantizedTensor or PackedWeight`,
    )
  if (w.scheme.bits !== 4) refuse(w.scheme.bits)
}

function refuse(bits: number): never {
  throw new TsqError("ERR_UNSUPPORTED", `matmulW4A16: the weight has ${bits} bits, expected 4; matmul takes any weight`)
}
