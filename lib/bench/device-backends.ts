// Products on a CUDA device as graphs that go around copies of the weight, so that none is in the cache when its turn comes.
import type { CudaDeviceId } from "../core/cuda.ts"
import { dtypeInfo } from "../core/dtype.ts"
import { TsqError } from "../core/errors.ts"
import { Tensor } from "../core/tensor.ts"
import { dequantizeAsync } from "../kernels/dequantize.ts"
import { type CudaGraph, captureGraph } from "../kernels/graph.ts"
import { matmul } from "../kernels/matmul.ts"
import { prepack } from "../kernels/packed-weight.ts"
import { native } from "../native.ts"
import { copiesOf } from "./backend.ts"
import type { CuBlas } from "./device-blas.ts"
import type { DeviceBackend, DeviceFloat } from "./device-options.ts"
import { quantizedRow, randomWeight, type WeightRow } from "./samples.ts"

// A graph has at least so many products: the start of one would count otherwise.
const leastProducts = 16

interface Held {
  readonly bytes: number
  dispose(): void
}

/** What is made for a backend on a device, freed together. */
class DeviceStore {
  readonly device: CudaDeviceId
  readonly #copiesBytes: number
  readonly #held: Held[] = []

  constructor(device: CudaDeviceId, copiesBytes: number) {
    this.device = device
    this.#copiesBytes = copiesBytes
  }

  async keep<T extends Held>(made: Promise<T>): Promise<T> {
    const one = await made
    this.#held.push(one)
    return one
  }

  /** As many as exceed the cache. At least two: the second of a pair has the cache full of the first. */
  async copies<T extends Held>(make: () => Promise<T>): Promise<T[]> {
    const all = [await this.keep(make())]
    const count = copiesOf(all[0]!.bytes, { copiesBytes: this.#copiesBytes, threads: 1 })
    while (all.length < Math.min(256, Math.max(2, count))) all.push(await this.keep(make()))
    return all
  }

  dispose(): void {
    for (const each of this.#held) each.dispose()
  }
}

interface Prepared {
  bits: number
  groupSize: number
  /** The weight in float64, as the backend stores it. */
  row: WeightRow
  copies: readonly Held[]
  /** Enqueues, or records, y = x Wᵀ with a copy. */
  multiply(x: Tensor, copy: number, out: Tensor): void
}

/** Weights of one backend on a device, all with the same values. */
export class DeviceWeights {
  readonly bits: number
  readonly groupSize: number
  readonly row: WeightRow
  readonly copies: number
  /** Of one copy. */
  readonly weightBytes: number
  readonly #multiply: Prepared["multiply"]
  readonly #store: DeviceStore

  private constructor({ bits, groupSize, row, copies, multiply }: Prepared, store: DeviceStore) {
    this.bits = bits
    this.groupSize = groupSize
    this.row = row
    this.copies = copies.length
    this.weightBytes = copies[0]!.bytes
    this.#multiply = multiply
    this.#store = store
  }

  /** `blas` is for the backend "cublas". */
  static async make(
    backend: DeviceBackend,
    shape: MatrixShape,
    dtype: DeviceFloat,
    device: CudaDeviceId,
    copiesBytes: number,
    blas: CuBlas | null,
  ): Promise<DeviceWeights> {
    const store = new DeviceStore(device, copiesBytes)
    try {
      return new DeviceWeights(await prepare(backend, shape, dtype, store, blas), store)
    } catch (cause) {
      store.dispose()
      throw cause
    }
  }

  /** y = x Wᵀ with every copy in turn, several times around where they are few. */
  async graph(x: Tensor, out: Tensor): Promise<{ graph: CudaGraph; products: number }> {
    const rounds = Math.ceil(leastProducts / this.copies)
    this.#multiply(x, 0, out) // what a first product loads is no part of a graph
    const graph = await captureGraph(this.#store.device, () => {
      for (let i = 0; i < rounds; i++) for (let copy = 0; copy < this.copies; copy++) this.#multiply(x, copy, out)
    })
    return { graph, products: rounds * this.copies }
  }

  dispose(): void {
    this.#store.dispose()
  }
}

interface MatrixShape {
  n: number
  k: number
  groupSize: number
}

async function prepare(
  backend: DeviceBackend,
  { n, k, groupSize }: MatrixShape,
  dtype: DeviceFloat,
  store: DeviceStore,
  blas: CuBlas | null,
): Promise<Prepared> {
  const { device } = store
  const q = randomWeight(n, k, backend === "tsq-w8a16" ? 8 : 4, groupSize, 1)
  const exact = quantizedRow(q)
  const floats = async () => Tensor.from(await dequantizeAsync(q), [n, k]).cast(dtype)
  const wide = { bits: 16, groupSize: k, row: rounded(exact, k, dtype) }
  if (backend === "cublas") {
    if (blas === null) throw new TsqError("ERR_UNSUPPORTED", "cuBLAS is not open")
    const weight = await floats()
    const copies = await store.copies(() => weight.to(device))
    return { ...wide, copies, multiply: (x, copy, out) => blas.multiply(x, copies[copy]!, out) }
  }
  if (backend === "tsq-w16a16") {
    const weight = await floats()
    const copies = await store.copies(() => prepack(weight, { device }))
    return { ...wide, copies, multiply: (x, copy, out) => void matmul(x, copies[copy]!, { out }) }
  }
  const copies = await store.copies(() => prepack(q, { device }))
  const { bits, groupSize: group } = q.scheme
  if (backend !== "tsq-unfused") {
    const multiply: Prepared["multiply"] = (x, copy, out) => void matmul(x, copies[copy]!, { out })
    return { bits, groupSize: group, row: exact, copies, multiply }
  }
  const dense = await store.keep(prepack(await floats(), { device }))
  const multiply: Prepared["multiply"] = (x, copy, out) => {
    native.cudaDecode(copies[copy]!.handle, dense.handle)
    matmul(x, dense, { out })
  }
  return { bits, groupSize: group, row: wide.row, copies, multiply }
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
