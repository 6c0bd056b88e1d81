// XᵀX over rows of activations, summed on the CPU or on a device.
import { explained } from "../core/cuda.ts"
import { dtypeInfo } from "../core/dtype.ts"
import { type Handle, NativeHandle, native } from "../native.ts"
import type { Accumulator } from "./accumulator.ts"

/** Sums into an accumulator of kind hessian, which has the sum after finish(). */
export class HessianSum {
  readonly #accumulator: Accumulator
  readonly #onDevice: NativeHandle | null

  private constructor(accumulator: Accumulator, onDevice: NativeHandle | null) {
    this.#accumulator = accumulator
    this.#onDevice = onDevice
  }

  /** ERR_DEVICE, with sizes, where the device has no room for [width, width] of f32. */
  static async start(accumulator: Accumulator, device: Handle | null): Promise<HessianSum> {
    if (device === null) return new HessianSum(accumulator, null)
    try {
      const handle = await native.cudaHessian(device, accumulator.width)
      return new HessianSum(accumulator, new NativeHandle(handle, "hessian on a device"))
    } catch (cause) {
      throw explained(`a Hessian [${accumulator.width}, ${accumulator.width}]`, cause)
    }
  }

  /** x [rows, width] on shared memory, f32 for a sum on the CPU. */
  add(x: Float32Array | Uint16Array, rows: number, dtype: "f32" | "f16" | "bf16" = "f32"): Promise<void> {
    if (this.#onDevice === null) return this.#accumulator.add(x as Float32Array, rows)
    return native.cudaAccumulate(this.#onDevice.value, x, dtypeInfo(dtype).code as 0 | 1 | 2, rows)
  }

  async finish(): Promise<void> {
    if (this.#onDevice === null) return
    await native.cudaFinishHessian(this.#onDevice.value, this.#accumulator.handle.value)
    this.dispose()
  }

  dispose(): void {
    this.#onDevice?.dispose()
  }
}
