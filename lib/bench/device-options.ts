// The options of the kernel benchmark on a CUDA device: names, lists and ranges, checked once.
import { type CudaDevice, cudaDevices, type Device, readDevice } from "../core/cuda.ts"
import { TsqError } from "../core/errors.ts"
import { closest, describe, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { counts, distinct } from "./kernel-options.ts"
import { chooseShapes, type ShapeChoice } from "./shapes.ts"

/** Everything that can be measured on a device. */
export const deviceBackends = ["tsq-w4a16", "tsq-w8a16", "tsq-w16a16", "tsq-unfused", "cublas"] as const
export type DeviceBackend = (typeof deviceBackends)[number]
export type DeviceFloat = "f16" | "bf16"

export interface DeviceBenchOptions extends LongWork {
  /** "cuda", "cuda:1" … */
  device: Device
  /** Names of models, or K×N. */
  shapes?: readonly string[]
  /** Rows of activations. */
  m?: readonly number[]
  /** Columns that share a scale. */
  groupSize?: number
  /** Names of `deviceBackends`, or "all". */
  backends?: readonly string[]
  /** Types of activations, and of weights of 16 bits. */
  dtypes?: readonly string[]
  rounds?: number
  /** Bytes of weights that a product rotates over. Default: four times the second-level cache. */
  copiesBytes?: number
  /** Bytes of a read that tells the bandwidth. */
  readBytes?: number
  /** Rows and columns of the square matrices whose product by cuBLAS is the peak. Default: 8192, or what an eighth of the memory holds. */
  peakSide?: number
  /** Told what a reader should know. */
  onNote?: (text: string) => void
}

export interface DevicePlan extends LongWork {
  device: CudaDevice
  choice: ShapeChoice
  m: number[]
  groupSize: number
  backends: DeviceBackend[]
  dtypes: DeviceFloat[]
  rounds: number
  copiesBytes: number
  readBytes: number
  peakSide: number
  note: (text: string) => void
}

const known = [
  ...["device", "shapes", "m", "groupSize", "backends", "dtypes", "rounds", "copiesBytes", "readBytes"],
  ...["peakSide", "onNote", "signal", "onProgress"],
]

/** ERR_DEVICE with what `devices()` says where there is no such device. */
export function readDeviceOptions(values: DeviceBenchOptions): DevicePlan {
  const options = new Options("benchDevice", values, known)
  const device = findDevice(options.raw("device"))
  const dtypes = distinct(options.strings("dtypes", ["bf16", "f16"]), "dtypes")
  for (const dtype of dtypes)
    if (dtype !== "f16" && dtype !== "bf16")
      throw new TsqError(
        "ERR_OPTION",
        `benchDevice: dtype ${describe(dtype)}, expected "f16" or "bf16" on ${device.id}`,
      )
  const note = options.raw("onNote")
  if (note !== undefined && typeof note !== "function") options.fail("onNote", "a function")
  return {
    device,
    choice: chooseShapes(options.strings("shapes", ["8192x8192", "4096x4096", "4096x14336", "14336x4096"])),
    m: counts(options, "m", [1, 4, 16, 64, 256], 65536),
    groupSize: options.integer("groupSize", { min: 1 }, 128),
    backends: readBackends(options),
    dtypes: dtypes as DeviceFloat[],
    rounds: options.integer("rounds", { min: 1, max: 10000 }, 51),
    copiesBytes: options.integer("copiesBytes", { min: 1 }, 4 * device.cacheBytes),
    readBytes: options.integer("readBytes", { min: 16 }, Math.floor(Math.min(2 ** 30, device.memoryBytes / 4))),
    peakSide: options.integer("peakSide", { min: 1, max: 65536 }, sideOf(device.memoryBytes / 8)),
    note: (note as ((text: string) => void) | undefined) ?? (() => {}),
    signal: options.signal(),
    onProgress: options.onProgress(),
  }
}

/** Of three square matrices of 16 bits in so many bytes: a multiple of 128, as products like them. */
const sideOf = (bytes: number): number => Math.min(8192, Math.max(128, Math.floor(Math.sqrt(bytes / 6) / 128) * 128))

function findDevice(name: unknown): CudaDevice {
  const id = readDevice("benchDevice", name)
  const { devices, status } = cudaDevices()
  const device = devices.find(each => each.id === id)
  if (device) return device
  const found = status.available ? `there is ${devices.map(each => each.id).join(", ")}` : status.reason
  throw new TsqError("ERR_DEVICE", `benchDevice: device ${JSON.stringify(id)} is not available: ${found}`)
}

function readBackends(options: Options): DeviceBackend[] {
  const words = options.strings("backends", ["all"])
  const names = words.flatMap(word => {
    if (word === "all") return [...deviceBackends]
    const found = deviceBackends.find(name => name === word)
    if (found) return [found]
    const meant = closest(word, deviceBackends)
    throw new TsqError(
      "ERR_OPTION",
      `benchDevice: no backend of CUDA devices is called ${describe(word)}; ${meant ? `did you mean ${JSON.stringify(meant)}?` : `there are ${deviceBackends.join(", ")} and all`}`,
    )
  })
  return [...new Set(names)]
}
