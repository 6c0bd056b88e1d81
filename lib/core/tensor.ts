// Tensors: a shape, an element type and a storage: an ordinary typed array, part of a read-only file, or memory of a CUDA device.
import { type Handle, type Mapped, NativeHandle, native, type Source } from "../native.ts"
import { type CudaDeviceId, type Device, explained, openDevice, readDevice, recording } from "./cuda.ts"
import { type Dtype, dtypeInfo, dtypes, isFloat, type TensorData } from "./dtype.ts"
import { TsqError } from "./errors.ts"
import { describe, listChoices } from "./options.ts"
import { copyArray, isShared, sharedArray } from "./shared-array.ts"

export { sharedArray, sharedBytes, sharedFloats, sharedInts } from "./shared-array.ts"

/** Elements of a shape; ERR_SHAPE when a size is not a non-negative integer or the product leaves the safe integers. */
export function elementCount(shape: readonly number[], what = "tensor"): number {
  if (!Array.isArray(shape))
    throw new TsqError("ERR_SHAPE", `${what}: shape is ${describe(shape)}, expected an array of non-negative integers`)
  let count = 1
  for (const size of shape as readonly number[]) {
    if (!Number.isSafeInteger(size) || size < 0)
      throw new TsqError(
        "ERR_SHAPE",
        `${what}: shape [${shape.map(describe).join(", ")}] holds ${describe(size)}, expected non-negative integers`,
      )
    count *= size
    if (!Number.isSafeInteger(count))
      throw new TsqError(
        "ERR_SHAPE",
        `${what}: shape [${shape.join(", ")}] has more elements than can be counted exactly`,
      )
  }
  return count
}

interface MappedStorage {
  mapping: NativeHandle
  offset: number
}

interface CudaStorage {
  device: CudaDeviceId
  memory: NativeHandle
}

/** For the library's own results: a tensor over an array that was made for it, without the checks of Tensor.from. */
export let tensorOver: (shape: readonly number[], dtype: Dtype, data: TensorData) => Tensor

/** For the library's own results: a tensor over memory of a CUDA device, which it takes. */
export let tensorOnDevice: (shape: readonly number[], dtype: Dtype, device: CudaDeviceId, memory: Handle) => Tensor

/**
 * A dense row-major tensor. f16 and bf16 elements are carried as Uint16Array bit patterns. An array tensor is a view of the
 * caller's memory, both ways; a mapped one is read-only; one on a CUDA device holds memory there until `dispose()`, or until
 * it is collected.
 */
export class Tensor {
  readonly shape: readonly number[]
  readonly dtype: Dtype
  readonly device: "cpu" | "mapped" | CudaDeviceId
  /** Elements. */
  readonly size: number
  readonly #data: TensorData | null
  readonly #mapped: MappedStorage | null
  readonly #cuda: CudaStorage | null

  private constructor(
    shape: readonly number[],
    dtype: Dtype,
    size: number,
    data: TensorData | null,
    mapped: MappedStorage | null,
    cuda: CudaStorage | null = null,
  ) {
    this.shape = Object.freeze(shape.slice())
    this.dtype = dtype
    this.size = size
    this.device = cuda ? cuda.device : mapped ? "mapped" : "cpu"
    this.#data = data
    this.#mapped = mapped
    this.#cuda = cuda
  }

  static {
    tensorOver = (shape, dtype, data) => new Tensor(shape, dtype, data.length, data, null)
    tensorOnDevice = (shape, dtype, device, handle) => {
      const memory = new NativeHandle(handle, `the tensor [${shape.join(", ")}] on ${device}`)
      return new Tensor(shape, dtype, elementCount(shape), null, null, { device, memory })
    }
  }

