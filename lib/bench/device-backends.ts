// Products on a CUDA device as graphs that go around copies of the weight, so that none is in the cache when its turn comes.
import type { CudaDeviceId } from "../core/cuda.ts"
import { dtypeInfo } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import { sharedInts } from "../core/shared-array.ts"
import { Tensor } from "../core/tensor.ts"
import { dequantizeAsync } from "../kernels/dequantize.ts"
import { type CudaGraph, captureGraph } from "../kernels/graph.ts"
import { matmul } from "../kernels/matmul.ts"
import { type PackedWeight, prepack } from "../kernels/packed-weight.ts"
import { native } from "../native.ts"
import { copiesOf } from "./backend.ts"
import type { DeviceBackend, DeviceFloat } from "./device-options.ts"
import { quantizedRow, randomWeight, type WeightRow } from "./samples.ts"

// A graph has at least so many products: the start of one would count otherwise.
const leastProducts = 16

/** Weights of one backend on a device, all with the same values. */
export class DeviceWeights {
  readonly backend: DeviceBackend
  readonly dtype: DeviceFloat
  readonly bits: number
  readonly groupSize: number
  /** The weight in float64, as the backend stores it. */
  readonly row: WeightRow
  readonly copies: readonly PackedWeight[]
  readonly #dense: PackedWeight | null

  private constructor(
    about: { backend: DeviceBackend; dtype: DeviceFloat; bits: number; groupSize: number; row: WeightRow },
    copies: readonly PackedWeight[],
    dense: PackedWeight | null,
  ) {
    this.backend = about.backend
    this.dtype = about.dtype
    this.bits = about.bits
    this.groupSize = about.groupSize
    this.row = about.row
    this.copies = copies
    this.#dense = dense
  }

  static async make(
    backend: DeviceBackend,
    { n, k, groupSize }: { n: number; k: number; groupSize: number },
    dtype: DeviceFloat,
    device: CudaDeviceId,
    copiesBytes: number,
  ): Promise<DeviceWeights> {
    const bits = backend === "tsq-w8a16" ? 8 : 4
    const q = randomWeight(n, k, bits, groupSize, 1)
    const exact = quantizedRow(q)
    const copies: PackedWeight[] = []
    let dense: PackedWeight | null = null
    try {
      const floats = async () => Tensor.from(await dequantizeAsync(q), [n, k]).cast(dtype)
      if (backend === "tsq-w16a16") {
        const weight = await floats()
        await pack(copies, () => prepack(weight, { device }), copiesBytes)
        return new DeviceWeights(
          { backend, dtype, bits: 16, groupSize: k, row: rounded(exact, k, dtype) },
          copies,
          null,
        )
      }
      await pack(copies, () => prepack(q, { device }), copiesBytes)
      const about = { backend, dtype, bits, groupSize: q.scheme.groupSize }
      if (backend !== "tsq-unfused") return new DeviceWeights({ ...about, row: exact }, copies, null)
      dense = await prepack(await floats(), { device })
      return new DeviceWeights({ ...about, row: rounded(exact, k, dtype) }, copies, dense)
    } catch (cause) {
      for (const each of copies) each.dispose()
      dense?.dispose()
      throw cause
    }
  }

  get weightBytes(): number {
    return this.copies[0]!.bytes
  }

  /** y = x Wᵀ with every copy in turn, several times around where they are few. */
  async graph(x: Tensor, out: Tensor, device: CudaDeviceId): Promise<{ graph: CudaGraph; products: number }> {
    const rounds = Math.ceil(leastProducts / this.copies.length)
    const graph = await captureGraph(device, () => {
      for (let i = 0; i < rounds; i++) for (const copy of this.copies) this.#product(x, copy, out)
    })
    return { graph, products: rounds * this.copies.length }
  }

  #product(x: Tensor, copy: PackedWeight, out: Tensor): void {
    if (this.#dense) native.cudaDecode(copy.handle, this.#dense.handle)
    matmul(x, this.#dense ?? copy, { out })
  }

  dispose(): void {
    for (const each of this.copies) each.dispose()
    this.#dense?.dispose()
  }
}

async function pack(copies: PackedWeight[], make: () => Promise<PackedWeight>, copiesBytes: number): Promise<void> {
  copies.push(await make())
  // At least two: the second of a pair has the cache full of the first.
  const count = Math.min(256, Math.max(2, copiesOf(copies[0]!.bytes, { copiesBytes, threads: 1 })))
  while (copies.length < count) copies.push(await make())
}

/** Rows of weights as 16 bits hold them. */
function rounded(exact: WeightRow, k: number, dtype: DeviceFloat): WeightRow {
  const { code } = dtypeInfo(dtype)
  const narrow = new Uint16Array(k)
  return (i, out) => {
    exact(i, out)
    const floats = Float32Array.from(out)
    native.convert(floats, 0, narrow, code, k)
    native.convert(narrow, code, floats, 0, k)
    out.set(floats)
  }
}

/** Microseconds of one of `products` in a launch, a value a round. */
export async function timeGraph(graph: CudaGraph, products: number, rounds: number): Promise<number[]> {
  const out = new Float64Array(new SharedArrayBuffer(rounds * 8))
  await native.cudaTime(graph.handle, out)
  if (out.some(value => !(value > 0)))
    throw new TsqError("ERR_DEVICE", `the clock of ${graph.device} gives ${out.join(", ")} µs for launches`)
  return Array.from(out, value => value / products)
}

/** A read of so many bytes of the device, as a graph. They are no zeros, which may cost memory less. */
export async function readProbe(device: CudaDeviceId, bytes: number): Promise<{ graph: CudaGraph; bytes: number }> {
  const words = Math.floor(bytes / 16) * 4
  const values = sharedInts(words)
  for (let i = 0; i < words; i++) values[i] = Math.imul(i + 1, 0x9e3779b1)
  const memory = await Tensor.from(values, [words]).to(device)
  const sink = await Tensor.empty([4]).to(device)
  try {
    const graph = await captureGraph(device, () => native.cudaReadAll(memory.memory, sink.memory))
    return { graph, bytes: words * 4 }
  } finally {
    for (const each of [memory, sink]) each.dispose()
  }
}
