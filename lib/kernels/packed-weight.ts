// Weights in the layout of the kernels: native objects with explicit disposal.

import { type CudaDeviceId, type Device, explained, openDevice, readDevice } from "../core/cuda.ts"
import { type Dtype, dtypeInfo, isFloat } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import { describe, listChoices, Options } from "../core/options.ts"
import { QuantizedTensor } from "../core/quantized-tensor.ts"
import { shareable } from "../core/shared-array.ts"
import { codeLayouts, type StoredTensor } from "../core/stored-tensor.ts"
import { Tensor } from "../core/tensor.ts"
import { type ActivationsCode, type Handle, NativeHandle, native, type Source } from "../native.ts"
import { type ActivationType, activationNumbers, activationTypes } from "./activation-scheme.ts"

/** A weight [n, k] packed for the kernels. Made by `prepack`; freed by `dispose()`, or when it is collected. */
export class PackedWeight {
  readonly shape: readonly [number, number]
  /** Of a code; 16 or 32 for float weights. */
  readonly bits: number
  /** Where it lies, and where products with it are computed. */
  readonly device: "cpu" | CudaDeviceId
  /** Memory held there. */
  readonly bytes: number
  /** The type that x has to have; null: any that the device takes. */
  readonly inputDtype: "f16" | "bf16" | null
  /**
   * "fused": products take the weight as it is stored. "reference": no kernel takes such codes, which are held as the f32 values that
   * they stand for; exact, with the memory and the speed of floats.
   */
  readonly kernel: "fused" | "reference"
  /** What `activations: "scheme"` rounds activations to, as the scheme of the weight says. */
  readonly activations: ActivationType
  readonly #native: NativeHandle

  /** Takes ownership of a native handle; not for applications, which call `prepack`. */
  constructor(
    handle: Handle,
    shape: readonly [number, number],
    bits: number,
    device: "cpu" | CudaDeviceId = "cpu",
    inputDtype: "f16" | "bf16" | null = null,
  ) {
    this.#native = new NativeHandle(handle, `the packed weight [${shape.join(", ")}]`)
    this.shape = Object.freeze([shape[0], shape[1]] as const)
    this.bits = bits
    this.device = device
    this.bytes = native.handleBytes(handle)
    this.inputDtype = inputDtype
    this.kernel = device === "cpu" && !native.weightIsFused(handle) ? "reference" : "fused"
    this.activations = device === "cpu" ? activationTypes[native.weightActivations(handle)] : "exact"
  }

  /** For native calls. ERR_OPTION once disposed. */
  get handle(): Handle {
    return this.#native.value
  }

  get disposed(): boolean {
    return this.#native.disposed
  }