  /**
   * A tensor over `data` (not copied; an array of numbers is). dtype defaults to the array's own: Float32Array f32,
   * Int8Array i8, Uint8Array u8, Int32Array i32, Float16Array f16, numbers f32; a Uint16Array needs "f16" or "bf16".
   * Throws ERR_SHAPE when the length differs from the shape's product, ERR_DTYPE when the array cannot hold dtype.
   */
  static from(data: TensorData | ArrayBufferView | readonly number[], shape: readonly number[], dtype?: Dtype): Tensor {
    if (dtype !== undefined) checkDtype(dtype, "Tensor.from")
    const count = elementCount(shape, "Tensor.from")
    const numbers = Array.isArray(data)
    if (!numbers) checkTypedArray(data)
    const length = (data as ArrayLike<number>).length
    if (length !== count) {
      const lost = !numbers && length === 0 && (data as { buffer: { detached?: boolean } }).buffer.detached !== false
      throw new TsqError(
        "ERR_SHAPE",
        `Tensor.from: data has ${length} elements${lost ? " (was its buffer transferred?)" : ""}, shape [${shape.join(", ")}] needs ${count}`,
      )
    }
    if (numbers) return new Tensor(shape, dtype ?? "f32", count, fromNumbers(data, dtype ?? "f32"), null)
    const kind = kindOf(data)
    const resolved = dtype ?? inferDtype(kind)
    const array = plainView(data as ArrayBufferView, kind)
    const info = dtypeInfo(resolved)
    if (!(array instanceof info.array) || (kind === "Float16Array" && resolved !== "f16"))
      throw new TsqError("ERR_DTYPE", `Tensor.from: a ${kind} cannot hold ${resolved}, expected a ${info.array.name}`)
    return new Tensor(shape, resolved, count, array, null)
  }

  /** Zero-filled, on memory that asynchronous calls can use without a copy. */
  static empty(shape: readonly number[], dtype: Dtype = "f32"): Tensor {
    checkDtype(dtype, "Tensor.empty")
    const count = elementCount(shape, "Tensor.empty")
    return new Tensor(shape, dtype, count, sharedArray(dtype, count), null)
  }

  /** Part of a mapped file. The mapping must stay open while the tensor is used. */
  static fromMapping(mapping: NativeHandle, offset: number, shape: readonly number[], dtype: Dtype): Tensor {
    return new Tensor(shape, dtype, elementCount(shape, "Tensor.fromMapping"), null, { mapping, offset })
  }

  get bytes(): number {
    return this.size * dtypeInfo(this.dtype).bytes
  }

  /**
   * The elements. ERR_DEVICE for a tensor in a file or on a CUDA device: use `await tensor.toArray()`. ERR_SHAPE once the array's buffer was
   * transferred to another thread.
   */
  get data(): TensorData {
    const data = this.#data
    if (!data)
      throw new TsqError(
        "ERR_DEVICE",
        `tensor.data: this tensor is ${this.#cuda ? `on ${this.device}` : "a mapped part of a file"}; \`await tensor.toArray()\` copies it`,
      )
    if (data.length !== this.size)
      throw new TsqError(
        "ERR_SHAPE",
        `tensor.data: the buffer of this tensor [${this.shape.join(", ")}] was transferred after the tensor was made; ` +
          "transfer a copy, or use Tensor.empty, whose memory is shared between threads",
      )
    return data
  }

