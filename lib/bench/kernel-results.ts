// The results of the kernel benchmark, as `tsq bench kernels --json` prints them, and what follows from them.
import type { Instruction } from "../native.ts"
import { type Label, ownChoice, type Unavailable } from "./backend.ts"
import type { BenchMachine } from "./machine.ts"
import { linearShapes, type ModelShape } from "./shapes.ts"
import { geometricMean, type Summary } from "./statistics.ts"

export interface KernelResult extends Label {
  m: number
  n: number
  k: number
  threads: number
  /** Of a product. */
  medianMs: number
  minMs: number
  maxMs: number
  gflops: number
  /** Bytes of weights as this backend stores them, over the median. */
  weightGBps: number
  /** 100 × roofMs / medianMs. */
  percentOfRoof: number
  /** Of the result, against the float64 product with the weights that the backend stores. */
  relL2: number
  /** Rows a second through this matrix. */
  tokensPerSecond: number
  weightBytes: number
  copies: number
  rounds: number
  /** Products of a round. */
  products: number
  /** Read bandwidth of this cell. */
  readGBps: number
  /** The instruction whose peak bounds the backend, with that peak divided by the passes that this accuracy takes. */
  instruction: Instruction | null
  peakGops: number | null
  roofMs: number
  bound: "memory" | "compute"
  note?: string
}

/** All linear layers of a model, one pass of m tokens. */
export interface ModelResult extends Label {
  model: string
  m: number
  threads: number
  ms: number
  tokensPerSecond: number
  /** Without the output head, which a prompt needs for its last token only. */
  tokensPerSecondWithoutHead: number
}

export interface CellRoof {
  m: number
  n: number
  k: number
  threads: number
  readGBps: Summary
  peaks: { instruction: Instruction; gops: Summary }[]
}

export interface KernelReport {
  machine: BenchMachine
  /** Median over the cells with the most threads. */
  readGBps: number
  results: KernelResult[]
  models: ModelResult[]
  summary: OverShapes[]
  roofs: CellRoof[]
  /** Cells in which something else was running, by the instructions' peaks. */
  busyCells: number
  unavailable: Unavailable[]
  peers: { name: string; version: string; callOverheadUs: number | null }[]
  options: {
    models: string[]
    shapes: string[]
    m: number[]
    bits: number
    groupSize: number
    threads: number[]
    isa: string[]
    backends: string[]
    dtypes: string[]
    rounds: number
    seconds: number
    copiesBytes: number
  }
}

/** What tells two rows of one cell apart. */
export const labelKey = ({ backend, isa, dtype }: Label): string => `${backend} ${dtype} ${isa}`

// Backends that take every type of activations.
const manyTypes = ["tsq", "tsq-int8", "tsq-unfused"]

/** The label for people: the instruction set only where there are several. */
export function labelText({ backend, dtype, isa, activations }: Label, options: { isa: readonly string[] }): string {
  const words = [backend]
  if (manyTypes.includes(backend)) words.push(dtype)
  if (isa !== ownChoice && options.isa.length > 1) words.push(isa)
  if (activations === "int8") words.push("[int8]")
  return words.join(" ")
}

/** Of every backend that has figures for all shapes of the model. */
export function modelResults(models: readonly ModelShape[], results: readonly KernelResult[]): ModelResult[] {
  const found: ModelResult[] = []
  for (const model of models) {
    const shapes = linearShapes(model)
    for (const group of groupBy(results).values()) {
      const ms = shapes.map(({ k, n, count }) => {
        const result = group.find(each => each.k === k && each.n === n)
        return result === undefined ? Number.NaN : result.medianMs * count
      })
      const total = ms.reduce((sum, value) => sum + value, 0)
      if (Number.isNaN(total)) continue
      const { backend, kernel, isa, activations, dtype, bits, groupSize, m, threads } = group[0]!
      found.push({
        ...{ model: model.name, backend, kernel, isa, activations, dtype, bits, groupSize, m, threads },
        ms: total,
        tokensPerSecond: (m * 1000) / total,
        tokensPerSecondWithoutHead: (m * 1000) / (total - headShare(shapes, ms)),
      })
    }
  }
  return found
}

/** Time of the head alone, also where a layer has its shape. */
function headShare(shapes: ReturnType<typeof linearShapes>, ms: readonly number[]): number {
  const index = shapes.findIndex(({ modules }) => modules.includes("head"))
  return ms[index]! / shapes[index]!.count
}

function groupBy(results: readonly KernelResult[]): Map<string, KernelResult[]> {
  const groups = new Map<string, KernelResult[]>()
  for (const result of results) {
    const key = `${labelKey(result)} ${result.m} ${result.threads}`
    const group = groups.get(key)
    if (group) group.push(result)
    else groups.set(key, [result])
  }
  return groups
}

/** How a backend does over all shapes: the mean share of the roof, and its speed beside that of the fastest peer of each cell. */
export interface OverShapes extends Label {
  m: number
  threads: number
  shapes: number
  percentOfRoof: number
  gflops: number
  /** Geometric means; null where no such peer was measured. */
  timesExactPeer: number | null
  timesInt8Peer: number | null
}

const isPeer = ({ backend }: Label): boolean => !backend.startsWith("tsq")

export function overShapes(results: readonly KernelResult[]): OverShapes[] {
  const sameCell = (a: KernelResult, b: KernelResult) =>
    a.m === b.m && a.n === b.n && a.k === b.k && a.threads === b.threads
  return [...groupBy(results).values()].map(group => {
    const { backend, kernel, isa, activations, dtype, bits, groupSize, m, threads } = group[0]!
    const times = (kind: Label["activations"]): number | null => {
      const ratios = group.map(result => {
        const rivals = results.filter(each => isPeer(each) && each.activations === kind && sameCell(each, result))
        return Math.min(...rivals.map(each => each.medianMs)) / result.medianMs
      })
      return ratios.every(Number.isFinite) ? geometricMean(ratios) : null
    }
    return {
      ...{ backend, kernel, isa, activations, dtype, bits, groupSize, m, threads },
      shapes: group.length,
      percentOfRoof: geometricMean(group.map(each => each.percentOfRoof)),
      gflops: geometricMean(group.map(each => each.gflops)),
      timesExactPeer: times("exact"),
      timesInt8Peer: times("int8"),
    }
  })
}

/** Cells whose peak of an instruction is far below the highest of the run: a peak changes only when CPUs are taken away. */
export function busyCells(roofs: readonly CellRoof[]): number {
  const highest = new Map<string, number>()
  const key = (roof: CellRoof, instruction: Instruction) => `${roof.threads} ${instruction}`
  for (const roof of roofs)
    for (const { instruction, gops } of roof.peaks)
      highest.set(key(roof, instruction), Math.max(gops.max, highest.get(key(roof, instruction)) ?? 0))
  return roofs.filter(roof =>
    roof.peaks.some(({ instruction, gops }) => gops.median < 0.8 * highest.get(key(roof, instruction))!),
  ).length
}
