// Products on a CUDA device: enqueued there, so that the result is a tensor whose elements come later.
import { explained } from "../core/cuda.ts"
import { dtypeInfo } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import { Tensor, tensorOnDevice } from "../core/tensor.ts"
import { native } from "../native.ts"
import { type MatmulOptions, matmulOptions } from "./matmul.ts"
import { type PackedWeight, readActivations } from "./packed-weight.ts"

const shapeText = (tensor: { shape: readonly number[] }) => `[${tensor.shape.join(", ")}]`

/** y = x Wᵀ (+ bias) on the weight's device. Does not wait; what fails there is told when the result is copied. */
export function multiplyOnDevice(
  caller: string,
  x: Tensor,
  w: PackedWeight,
  options: MatmulOptions | undefined,
): Tensor {
  const [n, k] = w.shape
  if (!(x instanceof Tensor)) throw new TsqError("ERR_DTYPE", `${caller}: x is ${describe(x)}, expected a Tensor`)
  if (x.device !== w.device)
    throw new TsqError(
      "ERR_DEVICE",
      `${caller}: x is on ${x.device} and the weight on ${w.device}, expected both on one device; \`await x.to("${w.device}")\` copies x there`,
    )
  if (x.dtype !== "f16" && x.dtype !== "bf16")
    throw new TsqError("ERR_DTYPE", `${caller}: x is ${x.dtype}, expected f16 or bf16 on ${w.device}; cast it first`)
  if (x.shape[x.shape.length - 1] !== k)
    throw new TsqError(
      "ERR_SHAPE",
      `${caller}: x has shape ${shapeText(x)}, expected [..., ${k}] for a weight of ${shapeText(w)}`,
    )
  const { bias, batchInvariant } = options === undefined ? plain : readOptions(caller, x, w, options)
  const m = x.size / k
  const shape = [...x.shape.slice(0, -1), n]
  try {
    const memory = native.cudaMatmul(
      w.handle,
      x.memory,
      dtypeInfo(x.dtype).code as 1 | 2,
      m,
      bias?.memory ?? null,
      batchInvariant,
    )
    return tensorOnDevice(shape, x.dtype, w.device as Exclude<PackedWeight["device"], "cpu">, memory)
  } catch (cause) {
    throw explained(`${caller}: the result ${x.dtype} [${shape.join(", ")}]`, cause)
  }
}

interface Checked {
  bias: Tensor | null
  batchInvariant: boolean
}
const plain: Checked = { bias: null, batchInvariant: false }

function readOptions(caller: string, x: Tensor, w: PackedWeight, values: MatmulOptions): Checked {
  const options = new Options(caller, values, matmulOptions)
  if (readActivations(options) !== "exact")
    throw new TsqError("ERR_UNSUPPORTED", `${caller}: option "activations" is "int8", which is for weights on the CPU`)
  if (options.has("out"))
    throw new TsqError("ERR_UNSUPPORTED", `${caller}: option "out" is for weights on the CPU; take the result instead`)
  const batchInvariant = options.boolean("batchInvariant", false)
  const bias = options.instance("bias", Tensor, null)
  if (bias === null) return { bias, batchInvariant }
  if (bias.device !== w.device)
    throw new TsqError(
      "ERR_DEVICE",
      `${caller}: option "bias" is on ${bias.device} and the weight on ${w.device}, expected both on one device`,
    )
  if (bias.dtype !== x.dtype)
    throw new TsqError("ERR_DTYPE", `${caller}: option "bias" is ${bias.dtype}, expected x's ${x.dtype} on ${w.device}`)
  if (bias.shape.length !== 1 || bias.size !== w.shape[0])
    throw new TsqError("ERR_SHAPE", `${caller}: option "bias" has shape ${shapeText(bias)}, expected [${w.shape[0]}]`)
  return { bias, batchInvariant }
}