  /** What native calls take: the array itself or the mapped slice. */
  get source(): Source {
    if (!this.#mapped) return this.data
    const { mapping, offset } = this.#mapped
    return { mapping: mapping.value, offset, bytes: this.bytes } satisfies Mapped
  }

  /** The memory on a CUDA device, for native calls. ERR_OPTION once disposed; ERR_DEVICE for a tensor elsewhere. */
  get memory(): Handle {
    if (!this.#cuda)
      throw new TsqError("ERR_DEVICE", `tensor.memory: this tensor is on ${this.device}, expected a CUDA device`)
    return this.#cuda.memory.value
  }

  /** A copy of the elements on memory that asynchronous calls can use. Of a CUDA device: once what was enqueued before is done. */
  async toArray(): Promise<TensorData> {
    const out = sharedArray(this.dtype, this.size)
    if (this.#cuda) {
      recording.refuse("tensor.toArray")
      try {
        await native.cudaDownload(this.memory, out)
      } catch (cause) {
        throw explained(`copying the tensor ${this.dtype} [${this.shape.join(", ")}] from ${this.device}`, cause)
      }
    } else if (!this.#mapped) await copyArray(this.data, out)
    else if (this.size > 0) {
      const { mapping, offset } = this.#mapped
      await native.readMappingAsync(mapping.value, offset, new Uint8Array(out.buffer, 0, this.bytes))
    }
    return out
  }

  /** This tensor itself when its array already lies on shared memory; otherwise a copy that does. For asynchronous calls of the CPU. */
  async pinned(): Promise<Tensor> {
    if (this.#cuda)
      throw new TsqError(
        "ERR_DEVICE",
        `the tensor [${this.shape.join(", ")}] is on ${this.device}, expected one of the CPU; \`await tensor.to("cpu")\` copies it`,
      )
    if (this.#data && isShared(this.#data)) return this
    return new Tensor(this.shape, this.dtype, this.size, await this.toArray(), null)
  }

  /** A copy in another float type, rounded to nearest even. ERR_DTYPE for integer tensors. */
  async cast(dtype: Dtype): Promise<Tensor> {
    checkDtype(dtype, "tensor.cast")
    if (!isFloat(this.dtype) || !isFloat(dtype))
      throw new TsqError(
        "ERR_DTYPE",
        `tensor.cast: ${this.dtype} to ${dtype}; only f32, f16 and bf16 convert into each other`,
      )
    const source = this.#mapped ? this : await this.pinned()
    const out = Tensor.empty(this.shape, dtype)
    if (this.size > 0)
      await native.convertAsync(source.source, dtypeInfo(this.dtype).code, out.data, dtypeInfo(dtype).code, this.size)
    return out
  }

  /**
   * The tensor on a device, "cpu", "cuda" or "cuda:1": itself where it already lies there, otherwise a copy. ERR_DEVICE where the
   * device is not available or has no room.
   */
  async to(device: Device): Promise<Tensor> {
    const target = readDevice("tensor.to", device)
    if (this.device === target) return this
    if (target === "cpu") return new Tensor(this.shape, this.dtype, this.size, await this.toArray(), null)
    const [onHost, handle] = await Promise.all([
      this.#mapped ? this : this.#cuda ? this.to("cpu") : this.pinned(),
      openDevice("tensor.to", target),
    ])
    try {
      const memory = await native.cudaUpload(handle, onHost.source, dtypeInfo(this.dtype).code, this.size)
      return tensorOnDevice(this.shape, this.dtype, target, memory)
    } catch (cause) {
      throw explained(`tensor.to: the tensor ${this.dtype} [${this.shape.join(", ")}]`, cause)
    }
  }

  /**
   * Overwrites the elements of this tensor, which is on a CUDA device, by those of a tensor of the same shape and type, on the
   * CPU, in a file or on a device; what was enqueued before still reads the old ones. ERR_DEVICE for a tensor elsewhere.
   */
  async copyFrom(source: Tensor): Promise<void> {
    const cuda = this.#cuda
    const text = `${this.dtype} [${this.shape.join(", ")}]`
    if (!cuda)
      throw new TsqError(
        "ERR_DEVICE",
        `tensor.copyFrom: this tensor ${text} is on ${this.device}, expected a CUDA device`,
      )
    if (!(source instanceof Tensor))
      throw new TsqError("ERR_DTYPE", `tensor.copyFrom: source is ${describe(source)}, expected a Tensor`)
    if (source.dtype !== this.dtype)
      throw new TsqError("ERR_DTYPE", `tensor.copyFrom: source is ${source.dtype}, expected ${this.dtype}`)
    if (source.shape.length !== this.shape.length || source.shape.some((size, i) => size !== this.shape[i]))
      throw new TsqError(
        "ERR_SHAPE",
        `tensor.copyFrom: source has shape [${source.shape.join(", ")}], expected [${this.shape.join(", ")}]`,
      )
    recording.refuse("tensor.copyFrom")
    const host = source.#mapped ? source : source.#cuda ? await source.to("cpu") : await source.pinned()
    try {
      await native.cudaWrite(cuda.memory.value, host.source, dtypeInfo(this.dtype).code, this.size)
    } catch (cause) {
      throw explained(`tensor.copyFrom: the tensor ${text}`, cause)
    }
  }

  /** Frees memory of a CUDA device, once what uses it is done; arrays and files are left alone. Disposing twice is no error. */
  dispose(): void {
    this.#cuda?.memory.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

function checkDtype(dtype: unknown, what: string): void {
  if (!(dtypes as readonly unknown[]).includes(dtype))
    throw new TsqError("ERR_DTYPE", `${what}: dtype is ${describe(dtype)}, expected ${listChoices(dtypes)}`)
}

const integerRange = { i8: [-128, 127], u8: [0, 255], i32: [-(2 ** 31), 2 ** 31 - 1] } as const

function fromNumbers(values: readonly unknown[], dtype: Dtype): TensorData {
  if (dtype === "f16" || dtype === "bf16")
    throw new TsqError("ERR_DTYPE", `Tensor.from: numbers cannot be taken as ${dtype}; make them f32 and cast`)
  const array = sharedArray(dtype, values.length)
  for (const [index, value] of values.entries()) {
    const fits =
      typeof value === "number" &&
      (dtype === "f32" ||
        (Number.isInteger(value) && value >= integerRange[dtype][0] && value <= integerRange[dtype][1]))
    if (!fits)
      throw new TsqError(
        "ERR_DTYPE",
        `Tensor.from: data[${index}] is ${describe(value)}, which is not a value of ${dtype}`,
      )
    array[index] = value
  }
  return array
}

/** "Float32Array", "Float16Array", … of a typed array, subclasses (Buffer) and other realms included; otherwise the kind of value. */
const kindOf = (data: unknown): string => Object.prototype.toString.call(data).slice(8, -1)

function checkTypedArray(data: unknown): void {
  if (!ArrayBuffer.isView(data) || data instanceof DataView)
    throw new TsqError(
      "ERR_DTYPE",
      `Tensor.from: data is ${describe(data)}, expected a typed array or an array of numbers`,
    )
  const buffer = data.buffer as { resizable?: boolean; growable?: boolean }
  if (buffer.resizable || buffer.growable)
    throw new TsqError(
      "ERR_DTYPE",
      "Tensor.from: data lies on a resizable buffer, which may change size during a call; copy it first",
    )
}

/** The array to keep for the caller's: a Buffer becomes a Uint8Array, a Float16Array (Node 24 and later) its bit patterns. */
function plainView(data: ArrayBufferView, kind: string): TensorData {
  if (kind === "Float16Array") return new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2)
  if (kind === "Uint8Array" && Object.getPrototypeOf(data) !== Uint8Array.prototype)
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  return data as TensorData
}

function inferDtype(kind: string): Dtype {
  switch (kind) {
    case "Float32Array":
      return "f32"
    case "Float16Array":
      return "f16"
    case "Int32Array":
      return "i32"
    case "Int8Array":
      return "i8"
    case "Uint8Array":
      return "u8"
    case "Uint16Array":
      throw new TsqError(
        "ERR_DTYPE",
        'Tensor.from: a Uint16Array may hold f16 or bf16; name one: Tensor.from(data, shape, "bf16")',
      )
    default:
      throw new TsqError(
        "ERR_DTYPE",
        `Tensor.from: a ${kind} is not a tensor's storage; use Float32Array, Uint16Array (f16, bf16), Int8Array, Uint8Array or Int32Array`,
      )
  }
}

/** Rounds values in place to those that a type has, nearest even. */
export async function roundInPlace(values: Float32Array, dtype: "f32" | "f16" | "bf16"): Promise<void> {
  if (dtype === "f32") return
  const stored = sharedArray(dtype, values.length)
  const [f32, code] = [dtypeInfo("f32").code, dtypeInfo(dtype).code]
  await native.convertAsync(values, f32, stored, code, values.length)
  await native.convertAsync(stored, code, values, f32, values.length)
}
