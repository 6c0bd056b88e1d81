// The heavy loops of rounding, on the CPU or on a device: the same calls, whose results differ in the order of sums at most.
import { explained } from "../core/cuda.ts"
import { type Binding, type Handle, native } from "../native.ts"

export type Loops = Pick<Binding, "roundNearest" | "gptq" | "layerError">

/** Loops of this device, or of the CPU without one. `name` goes before what fails on a device. */
export function loopsOn(device: Handle | null | undefined, name: string): Loops {
  if (device === null || device === undefined) return native
  const named = async <T>(work: Promise<T>): Promise<T> => {
    try {
      return await work
    } catch (cause) {
      throw explained(name, cause)
    }
  }
  return {
    roundNearest: (...rest) => named(native.cudaRoundNearest(device, ...rest)),
    gptq: (...rest) => named(native.cudaGptq(device, ...rest)),
    layerError: (...rest) => named(native.cudaLayerError(device, ...rest)),
  }
}
