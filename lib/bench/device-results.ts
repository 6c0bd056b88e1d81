// The results of the kernel benchmark on a CUDA device, as `tsq bench kernels --device cuda --json` prints them.
import type { CudaDevice } from "../core/cuda.ts"
import type { Unavailable } from "./backend.ts"
import type { DeviceBackend, DeviceFloat } from "./device-options.ts"
import type { BenchMachine } from "./machine.ts"
import type { Summary } from "./statistics.ts"

export interface DeviceKernelResult {
  backend: DeviceBackend
  /** Of activations and results, and of weights of 16 bits. */
  dtype: DeviceFloat
  bits: number
  groupSize: number
  m: number
  n: number
  k: number
  /** Time of the device for a product, starts of kernels included. */
  medianMs: number
  minMs: number
  maxMs: number
  rounds: number
  /** Products of a round: the launches of a graph. */
  products: number
  /** Of one copy, as the backend stores it. */
  weightBytes: number
  /** Of weight, x and y, read or written once. */
  bytes: number
  copies: number
  /** `bytes` over the median. */
  gbps: number
  /** 100 × gbps / the bandwidth of reading in the same run. */
  percentOfRoof: number
  gflops: number
  /** 100 × gflops / the peak of cuBLAS in this type in the same run; null where there is none. */
  percentOfPeak: number | null
  /** Of a sample of the result, against the float64 product with the weights that the backend stores. */
  relL2: number
  /** Rows a second through this matrix. */
  tokensPerSecond: number
}

export interface BlasPeak {
  dtype: DeviceFloat
  /** Rows and columns of the matrices. */
  side: number
  gflops: Summary
}

export interface DeviceKernelReport {
  machine: BenchMachine
  device: CudaDevice
  /** 1e9 bytes a second of a kernel that only reads, at the beginning and at the end. */
  readGBps: { before: Summary; after: Summary }
  /** What cuBLAS is, and 1e9 operations a second of its product of two square matrices; null where it does not open, and `unavailable` says why. */
  cublas: { library: string; version: number; peak: BlasPeak[] } | null
  results: DeviceKernelResult[]
  /** What was not measured, by backend, type and shape. */
  unavailable: Unavailable[]
  options: {
    models: string[]
    shapes: string[]
    m: number[]
    groupSize: number
    backends: DeviceBackend[]
    dtypes: DeviceFloat[]
    rounds: number
    copiesBytes: number
  }
}
