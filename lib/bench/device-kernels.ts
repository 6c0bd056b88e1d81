// The kernel benchmark on a CUDA device: time of the device for every backend on every shape, beside its bandwidth in the same run.
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { progressReporter } from "../core/progress.ts"
import { Tensor } from "../core/tensor.ts"
import type { Unavailable } from "./backend.ts"
import { DeviceWeights, readProbe, timeGraph } from "./device-backends.ts"
import { type DeviceBenchOptions, type DeviceFloat, type DevicePlan, readDeviceOptions } from "./device-options.ts"
import type { DeviceKernelReport, DeviceKernelResult } from "./device-results.ts"
import { describeMachine } from "./machine.ts"
import { type Activations, randomActivations, relativeError, toFloats } from "./samples.ts"
import { type Summary, summarize } from "./statistics.ts"

/**
 * Measures. ERR_DEVICE, with the reason that `devices()` gives, where the device is not available; ERR_OPTION for what cannot be
 * asked for. A backend that does not fit into the device's memory, or does not take a shape, is reported for that shape.
 */
export async function benchDevice(values: DeviceBenchOptions): Promise<DeviceKernelReport> {
  return new DeviceBench(readDeviceOptions(values)).run()
}

class DeviceBench {
  readonly #plan: DevicePlan
  readonly #results: DeviceKernelResult[] = []
  readonly #unavailable: Unavailable[] = []
  readonly #progress: (detail: string) => void

  constructor(plan: DevicePlan) {
    this.#plan = plan
    const total = plan.choice.shapes.length * plan.backends.length * plan.dtypes.length
    const report = progressReporter(plan.onProgress)
    let done = 0
    this.#progress = detail => report({ stage: "bench", done: done++, total, detail })
  }

  async run(): Promise<DeviceKernelReport> {
    const plan = this.#plan
    const { device, choice, m, groupSize, backends, dtypes, rounds, copiesBytes } = plan
    const machine = await describeMachine()
    const before = await this.#bandwidth()
    for (const { k, n } of choice.shapes)
      for (const dtype of dtypes)
        for (const backend of backends) {
          throwIfAborted(plan.signal)
          this.#progress(`${k}×${n} ${backend} ${dtype}`)
          const shape = { n, k, groupSize: Math.min(groupSize, k) }
          await this.#attempt(`${backend} ${dtype} on ${k}×${n}`, async () => {
            const weights = await DeviceWeights.make(backend, shape, dtype, device.id, copiesBytes)
            try {
              for (const rows of m) await this.#cell(weights, shape, rows, before.median)
            } finally {
              weights.dispose()
            }
          })
        }
    // Once more: where the two differ, something else was going on.
    const readGBps = { before, after: await this.#bandwidth() }
    return {
      ...{ machine, device, readGBps, results: this.#results, unavailable: this.#unavailable },
      options: {
        models: choice.models.map(model => model.name),
        shapes: choice.shapes.map(({ k, n }) => `${k}x${n}`),
        ...{ m, groupSize, backends, dtypes, rounds, copiesBytes },
      },
    }
  }

  async #bandwidth(): Promise<Summary> {
    const { graph, bytes } = await readProbe(this.#plan.device.id, this.#plan.readBytes)
    try {
      return summarize((await timeGraph(graph, 1, this.#plan.rounds)).map(us => bytes / us / 1e3))
    } finally {
      graph.dispose()
    }
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

  async #cell(weights: DeviceWeights, { n, k }: { n: number; k: number }, m: number, readGBps: number): Promise<void> {
    throwIfAborted(this.#plan.signal)
    const { device, rounds } = this.#plan
    const { backend, dtype, bits, groupSize, weightBytes, copies } = weights
    const x = randomActivations(m, k, dtype, 2)
    const [there, out] = [await x.tensor.to(device.id), await Tensor.empty([m, n], dtype).to(device.id)]
    try {
      const { graph, products } = await weights.graph(there, out, device.id)
      try {
        const us = summarize(await timeGraph(graph, products, rounds))
        const bytes = weightBytes + 2 * m * (n + k)
        this.#results.push({
          ...{ backend, dtype, bits, groupSize, m, n, k },
          ...{ medianMs: us.median / 1e3, minMs: us.min / 1e3, maxMs: us.max / 1e3, rounds, products },
          ...{ weightBytes, bytes, copies: copies.length },
          gbps: bytes / us.median / 1e3,
          percentOfRoof: (100 * bytes) / us.median / 1e3 / readGBps,
          gflops: (2 * m * n * k) / us.median / 1e3,
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
