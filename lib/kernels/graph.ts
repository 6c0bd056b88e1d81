// CUDA graphs: products that are recorded once and then enqueued again as one.
import { type CudaDeviceId, type Device, explained, openDevice, readDevice, recording } from "../core/cuda.ts"
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import { type Handle, NativeHandle, native } from "../native.ts"

/** Products of a device as one unit of work. Made by `captureGraph`; freed by `dispose()`, or when it is collected. */
export class CudaGraph {
  readonly device: CudaDeviceId
  readonly #native: NativeHandle

  /** Takes ownership of a native handle; not for applications, which call `captureGraph`. */
  constructor(handle: Handle, device: CudaDeviceId) {
    this.#native = new NativeHandle(handle, `the graph on ${device}`)
    this.device = device
  }

  /** For native calls. ERR_OPTION once disposed. */
  get handle(): Handle {
    return this.#native.value
  }

  /**
   * Enqueues all of it. Does not wait; what fails there is told when a result is copied. Results lie where the recorded
   * calls left them, and are overwritten by every launch.
   */
  launch(): void {
    recording.refuse("graph.launch")
    try {
      native.cudaLaunch(this.handle)
    } catch (cause) {
      throw explained("graph.launch", cause)
    }
  }

  /** Frees it, and memory that it alone still uses, once launches that were enqueued are done. Disposing twice is no error. */
  dispose(): void {
    this.#native.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/**
 * Records what `record` multiplies on a CUDA device, in place of doing it, as a graph that `launch()` enqueues at once: what
 * a chain of small products costs the calling thread is paid once.
 *
 * `record` is called once and is synchronous. In it, `matmul` and `matmulW4A16` of that device are recorded, with or without
 * `out`; results hold their elements after the first launch. Copies to and from the device, `prepack`, launches, products of
 * other CUDA devices and another capture are refused with ERR_DEVICE; what the CPU computes is done at once and is no part of
 * the graph. Inputs are read where they lie at every launch: `await x.copyFrom(other)` changes them. The graph keeps
 * everything that its products use, whatever is disposed.
 *
 * ERR_DEVICE where the device is not available or has no room, ERR_OPTION where nothing was recorded. What `record` throws
 * ends the capture and is thrown.
 *
 * ```ts
 * using graph = await captureGraph("cuda", () => { matmulW4A16(x, up, { out: h }); matmulW4A16(h, down, { out: y }) })
 * graph.launch()
 * const values = await y.toArray()
 * ```
 */
export async function captureGraph(device: Device, record: () => void): Promise<CudaGraph> {
  const id = readDevice("captureGraph", device)
  if (id === "cpu")
    throw new TsqError("ERR_DEVICE", 'captureGraph: device is "cpu", expected a CUDA device: the CPU has no graphs')
  if (typeof record !== "function")
    throw new TsqError("ERR_OPTION", `captureGraph: record is ${describe(record)}, expected a function`)
  const opened = await openDevice("captureGraph", id)
  recording.refuse("captureGraph")
  let graph: CudaGraph
  try {
    graph = new CudaGraph(native.cudaRecord(opened), id)
  } catch (cause) {
    throw explained("captureGraph", cause)
  }
  try {
    recording.during(id, () => recordOnce(record))
    finish(graph)
    return graph
  } catch (cause) {
    graph.dispose()
    throw cause
  }
}

function finish(graph: CudaGraph): void {
  try {
    native.cudaEndRecord(graph.handle)
  } catch (cause) {
    throw explained("captureGraph", cause)
  }
}

function recordOnce(record: () => unknown): void {
  const result = record()
  if (!(result instanceof Promise)) return
  result.catch(() => {})
  throw new TsqError(
    "ERR_OPTION",
    "captureGraph: record gives a promise, expected a synchronous function: what is done later is not recorded",
  )
}
