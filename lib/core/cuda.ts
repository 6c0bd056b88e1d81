// CUDA as this machine has it. Nothing is opened before something asks for a device.
import { type CudaInfo, native } from "../native.ts"

export interface CudaDevice {
  /** "cuda:0", … : its number among the devices that the driver shows to this process. */
  id: `cuda:${number}`
  kind: "cuda"
  name: string
  /** "9.0" for Hopper. The kernels need "8.0" or later. */
  computeCapability: string
  multiprocessors: number
  memoryBytes: number
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
    devices: devices.map(({ name, major, minor, multiprocessors, memoryBytes }, index) => ({
      id: `cuda:${index}`,
      kind: "cuda",
      name,
      computeCapability: `${major}.${minor}`,
      multiprocessors,
      memoryBytes,
    })),
    status: { available: true, module },
  }
}
