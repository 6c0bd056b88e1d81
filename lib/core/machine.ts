// The machine: what computes here, and how many threads take part.
import { existsSync } from "node:fs"
import { cpus, totalmem } from "node:os"
import { native } from "../native.ts"
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

export interface CudaStatus {
  available: false
  reason: string
}

/** What `devices()` returns and `tsq devices --json` prints. */
export interface DeviceReport {
  devices: CpuDevice[]
  cuda: CudaStatus
}

// Where NVIDIA's kernel driver shows itself; under WSL it is a library of the host.
const driverPaths = ["/proc/driver/nvidia/version", "/dev/nvidia0", "/usr/lib/wsl/lib/libcuda.so.1"]

/** The devices that can compute, and why CUDA is not among them. */
export function devices(): DeviceReport {
  const { kernels, supported, features, threads } = native.cpu()
  const driver = driverPaths.some(path => existsSync(path))
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
    ],
    cuda: {
      available: false,
      reason: driver
        ? "an NVIDIA driver is present, but this build has no CUDA module: everything runs on the CPU"
        : "this build has no CUDA module",
    },
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
