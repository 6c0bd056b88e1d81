// The kernel benchmark on a CUDA device: time of the device for every backend on every shape, beside its bandwidth in the same run.
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { progressReporter } from "../core/progress.ts"
import { Tensor } from "../core/tensor.ts"
import type { Unavailable } from "./backend.ts"
import { DeviceWeights } from "./device-backends.ts"
import { CuBlas } from "./device-blas.ts"
import {
  type DeviceBackend,
  type DeviceBenchOptions,
  type DeviceFloat,
  type DevicePlan,
  readDeviceOptions,
} from "./device-options.ts"
import type { BlasPeak, DeviceKernelReport, DeviceKernelResult } from "./device-results.ts"
import { blasPeak, readBandwidth, timeGraph } from "./device-roofs.ts"
import { describeMachine } from "./machine.ts"
import { type Activations, randomActivations, relativeError, toFloats } from "./samples.ts"
import { summarize } from "./statistics.ts"

/**
 * Measures. ERR_DEVICE, with the reason that `devices()` gives, where the device is not available; ERR_OPTION for what cannot be
 * asked for. A backend that does not fit into the device's memory, or does not take a shape, is reported for that shape, and
 * cuBLAS once where it does not open.
 */
export async function benchDevice(values: DeviceBenchOptions): Promise<DeviceKernelReport> {
  return new DeviceBench(readDeviceOptions(values)).run()
}

class DeviceBench {
  readonly #plan: DevicePlan
  readonly #results: DeviceKernelResult[] = []
  readonly #unavailable: Unavailable[] = []
  readonly #peaks: BlasPeak[] = []
  #blas: CuBlas | null = null

  constructor(plan: DevicePlan) {
    this.#plan = plan
  }

  async run(): Promise<DeviceKernelReport> {
    try {
      return await this.#measure()
    } finally {
      this.#blas?.dispose()
    }
  }

  async #measure(): Promise<DeviceKernelReport> {
    const plan = this.#plan
    const { device, choice, m, groupSize, dtypes, rounds, copiesBytes } = plan
    const machine = await describeMachine()
    const bandwidth = () => readBandwidth(device.id, plan.readBytes, rounds)
    const before = await bandwidth()
    if (plan.backends.includes("cublas")) await this.#openBlas()
    const backends = plan.backends.filter(backend => backend !== "cublas" || this.#blas !== null)
    const total = choice.shapes.length * backends.length * dtypes.length
    const report = progressReporter(plan.onProgress)
    let done = 0
    for (const { k, n } of choice.shapes)
      for (const dtype of dtypes)
        for (const backend of backends) {
          throwIfAborted(plan.signal)
          report({ stage: "bench", done: done++, total, detail: `${k}×${n} ${backend} ${dtype}` })
          const shape = { n, k, groupSize: Math.min(groupSize, k) }
          await this.#attempt(`${backend} ${dtype} on ${k}×${n}`, async () => {
            const weights = await DeviceWeights.make(backend, shape, dtype, device.id, copiesBytes, this.#blas)
            try {
              for (const rows of m) await this.#cell(weights, { backend, dtype, n, k }, rows, before.median)
            } finally {
              weights.dispose()
            }
          })
        }
    // Once more: where the two differ, something else was going on.
    const readGBps = { before, after: await bandwidth() }
    const blas = this.#blas
    const cublas = blas && { library: blas.library, version: blas.version, peak: this.#peaks }
    return {
      ...{ machine, device, readGBps, cublas, results: this.#results, unavailable: this.#unavailable },
      options: {
        models: choice.models.map(model => model.name),
        shapes: choice.shapes.map(({ k, n }) => `${k}x${n}`),
        ...{ m, groupSize, backends: plan.backends, dtypes, rounds, copiesBytes },
      },
    }
  }

  async #openBlas(): Promise<void> {
    const { device, dtypes, peakSide: side, rounds } = this.#plan
    await this.#attempt("cublas", async () => {
      this.#blas = await CuBlas.open(device.id)
    })
    const blas = this.#blas
    if (blas === null) return
    for (const dtype of dtypes)
      await this.#attempt(`the peak of cublas in ${dtype}`, async () => {
        this.#peaks.push({ dtype, side, gflops: await blasPeak(blas, dtype, side, rounds) })
      })
  }

  /** What the device refuses is reported, and the rest goes on; a device that was lost ends the run. */
  async #attempt(backend: string, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      const refused =
        error instanceof TsqError && (error.code === "ERR_UNSUPPORTED" || /do not fit/.test(error.message))
      if (!refused) throw error
      this.#unavailable.push({ backend, reason: error.message })
      this.#plan.note(`not measured: ${backend}: ${error.message}`)
    }
  }

  #percentOfPeak(dtype: DeviceFloat, gflops: number): number | null {
    const peak = this.#peaks.find(each => each.dtype === dtype)
    return peak === undefined ? null : (100 * gflops) / peak.gflops.median
  }

  async #cell(
    weights: DeviceWeights,
    { backend, dtype, n, k }: { backend: DeviceBackend; dtype: DeviceFloat; n: number; k: number },
    m: number,
    readGBps: number,
  ): Promise<void> {
    throwIfAborted(this.#plan.signal)
    const { device, rounds } = this.#plan
    const { bits, groupSize, weightBytes, copies } = weights
    const x = randomActivations(m, k, dtype, 2)
    const [there, out] = [await x.tensor.to(device.id), await Tensor.empty([m, n], dtype).to(device.id)]
    try {
      const { graph, products } = await weights.graph(there, out)
      try {
        const us = summarize(await timeGraph(graph, products, rounds))
        const bytes = weightBytes + 2 * m * (n + k)
        const gflops = (2 * m * n * k) / us.median / 1e3
        this.#results.push({
          ...{ backend, dtype, bits, groupSize, m, n, k },
          ...{ medianMs: us.median / 1e3, minMs: us.min / 1e3, maxMs: us.max / 1e3, rounds, products },
          ...{ weightBytes, bytes, copies },
          gbps: bytes / us.median / 1e3,
          percentOfRoof: (100 * bytes) / us.median / 1e3 / readGBps,
          gflops,
          percentOfPeak: this.#percentOfPeak(dtype, gflops),
          relL2: await errorOf(out, x, n, weights, dtype),
          tokensPerSecond: (m * 1e6) / us.median,
        })
      } finally {
        graph.dispose()
      }
    } finally {
      for (const each of [there, out]) each.dispose()
    }
  }
}

async function errorOf(
  out: Tensor,
  x: Activations,
  n: number,
  weights: DeviceWeights,
  dtype: DeviceFloat,
): Promise<number> {
  return relativeError(toFloats(await out.toArray(), dtype), x, n, weights.row)
}
