// cuBLAS on a CUDA device, where this machine has it: what our kernels are set beside.
import { type CudaDeviceId, openDevice } from "../core/cuda.ts"
import { dtypeInfo } from "../core/dtype.ts"
import type { Tensor } from "../core/tensor.ts"
import { NativeHandle, native } from "../native.ts"

/** The library to open: `TSQ_CUBLAS`, or null for whichever of its versions the system finds. */
const libraryName = (): string | null => process.env.TSQ_CUBLAS || null

export class CuBlas {
  readonly device: CudaDeviceId
  /** Path of the library. */
  readonly library: string
  /** As it numbers itself: 120405 is 12.4.5. */
  readonly version: number
  readonly #native: NativeHandle

  private constructor(device: CudaDeviceId, library: string, version: number, handle: NativeHandle) {
    this.device = device
    this.library = library
    this.version = version
    this.#native = handle
  }

  /** ERR_UNSUPPORTED, with what is wrong with each library that was tried, where none opens or starts. */
  static async open(device: CudaDeviceId): Promise<CuBlas> {
    const opened = await openDevice("cuBLAS", device)
    const { handle, library, version } = await native.cudaBlasOpen(opened, libraryName())
    return new CuBlas(device, library, version, new NativeHandle(handle, `cuBLAS on ${device}`))
  }

  /** Enqueues out[m, n] = x[m, k] w[n, k]ᵀ, all of one 16-bit type, or records it in a graph. ERR_UNSUPPORTED with the status where it fails. */
  multiply(x: Tensor, w: Tensor, out: Tensor): void {
    const [m, k] = x.shape as [number, number]
    const dtype = dtypeInfo(x.dtype).code as 1 | 2
    native.cudaBlasMultiply(this.#native.value, w.memory, x.memory, dtype, m, w.shape[0]!, k, out.memory)
  }

  dispose(): void {
    this.#native.dispose()
  }
}
