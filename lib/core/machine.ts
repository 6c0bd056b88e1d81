// The machine: what computes here, and how many threads take part.
import { cpus, totalmem } from "node:os"
import { native } from "../native.ts"
import { type CudaDevice, type CudaStatus, cudaDevices } from "./cuda.ts"
import { TsqError } from "./errors.ts"
import { describe } from "./options.ts"

export interface CpuDevice {
  id: "cpu"
  kind: "cpu"
  /** The processor's model name. */
  name: string
  /** Instruction set whose kernels are in use; TSQ_CPU forces another. */
  kernels: string
  /** Instruction sets with kernels that this machine can run, "reference" first, best last. */
  supported: string[]
  /** Instruction-set features found, operating-system support included. */
  features: string[]
  /** Threads that take part in a call. */
  threads: number
  /** Memory of the machine. */
  memoryBytes: number
}

/** What `devices()` returns and `tsq devices --json` prints. */
export interface DeviceReport {
  /** The CPU first, then every CUDA device. */
  devices: [CpuDevice, ...CudaDevice[]]
  cuda: CudaStatus
}

/**
 * The devices that can compute, and why CUDA is not among them. The first call opens the CUDA module, where there is one, and
 * starts the driver, on the calling thread: make it before a server serves.
 */
export function devices(): DeviceReport {
  const { kernels, supported, features, threads } = native.cpu()
  const cuda = cudaDevices()
  return {
    devices: [
      {
        id: "cpu",
        kind: "cpu",
        name: cpus()[0]?.model.trim() || "unknown processor",
        kernels,
        supported: [...supported],
        features: [...features],
        threads,
        memoryBytes: totalmem(),
      },
      ...cuda.devices,
    ],
    cuda: cuda.status,
  }
}

/** kMaxThreads of the native pool. */
const maxThreads = 256

/**
 * Sets how many threads take part in a native call, for the whole process (worker threads included). Results do not depend on it.
 * ERR_OPTION unless `threads` is an integer from 1 to 256.
 */
export function setThreads(threads: number): void {
  if (!Number.isSafeInteger(threads) || threads < 1 || threads > maxThreads)
    throw new TsqError(
      "ERR_OPTION",
      `setThreads: threads is ${describe(threads)}, expected an integer from 1 to ${maxThreads}`,
    )
  native.setThreads(threads)
}
