// CUDA as this machine has it. Nothing is opened before something asks for a device.
import { type CudaInfo, type Handle, NativeHandle, native } from "../native.ts"
import { TsqError } from "./errors.ts"
import { describe } from "./options.ts"

export interface CudaDevice {
  /** "cuda:0", … : its number among the devices that the driver shows to this process. */
  id: `cuda:${number}`
  kind: "cuda"
  name: string
  /** "9.0" for Hopper. The kernels need "8.0" or later. */
  computeCapability: string
  multiprocessors: number
  memoryBytes: number
  /** Of the second-level cache. */
  cacheBytes: number
}

export type CudaStatus =
  | {
      available: true
      /** Path of the library that computes. */
      module: string
    }
  | {
      available: false
      /** What is missing, and what to do. */
      reason: string
    }

/** The module to open: `TSQ_CUDA_MODULE`, or null for the one beside the addon. */
export const cudaModulePath = (): string | null => process.env.TSQ_CUDA_MODULE || null

export function cudaDevices(): { devices: CudaDevice[]; status: CudaStatus } {
  const { module, devices, reason }: CudaInfo = native.cuda(cudaModulePath())
  if (module === null || devices.length === 0) return { devices: [], status: { available: false, reason } }
  return {
    devices: devices.map(({ name, major, minor, multiprocessors, memoryBytes, cacheBytes }, index) => ({
      id: `cuda:${index}`,
      kind: "cuda",
      name,
      computeCapability: `${major}.${minor}`,
      multiprocessors,
      memoryBytes,
      cacheBytes,
    })),
    status: { available: true, module },
  }
}

/** A device as options and `tensor.to` name it. "cuda" is "cuda:0". */
export type Device = "cpu" | "cuda" | `cuda:${number}`
/** A device as tensors and weights report it. */
export type CudaDeviceId = `cuda:${number}`

/** The device that a caller named, "cuda" as "cuda:0"; ERR_DEVICE for any other name. */
export function readDevice(caller: string, device: unknown): "cpu" | CudaDeviceId {
  if (device === "cuda") return "cuda:0"
  if (device === "cpu" || (typeof device === "string" && /^cuda:(0|[1-9]\d{0,5})$/.test(device)))
    return device as "cpu" | CudaDeviceId
  throw new TsqError(
    "ERR_DEVICE",
    `${caller}: device ${describe(device)} is not available; devices are "cpu", "cuda" and "cuda:0", "cuda:1", … (see devices())`,
  )
}

// The device on which this thread is recording a graph.
let recordsOn: CudaDeviceId | null = null

/** Whether a graph is being recorded (`captureGraph`), and what then may not be done. */
export const recording = {
  /** Calls `work`, which is synchronous, while products of the device are recorded. */
  during(device: CudaDeviceId, work: () => void): void {
    recordsOn = device
    try {
      work()
    } finally {
      recordsOn = null
    }
  },
  /** ERR_DEVICE while a graph is being recorded: for what no graph can hold. */
  refuse(caller: string): void {
    if (recordsOn !== null)
      throw new TsqError(
        "ERR_DEVICE",
        `${caller}: a graph is being recorded on ${recordsOn}, which holds products there and nothing else; do this before or after captureGraph`,
      )
  },
  /** The same for products of another device. */
  refuseOther(caller: string, device: string): void {
    if (recordsOn !== device) recording.refuse(caller)
  },
}

const opened = new Map<string, Promise<NativeHandle>>()

/** The device, opened off the event loop by the first call. ERR_DEVICE where it is not available. */
export async function openDevice(caller: string, id: CudaDeviceId): Promise<Handle> {
  recording.refuse(caller)
  const module = cudaModulePath()
  const key = `${id} ${module}`
  let device = opened.get(key)
  if (device === undefined) {
    device = native.cudaOpen(module, Number(id.slice(5))).then(handle => new NativeHandle(handle, id))
    opened.set(key, device)
    device.catch(() => opened.delete(key))
  }
  try {
    return (await device).value
  } catch (cause) {
    throw explained(`${caller}: device ${JSON.stringify(id)} is not available`, cause)
  }
}

/** A native error with what was being done put before its message. */
export function explained(what: string, cause: unknown): unknown {
  return cause instanceof TsqError ? new TsqError(cause.code, `${what}: ${cause.message}`, { cause }) : cause
}
