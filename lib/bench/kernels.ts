// The kernel benchmark: every backend on every shape, in interleaved rounds, beside the roofs of the same rounds.
import { throwIfAborted } from "../core/errors.ts"
import { setThreads } from "../core/machine.ts"
import { progressReporter } from "../core/progress.ts"
import { type Instruction, native } from "../native.ts"
import type { BenchMatrix, Bound, Prepared, PrepareOptions } from "./backend.ts"
import { type OrtModule, ortCallOverhead } from "./backend-ort.ts"
import { Absent, PreparedBackends } from "./kernel-backends.ts"
import { type KernelBenchOptions, type KernelPlan, ortVariant, readKernelOptions } from "./kernel-options.ts"
import {
  busyCells,
  type CellRoof,
  type KernelReport,
  type KernelResult,
  modelResults,
  overShapes,
} from "./kernel-results.ts"
import { availableMemory, type BenchMachine, describeMachine, lastLevelCache } from "./machine.ts"
import { findPeer, importPeer, isFound } from "./peers.ts"
import { CellRoofs, RoofProbe, roofOf } from "./roofs.ts"
import { type Timing, timeRounds } from "./rounds.ts"
import { type Activations, type FloatDtype, randomActivations, randomWeight, relativeError } from "./samples.ts"
import { median } from "./statistics.ts"

// From this many rows on a product is bound by arithmetic: weights need not come from memory every time.
const manyRows = 16
const warmBytes = 64 * 2 ** 20

/** Measures. ERR_OPTION or ERR_UNSUPPORTED for what cannot be asked for; a backend that cannot take part is reported. */
export async function benchKernels(values?: KernelBenchOptions): Promise<KernelReport> {
  const plan = readKernelOptions(values)
  const threads = native.threads()
  try {
    return await new KernelBench(plan).run()
  } finally {
    native.selectKernels(null)
    native.setThreads(threads)
  }
}

class KernelBench {
  readonly #plan: KernelPlan
  readonly #absent: Absent
  readonly #results: KernelResult[] = []
  readonly #roofs: CellRoof[] = []
  readonly #peers: KernelReport["peers"] = []
  readonly #progress: (detail: string) => void
  #ort: OrtModule | null = null

  constructor(plan: KernelPlan) {
    this.#plan = plan
    this.#absent = new Absent(plan.note)
    const total = plan.choice.shapes.length * plan.threads.length * plan.m.length
    const report = progressReporter(plan.onProgress)
    let done = 0
    this.#progress = detail => report({ stage: "bench", done: done++, total, detail })
  }

  async run(): Promise<KernelReport> {
    const plan = this.#plan
    const machine = await describeMachine()
    if (plan.backends.some(ortVariant)) await this.#findOrt()
    const copiesBytes = plan.copiesBytes ?? Math.max(Math.min(2 * lastLevelCache(machine), 2 ** 30), 2 ** 27)
    const probe = await RoofProbe.create({
      bytes: copiesBytes,
      readBytes: Math.min(2 ** 27, Math.max(copiesBytes, 2 ** 20)),
      peakMs: Math.min(3, (plan.seconds * 1000) / plan.rounds),
    })
    try {
      for (const { k, n } of plan.choice.shapes) {
        throwIfAborted(plan.signal)
        const groupSize = Math.min(plan.groupSize, k)
        const quantized = randomWeight(n, k, plan.bits, groupSize, 1)
        const matrix: BenchMatrix = { n, k, bits: plan.bits, groupSize, quantized }
        for (const threads of plan.threads) {
          setThreads(threads)
          probe.tune()
          const few = plan.m.filter(m => m < manyRows)
          const many = plan.m.filter(m => m >= manyRows)
          await this.#measure(matrix, few, { threads, copiesBytes }, probe)
          await this.#measure(matrix, many, { threads, copiesBytes: Math.min(warmBytes, copiesBytes) }, probe)
        }
      }
    } finally {
      probe.dispose()
    }
    return this.#report(machine, copiesBytes)
  }