  /** Frees the memory once running calls that use it end. Disposing twice is no error. */
  dispose(): void {
    this.#native.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

export interface PrepackOptions {
  /** Default "cpu". A CUDA device takes codes with f16 or bf16 scales, and weights of f16 or bf16. */
  device?: Device
  /** What the kernels will multiply with. One layout serves all, so that this only checks the value. */
  activations?: Activations
}

/**
 * What is multiplied with the weights. "exact": the activations as they are. "int8": activations rounded to 8 bits,
 * symmetric, by row and group of the weight (at most 256 columns): faster, with a relative error of about 6e-3 on normal
 * values. Weights that are not quantized are multiplied exactly all the same. "scheme": activations rounded as the scheme of
 * each weight says (W8A8, FP8, LLM.int8()), and exact where it says nothing.
 */
export type Activations = (typeof activationChoices)[number]
export const activationChoices = ["exact", "int8", "scheme"] as const

/** Shared by every call that takes `activations`. */
export function readActivations(options: Options, otherwise: Activations): Activations {
  return options.oneOf("activations", activationChoices, otherwise)
}

/** For native calls. */
export const activationsCode = (activations: Activations): ActivationsCode =>
  activationChoices.indexOf(activations) as ActivationsCode

/**
 * Packs a weight off the event loop: a QuantizedTensor, or a float Tensor in its own storage type. The caller owns the
 * result and may dispose it. ERR_FORMAT when a code does not fit the tensor's bits or groupIndex assigns no valid groups.
 *
 * On a CUDA device codes of 2 to 4 bits are stored in 4 bits and those of 5 to 8 in 8; groups are 16, 32, a multiple of 64 or
 * all of k, and scales values of f16 or bf16 (ERR_UNSUPPORTED). Float weights are f16 or bf16, and x then has to be of their
 * type; they may already lie on the device. ERR_DEVICE where the device is not available or has no room, with the bytes
 * wanted, free and in all.
 */
export async function prepack(weight: QuantizedTensor | Tensor, options?: PrepackOptions): Promise<PackedWeight> {
  const checked = new Options("prepack", options, ["device", "activations"])
  const device = readDevice("prepack", checked.string("device", "cpu"))
  readActivations(checked, "scheme")
  if (weight instanceof QuantizedTensor) return device === "cpu" ? packTensor(weight) : packOnDevice(weight, device)
  if (weight instanceof Tensor) {
    return device === "cpu" ? prepackDense(weight) : packFloatsOnDevice(weight, device)
  }
  throw new TsqError("ERR_DTYPE", `prepack: weight is ${describe(weight)}, expected a QuantizedTensor or a Tensor`)
}

/**
 * Packs a float weight [n, k] off the event loop. `kind` is the storage in the pack (default: the tensor's own), rounded to
 * nearest even where it narrows. A mapped tensor is read from its file without a copy.
 */
export async function prepackDense(tensor: Tensor, kind?: "f32" | "f16" | "bf16"): Promise<PackedWeight> {
  const [n, k] = denseShape(tensor, "prepack")
  if (kind !== undefined && !["f32", "f16", "bf16"].includes(kind))
    throw new TsqError(
      "ERR_OPTION",
      `prepack: kind is ${describe(kind)}, expected ${listChoices(["f32", "f16", "bf16"])}`,
    )
  const storage = weightKind(kind ?? tensor.dtype)
  const source: Source = tensor.device === "mapped" ? tensor.source : (await tensor.pinned()).data
  const handle = await native.packDense(source, dtypeInfo(tensor.dtype).code, n, k, storage)
  return new PackedWeight(handle, [n, k], storage === 0 ? 32 : 16)
}

/** Packs a float weight on the calling thread. */
export function packDenseSync(tensor: Tensor, caller: string): PackedWeight {
  const [n, k] = denseShape(tensor, caller)
  const storage = weightKind(tensor.dtype)
  const handle = native.packDenseSync(tensor.source, dtypeInfo(tensor.dtype).code, n, k, storage)
  return new PackedWeight(handle, [n, k], storage === 0 ? 32 : 16)
}

// WeightKind of a float type has the type's own code.
const weightKind = (dtype: Dtype): 0 | 1 | 2 => dtypeInfo(dtype).code as 0 | 1 | 2

/** [n, k] of a float weight; ERR_DTYPE or ERR_SHAPE for anything that is none. */
export function denseShape(tensor: Tensor, caller: string): readonly [number, number] {
  if (!isFloat(tensor.dtype))
    throw new TsqError("ERR_DTYPE", `${caller}: the weight is ${tensor.dtype}, expected f32, f16 or bf16`)
  const [n, k] = tensor.shape
  if (tensor.shape.length !== 2 || !n || !k)
    throw new TsqError(
      "ERR_SHAPE",
      `${caller}: the weight has shape [${tensor.shape.join(", ")}], expected [n, k] = [outFeatures, inFeatures], both positive`,
    )
  return [n, k]
}

// One pack for each QuantizedTensor, kept as long as the tensor is.
const packs = new WeakMap<QuantizedTensor, PackedWeight>()
const pending = new WeakMap<QuantizedTensor, Promise<PackedWeight>>()

/** The pack that matmul uses for a tensor: made by the first call, on the calling thread. */
export function packedOf(q: QuantizedTensor): PackedWeight {
  let packed = packs.get(q)
  if (packed === undefined) {
    const [n, k] = q.shape
    const { bits, groupSize } = q.scheme
    const layout = codeLayouts.bytes
    const { codes, scales, zeros, offsets, codebook, groupIndex, inputScale } = q
    const handle = native.packCodesSync(
      codes,
      layout,
      n,
      k,
      bits,
      groupSize,
      scales,
      zeros,
      offsets,
      codebook,
      groupIndex,
      inputScale,
      activationNumbers(q.scheme, q.activation),
    )
    packed = new PackedWeight(handle, q.shape, bits)
    packs.set(q, packed)
  }
  return packed
}

/** The same, made off the event loop; calls that come meanwhile wait for one pack. */
export async function packedOfAsync(q: QuantizedTensor): Promise<PackedWeight> {
  const packed = packs.get(q)
  if (packed) return packed
  let making = pending.get(q)
  if (!making) {
    making = packTensor(q).finally(() => pending.delete(q))
    pending.set(q, making)
  }
  const made = await making
  // A synchronous call may have packed meanwhile: the first one stays.
  const first = packs.get(q)
  if (first) return first
  packs.set(q, made)
  return made
}

/** Packs what a checkpoint stores, as it lies there. */
export const prepackStored = (stored: StoredTensor): Promise<PackedWeight> =>
  packParts(stored, stored.codes, stored.layout, null)

const packTensor = async (q: QuantizedTensor): Promise<PackedWeight> =>
  packParts(q, await shareable(q.codes), codeLayouts.bytes, q.inputScale)

async function packParts(
  { shape, scheme, scales, zeros, offsets, codebook, groupIndex, activation }: QuantizedTensor | StoredTensor,
  codes: Source,
  layout: StoredTensor["layout"],
  inputScale: Float32Array | null,
): Promise<PackedWeight> {
  const [n, k] = shape
  const handle = await native.packCodes(
    codes,
    layout,
    n,
    k,
    scheme.bits,
    scheme.groupSize,
    await shareable(scales),
    zeros && (await shareable(zeros)),
    offsets && (await shareable(offsets)),
    codebook && (await shareable(codebook)),
    groupIndex && (await shareable(groupIndex)),
    inputScale && (await shareable(inputScale)),
    activationNumbers(scheme, activation),
  )
  return new PackedWeight(handle, shape, scheme.bits)
}

/** On a CUDA device, where the codes are also brought into the order of the kernels. */
async function packOnDevice(q: QuantizedTensor, device: CudaDeviceId): Promise<PackedWeight> {
  const [n, k] = q.shape
  const { bits, groupSize, scaleType } = q.scheme
  if (q.codebook || q.offsets)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `prepack: the weight [${n}, ${k}] has ${q.codebook ? `the code book ${q.scheme.codebook}` : "float offsets"}; kernels on ${device} take whole numbers with zero points; use device "cpu", or pack dequantize(weight) as f16 or bf16`,
    )
  const [codes, scales, zeros, inputScale, handle] = await Promise.all([
    shareable(q.codes),
    shareable(q.scales),
    q.zeros && shareable(q.zeros),
    q.inputScale && shareable(q.inputScale),
    openDevice("prepack", device),
  ])
  try {
    const weight = await native.cudaPackCodes(
      handle,
      codes,
      n,
      k,
      bits,
      groupSize,
      scales,
      scaleType === "bf16",
      zeros,
      q.groupIndex,
      inputScale,
    )
    return new PackedWeight(weight, q.shape, bits, device)
  } catch (cause) {
    throw explained(`prepack: the weight [${n}, ${k}]`, cause)
  }
}

/** Weights as they are; one that already lies on the device is not copied. */
async function packFloatsOnDevice(weight: Tensor, device: CudaDeviceId): Promise<PackedWeight> {
  const [n, k] = denseShape(weight, "prepack")
  const { dtype } = weight
  if (dtype !== "f16" && dtype !== "bf16")
    throw new TsqError(
      "ERR_DTYPE",
      `prepack: the weight [${n}, ${k}] is ${dtype}, expected f16 or bf16 on ${device}; \`await weight.cast("bf16")\` rounds it`,
    )
  const there = await weight.to(device)
  try {
    const packed = await native.cudaPackFloats(there.memory, dtypeInfo(dtype).code as 1 | 2, n, k)
    return new PackedWeight(packed, [n, k], 16, device, dtype)
  } catch (cause) {
    throw explained(`prepack: the weight ${dtype} [${n}, ${k}]`, cause)
  } finally {
    if (there !== weight) there.dispose()
  }
}
