// Typed arrays on memory that cannot be detached, as asynchronous native calls need it.
import { constants } from "node:buffer"
import { setImmediate as turn } from "node:timers/promises"
import { type Dtype, dtypeInfo, type TensorData } from "./dtype.ts"
import { TsqError } from "./errors.ts"

/** Bytes of a typed array, as they go into a file. */
export const bytesOf = (array: ArrayBufferView): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength)

/** Zero-filled. ERR_UNSUPPORTED above what one typed array of this Node can hold, ERR_MEMORY when the system has no more. */
export function sharedArray(dtype: Dtype, count: number): TensorData {
  const info = dtypeInfo(dtype)
  const bytes = count * info.bytes
  if (bytes > constants.MAX_LENGTH)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${count} elements of ${dtype} take ${bytes} bytes; an array of Node ${process.version} holds at most ${constants.MAX_LENGTH}`,
    )
  try {
    return new info.array(sharedBuffer(bytes))
  } catch (cause) {
    throw new TsqError("ERR_MEMORY", `cannot allocate ${count} elements of ${dtype} (${bytes} bytes)`, { cause })
  }
}

const ballast = new WeakMap<SharedArrayBuffer, ArrayBuffer>()

/** Bytes from which a buffer matters to the garbage collector. */
const accounted = 2 ** 18

/**
 * V8 does not count shared buffers as memory held by this isolate, so that gigabytes of them may wait for a collection that
 * nothing asks for. A buffer of the same size that is counted goes with each large one: it is never touched, and so takes addresses
 * but no memory.
 */
function sharedBuffer(bytes: number): SharedArrayBuffer {
  const buffer = new SharedArrayBuffer(bytes)
  if (bytes >= accounted) ballast.set(buffer, new ArrayBuffer(bytes))
  return buffer
}

export const sharedFloats = (count: number): Float32Array => sharedArray("f32", count) as Float32Array
export const sharedBytes = (count: number): Uint8Array => sharedArray("u8", count) as Uint8Array
export const sharedInts = (count: number): Int32Array => sharedArray("i32", count) as Int32Array

export const isShared = (array: ArrayBufferView): boolean => array.buffer instanceof SharedArrayBuffer

// Bytes copied in one turn of the event loop: about a millisecond.
const slice = 4 * 2 ** 20

/**
 * Copies `source` into `target` of the same type and length, letting the event loop turn in between.
 * ERR_SHAPE when the source's buffer is transferred meanwhile.
 */
export async function copyArray<T extends TensorData>(source: T, target: T): Promise<void> {
  const step = Math.floor(slice / source.BYTES_PER_ELEMENT)
  for (let begin = 0; begin < target.length; begin += step) {
    if (begin > 0) await turn()
    const end = Math.min(begin + step, target.length)
    if (source.length !== target.length)
      throw new TsqError(
        "ERR_SHAPE",
        "an array's buffer was transferred or resized while it was being copied; keep it until the promise settles",
      )
    target.set(source.subarray(begin, end) as never, begin)
  }
}

/** The array itself when it lies on shared memory, otherwise a copy that does. */
export async function shareable<T extends TensorData>(array: T): Promise<T> {
  if (isShared(array)) return array
  const Kind = array.constructor as new (buffer: SharedArrayBuffer) => T
  let memory: SharedArrayBuffer
  try {
    memory = new SharedArrayBuffer(array.byteLength)
  } catch (cause) {
    throw new TsqError("ERR_MEMORY", `cannot allocate ${array.byteLength} bytes`, { cause })
  }
  const copy = new Kind(memory)
  await copyArray(array, copy)
  return copy
}