  #report(machine: BenchMachine, copiesBytes: number): KernelReport {
    const { choice, m, bits, groupSize, threads, isa, backends, dtypes, rounds, seconds } = this.#plan
    const most = Math.max(...threads)
    const reads = this.#roofs.filter(roof => roof.threads === most).map(roof => roof.readGBps.median)
    return {
      machine,
      readGBps: reads.length > 0 ? median(reads) : 0,
      results: this.#results,
      models: modelResults(choice.models, this.#results),
      summary: overShapes(this.#results),
      roofs: this.#roofs,
      busyCells: busyCells(this.#roofs),
      unavailable: this.#absent.list,
      peers: this.#peers,
      options: {
        models: choice.models.map(model => model.name),
        shapes: choice.shapes.map(({ k, n }) => `${k}x${n}`),
        ...{ m, bits, groupSize, threads, isa, backends, dtypes, rounds, seconds, copiesBytes },
      },
    }
  }

  async #findOrt(): Promise<void> {
    const peer = findPeer("onnxruntime-node", this.#plan.peers)
    const module = isFound(peer) ? await importPeer<OrtModule>(peer) : peer
    if ("reason" in module || !isFound(peer)) {
      this.#absent.add(this.#plan.backends.filter(ortVariant), "reason" in module ? module.reason : "not found")
      return
    }
    this.#ort = module
    this.#peers.push({ name: peer.name, version: peer.version, callOverheadUs: await ortCallOverhead(module) })
  }

  /** All backends on one matrix, for several numbers of rows with the same copies of the weights. */
  async #measure(
    matrix: BenchMatrix,
    rows: readonly number[],
    options: PrepareOptions,
    probe: RoofProbe,
  ): Promise<void> {
    if (rows.length === 0) return
    const backends = new PreparedBackends(this.#plan, matrix, this.#affordable(options))
    try {
      for (const backend of this.#plan.backends) {
        throwIfAborted(this.#plan.signal)
        if (!this.#absent.has(backend)) await this.#absent.attempt(backend, () => backends.add(backend, this.#ort))
      }
      for (const m of rows) {
        this.#progress(`${matrix.k}×${matrix.n} m ${m}, ${options.threads} threads`)
        await this.#cell(matrix, m, options.threads, backends.list, probe)
      }
    } finally {
      await backends.dispose()
    }
  }

  /** Fewer copies where memory would not hold those of all backends. */
  #affordable(options: PrepareOptions): PrepareOptions {
    const share = (availableMemory() * 0.7) / (this.#plan.backends.length + 1)
    return share < options.copiesBytes ? { ...options, copiesBytes: share } : options
  }

  async #cell(
    matrix: BenchMatrix,
    m: number,
    threads: number,
    prepared: readonly Prepared[],
    probe: RoofProbe,
  ): Promise<void> {
    const { n, k } = matrix
    const { rounds, seconds, signal } = this.#plan
    const inputs = new Map<FloatDtype, Activations>()
    for (const { label } of prepared)
      if (!inputs.has(label.dtype)) inputs.set(label.dtype, randomActivations(m, k, label.dtype, 2))
    const running: { from: Prepared; bound: Bound; x: Activations }[] = []
    for (const from of prepared) {
      const { backend, dtype } = from.label
      if (this.#absent.has(backend)) continue
      await this.#absent.attempt(backend, async () => {
        const x = inputs.get(dtype)!
        const bound = from.bind(x)
        await bound.run(1)
        running.push({ from, bound, x })
      })
    }
    if (running.length === 0) return
    const instructions = running.flatMap(({ from }) => from.units.map(unit => unit.instruction))
    const roofs = new CellRoofs(probe, new Set<Instruction>(instructions))
    const timings = await timeRounds(
      running.map(({ bound }) => bound),
      { rounds, seconds, signal, beforeRound: () => roofs.measure() },
    )
    this.#roofs.push({ m, n, k, threads, readGBps: roofs.readGBps, peaks: roofs.peaks })
    for (const [index, { from, bound, x }] of running.entries()) {
      const error = relativeError(bound.result(), x, n, from.row)
      this.#results.push(resultOf({ m, n, k, threads }, from, bound, timings[index]!, roofs, error))
    }
  }
}

function resultOf(
  cell: { m: number; n: number; k: number; threads: number },
  { label, weightBytes, copies, units, note }: Prepared,
  { units: products }: Bound,
  { summary, runs }: Timing,
  roofs: CellRoofs,
  relL2: number,
): KernelResult {
  const operations = 2 * cell.m * cell.n * cell.k
  const readGBps = roofs.readGBps.median
  const peak = roofs.peakOf(units)
  const roof = roofOf(weightBytes, operations, readGBps, peak?.gops ?? null)
  return {
    ...label,
    ...cell,
    medianMs: summary.median,
    minMs: summary.min,
    maxMs: summary.max,
    gflops: operations / summary.median / 1e6,
    weightGBps: weightBytes / summary.median / 1e6,
    percentOfRoof: (100 * roof.ms) / summary.median,
    relL2,
    tokensPerSecond: (cell.m * 1000) / summary.median,
    ...{ weightBytes, copies, rounds: summary.count, products: runs * products },
    readGBps,
    instruction: peak?.instruction ?? null,
    peakGops: peak?.gops ?? null,
    roofMs: roof.ms,
    bound: roof.bound,
    ...(note !== undefined && { note }),
  }
}
