// What a CUDA device gives in this run, by its own clock: the bandwidth of a kernel that only reads, and the rate of a large product by cuBLAS.
import type { CudaDeviceId } from "../core/cuda.ts"
import { TsqError } from "../core/errors.ts"
import { sharedInts } from "../core/shared-array.ts"
import { Tensor } from "../core/tensor.ts"
import { type CudaGraph, captureGraph } from "../kernels/graph.ts"
import { native } from "../native.ts"
import type { CuBlas } from "./device-blas.ts"
import type { DeviceFloat } from "./device-options.ts"
import { randomActivations } from "./samples.ts"
import { type Summary, summarize } from "./statistics.ts"

/** Microseconds of one of `products` in a launch, a value a round. */
export async function timeGraph(graph: CudaGraph, products: number, rounds: number): Promise<number[]> {
  const out = new Float64Array(new SharedArrayBuffer(rounds * 8))
  await native.cudaTime(graph.handle, out)
  if (out.some(value => !(value > 0)))
    throw new TsqError("ERR_DEVICE", `the clock of ${graph.device} gives ${out.join(", ")} µs for launches`)
  return Array.from(out, value => value / products)
}

/** 1e9 bytes a second of a read of so many bytes. They are no zeros, which may cost memory less. */
export async function readBandwidth(device: CudaDeviceId, bytes: number, rounds: number): Promise<Summary> {
  const words = Math.floor(bytes / 16) * 4
  const values = sharedInts(words)
  for (let i = 0; i < words; i++) values[i] = Math.imul(i + 1, 0x9e3779b1)
  const memory = await Tensor.from(values, [words]).to(device)
  const sink = await Tensor.empty([4]).to(device)
  try {
    using graph = await captureGraph(device, () => native.cudaReadAll(memory.memory, sink.memory))
    return summarize((await timeGraph(graph, 1, rounds)).map(us => (words * 4) / us / 1e3))
  } finally {
    for (const each of [memory, sink]) each.dispose()
  }
}

/** 1e9 operations a second of cuBLAS multiplying two square matrices of normal values: what zeros give is higher. */
export async function blasPeak(blas: CuBlas, dtype: DeviceFloat, side: number, rounds: number): Promise<Summary> {
  const host = Tensor.empty([side, side], dtype)
  const values = host.data as Uint16Array
  const some = Math.min(side, 64)
  values.set(randomActivations(some, side, dtype, 3).tensor.data as Uint16Array)
  for (let done = some * side; done < values.length; done *= 2) values.copyWithin(done, 0, done)
  const held: Tensor[] = []
  try {
    for (let i = 0; i < 3; i++) held.push(await host.to(blas.device))
    const [a, b, c] = held as [Tensor, Tensor, Tensor]
    blas.multiply(a, b, c) // what a first product loads is no part of a graph
    using graph = await captureGraph(blas.device, () => blas.multiply(a, b, c))
    return summarize((await timeGraph(graph, 1, rounds)).map(us => (2 * side ** 3) / us / 1e3))
  } finally {
    for (const each of held) each.dispose()
  }
}
