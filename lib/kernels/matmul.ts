// y = x Wᵀ (+ bias) for every kind of weight: arguments are checked here, the kernels compute.
import { dtypeInfo, isFloat } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import { isShared, sharedFloats } from "../core/shared-array.ts"
import { Tensor, tensorOver } from "../core/tensor.ts"
import { type ActivationsCode, type DtypeCode, native } from "../native.ts"
import { multiplyOnDevice } from "./matmul-cuda.ts"
import {
  type Activations,
  activationsCode,
  PackedWeight,
  packDenseSync,
  packedOf,
  packedOfAsync,
  prepackDense,
  readActivations,
} from "./packed-weight.ts"

export interface MatmulOptions {
  /** [n], f32, f16 or bf16; added before the result is rounded. */
  bias?: Tensor
  /** Receives the result: the shape and dtype that the call would return. On a CUDA device such calls make no memory. */
  out?: Tensor
  /**
   * Default of `matmul` "scheme": as the weight's scheme says, which is how it was asked for (quantize(weight, { scheme: "w8a8" })).
   * Default of `matmulW4A16` "exact".
   */
  activations?: Activations
  /**
   * Default false. true: a row of the result has the same bits however many rows x has and whatever they hold. For weights on a
   * CUDA device; ERR_UNSUPPORTED for those on the CPU, whose kernels add up a row of a small call in another order.
   */
  batchInvariant?: boolean
}

export const matmulOptions = ["bias", "out", "activations", "batchInvariant"] as const

export type Weight = QuantizedTensor | PackedWeight | Tensor

/**
 * y = x Wᵀ (+ bias). x is [k] or [..., k] (leading dimensions are rows), f32, f16 or bf16; the result is [n] or [..., n] of the
 * same type. Accumulates in f32 and rounds once. Blocks for its own duration; on a CUDA device, where x, a packed weight and a
 * bias then all must lie, it only enqueues the product. A QuantizedTensor is packed by the first call
 * and the pack kept; a float Tensor is packed by every call: `prepack` it when it is used again.
 * ERR_SHAPE, ERR_DTYPE, ERR_DEVICE or ERR_OPTION name the argument at fault.
 */
export function matmul(x: Tensor, w: Weight, options?: MatmulOptions): Tensor {
  if (w instanceof Tensor) {
    checkHost("matmul", x, w)
    const packed = packDenseSync(w, "matmul")
    try {
      return multiply("matmul", x, packed, options, "scheme")
    } finally {
      packed.dispose()
    }
  }
  if (w instanceof QuantizedTensor) checkHost("matmul", x)
  return multiply("matmul", x, packedWeight("matmul", w), options, "scheme")
}

/** The same off the event loop. Arrays that may be detached are copied first; `out` is written when the promise resolves. */
matmul.async = async (x: Tensor, w: Weight, options?: MatmulOptions): Promise<Tensor> => {
  if (!(w instanceof Tensor)) return multiplyAsync("matmul", x, w, options, "scheme")
  checkHost("matmul", x, w)
  const packed = await prepackDense(w)
  try {
    return await multiplyAsync("matmul", x, packed, options, "scheme")
  } finally {
    packed.dispose()
  }
}

/** Refuses what lies on a CUDA device, before a weight of the CPU is packed for it. */
export function checkHost(caller: string, x: Tensor, w?: Tensor): void {
  if (w?.device.startsWith("cuda"))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${caller}: the weight is a float tensor on ${w.device}; \`await prepack(weight, { device: "${w.device}" })\` makes one that products there take`,
    )
  if (x instanceof Tensor && x.device.startsWith("cuda"))
    throw new TsqError(
      "ERR_DEVICE",
      `${caller}: x is on ${x.device} and the weight on cpu, expected both on one device; \`await prepack(weight, { device: "${x.device}" })\` packs the weight there`,
    )
}

export function packedWeight(caller: string, w: QuantizedTensor | PackedWeight): PackedWeight {
  if (w instanceof QuantizedTensor) return packedOf(w)
  if (w instanceof PackedWeight) return w
  throw new TsqError(
    "ERR_DTYPE",
    `${caller}: the weight is ${describe(w)}, expected a QuantizedTensor, PackedWeight or Tensor`,
  )
}

export function multiply(
  caller: string,
  x: Tensor,
  w: PackedWeight,
  options: MatmulOptions | undefined,
  otherwise: Activations,
): Tensor {
  if (w.device !== "cpu") return multiplyOnDevice(caller, x, w, options)
  const m = rowsOf(caller, x, w)
  const code = dtypeInfo(x.dtype).code
  if (options === undefined) {
    const y = arrayTensor(x, w.shape[0], m)
    if (m > 0) native.matmul(w.handle, x.data, code, m, y.data, code, null, activationsCode(otherwise))
    return y
  }
  const checked = readOptions(caller, x, w, options, otherwise)
  const y = checked.out ?? arrayTensor(x, w.shape[0], m)
  if (m > 0)
    native.matmul(w.handle, x.data, code, m, y.data, code, biasFloats(checked.bias, false), checked.activations)
  return y
}

