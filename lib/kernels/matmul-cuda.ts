// Products on a CUDA device: enqueued there, so that the result is a tensor whose elements come later.
import { explained, recording } from "../core/cuda.ts"
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
  if (w.inputDtype !== null && x.dtype !== w.inputDtype)
    throw new TsqError(
      "ERR_DTYPE",
      `${caller}: x is ${x.dtype} and the weight ${w.inputDtype}, expected both of one type on ${w.device}; cast one first`,
    )
  if (x.shape[x.shape.length - 1] !== k)
    throw new TsqError(
      "ERR_SHAPE",
      `${caller}: x has shape ${shapeText(x)}, expected [..., ${k}] for a weight of ${shapeText(w)}`,
    )
  recording.refuseOther(caller, w.device)
  const shape = [...x.shape.slice(0, -1), n]
  const { bias, out, batchInvariant } = options === undefined ? none : readOptions(caller, x, w, shape, options)
  const dtype = dtypeInfo(x.dtype).code as 1 | 2
  const product = [w.handle, x.memory, dtype, x.size / k, bias?.memory ?? null, batchInvariant] as const
  try {
    if (out === null) {
      const memory = native.cudaMatmul(...product)
      return tensorOnDevice(shape, x.dtype, w.device as Exclude<PackedWeight["device"], "cpu">, memory)
    }
    native.cudaMatmulInto(...product, out.memory)
    return out
  } catch (cause) {
    throw explained(`${caller}: the result ${x.dtype} [${shape.join(", ")}]`, cause)
  }
}

interface Operands {
  bias: Tensor | null
  out: Tensor | null
  batchInvariant: boolean
}
const none: Operands = { bias: null, out: null, batchInvariant: false }

function readOptions(
  caller: string,
  x: Tensor,
  w: PackedWeight,
  shape: readonly number[],
  values: MatmulOptions,
): Operands {
  const options = new Options(caller, values, matmulOptions)
  if (readActivations(options, "exact") === "int8")
    throw new TsqError("ERR_UNSUPPORTED", `${caller}: option "activations" is "int8", which is for weights on the CPU`)
  const batchInvariant = options.boolean("batchInvariant", false)
  const read = (name: "bias" | "out", expected: readonly number[]): Tensor | null => {
    const tensor = options.instance(name, Tensor, null)
    if (tensor === null) return null
    if (tensor.device !== w.device)
      throw new TsqError(
        "ERR_DEVICE",
        `${caller}: option "${name}" is on ${tensor.device} and the weight on ${w.device}, expected both on one device`,
      )
    if (tensor.dtype !== x.dtype)
      throw new TsqError(
        "ERR_DTYPE",
        `${caller}: option "${name}" is ${tensor.dtype}, expected x's ${x.dtype} on ${w.device}`,
      )
    if (tensor.shape.length !== expected.length || tensor.shape.some((size, i) => size !== expected[i]))
      throw new TsqError(
        "ERR_SHAPE",
        `${caller}: option "${name}" has shape ${shapeText(tensor)}, expected [${expected.join(", ")}]`,
      )
    return tensor
  }
  const [bias, out] = [read("bias", [w.shape[0]]), read("out", shape)]
  if (out !== null && (out === x || out === bias))
    throw new TsqError("ERR_OPTION", `${caller}: option "out" is also an input; give it memory of its own`)
  return { bias, out, batchInvariant }
}