export async function multiplyAsync(
  caller: string,
  x: Tensor,
  weight: QuantizedTensor | PackedWeight,
  options: MatmulOptions | undefined,
  otherwise: Activations,
): Promise<Tensor> {
  // Everything is checked and the bias taken before the first await: what the caller does later changes nothing.
  const shape =
    weight instanceof QuantizedTensor || weight instanceof PackedWeight ? weight : packedWeight(caller, weight)
  if (shape instanceof PackedWeight && shape.device !== "cpu") return multiplyOnDevice(caller, x, shape, options)
  const m = rowsOf(caller, x, shape)
  const { bias, out, activations } = readOptions(caller, x, shape, options, otherwise)
  const floats = biasFloats(bias, true)
  const code: DtypeCode = dtypeInfo(x.dtype).code
  const [input, packed] = await Promise.all([
    x.pinned(),
    weight instanceof QuantizedTensor ? packedOfAsync(weight) : Promise.resolve(weight),
  ])
  const y = out && isShared(out.data) ? out : Tensor.empty(outputShape(x, shape.shape[0]), x.dtype)
  if (m > 0) await native.matmulAsync(packed.handle, input.data, code, m, y.data, code, floats, activations)
  if (!out || y === out) return y
  out.data.set(y.data as never)
  return out
}

/** Checks x against the weight; returns its rows. */
function rowsOf(caller: string, x: Tensor, w: { shape: readonly [number, number] }): number {
  if (!(x instanceof Tensor)) throw new TsqError("ERR_DTYPE", `${caller}: x is ${describe(x)}, expected a Tensor`)
  if (!isFloat(x.dtype)) throw new TsqError("ERR_DTYPE", `${caller}: x is ${x.dtype}, expected f32, f16 or bf16`)
  checkHost(caller, x)
  if (x.device !== "cpu")
    throw new TsqError("ERR_DEVICE", `${caller}: x lies in a mapped file; \`await x.to("cpu")\` copies it into memory`)
  const k = w.shape[1]
  if (x.shape[x.shape.length - 1] !== k)
    throw new TsqError(
      "ERR_SHAPE",
      `${caller}: x has shape [${x.shape.join(", ")}], expected [..., ${k}] for a weight of [${w.shape.join(", ")}]`,
    )
  return x.size / k
}

function outputShape(x: Tensor, n: number): number[] {
  const shape = x.shape.slice()
  shape[shape.length - 1] = n
  return shape
}

/** The result of a synchronous call lies on an ordinary array, which is cheaper to make than a shared one. */
function arrayTensor(x: Tensor, n: number, m: number): Tensor {
  const shape = outputShape(x, n)
  try {
    return tensorOver(shape, x.dtype, x.dtype === "f32" ? new Float32Array(m * n) : new Uint16Array(m * n))
  } catch (cause) {
    throw new TsqError(
      "ERR_MEMORY",
      `matmul: cannot allocate the result [${shape.join(", ")}]; multiply fewer rows at a time`,
      { cause },
    )
  }
}

interface Checked {
  bias?: Tensor
  out?: Tensor
  activations: ActivationsCode
}

function readOptions(
  caller: string,
  x: Tensor,
  w: { shape: readonly [number, number] },
  values: MatmulOptions | undefined,
  otherwise: Activations,
): Checked {
  const options = new Options(caller, values, matmulOptions)
  const n = w.shape[0]
  const result: Checked = { activations: activationsCode(readActivations(options, otherwise)) }
  if (options.boolean("batchInvariant", false))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${caller}: option "batchInvariant" is true, which is for weights on a CUDA device; on the CPU the order of sums depends on the rows of a call: multiply in calls of one size`,
    )
  const bias = options.instance("bias", Tensor, undefined)
  if (bias) {
    if (!isFloat(bias.dtype))
      throw new TsqError("ERR_DTYPE", `${caller}: option "bias" is ${bias.dtype}, expected f32, f16 or bf16`)
    if (bias.device.startsWith("cuda")) refuseDevice(caller, "bias", bias)
    if (bias.shape.length !== 1 || bias.size !== n)
      throw new TsqError("ERR_SHAPE", `${caller}: option "bias" has shape [${bias.shape.join(", ")}], expected [${n}]`)
    result.bias = bias
  }
  const out = options.instance("out", Tensor, undefined)
  if (out) {
    const expected = outputShape(x, n)
    if (out.dtype !== x.dtype)
      throw new TsqError("ERR_DTYPE", `${caller}: option "out" is ${out.dtype}, expected x's ${x.dtype}`)
    if (out.device.startsWith("cuda")) refuseDevice(caller, "out", out)
    if (out.device !== "cpu")
      throw new TsqError(
        "ERR_DEVICE",
        `${caller}: option "out" lies in a mapped file, which is read-only; give a tensor in memory`,
      )
    if (out.shape.length !== expected.length || out.shape.some((size, i) => size !== expected[i]))
      throw new TsqError(
        "ERR_SHAPE",
        `${caller}: option "out" has shape [${out.shape.join(", ")}], expected [${expected.join(", ")}]`,
      )
    if (overlap(out.data, x.data) || (result.bias?.device === "cpu" && overlap(out.data, result.bias.data)))
      throw new TsqError("ERR_OPTION", `${caller}: option "out" overlaps an input in memory; give it memory of its own`)
    result.out = out
  }
  return result
}

function refuseDevice(caller: string, option: string, { device }: Tensor): never {
  throw new TsqError(
    "ERR_DEVICE",
    `${caller}: option "${option}" is on ${device} and the weight on cpu, expected both on one device`,
  )
}

function overlap(a: ArrayBufferView, b: ArrayBufferView): boolean {
  return (
    a.buffer === b.buffer && a.byteOffset < b.byteOffset + b.byteLength && b.byteOffset < a.byteOffset + a.byteLength
  )
}

/** The bias as f32: the tensor's own array where that will do. `keep`: on shared memory, safe from later changes. */
function biasFloats(bias: Tensor | undefined, keep: boolean): Float32Array | null {
  if (!bias) return null
  if (!keep && bias.device === "cpu" && bias.data instanceof Float32Array) return bias.data
  const floats = keep ? sharedFloats(bias.size) : new Float32Array(bias.size)
  native.convert(bias.source, dtypeInfo(bias.dtype).code, floats, 0, bias.size)
  return floats
}
