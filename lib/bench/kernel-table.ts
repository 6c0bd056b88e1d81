// The results of the kernel benchmark as text for a terminal.
import { table } from "../report/tables.ts"
import { type KernelReport, type KernelResult, labelText } from "./kernel-results.ts"

/** Everything that a reader of a terminal wants, a table for each shape and number of threads. */
export function kernelText(report: KernelReport): string {
  return [
    machineText(report),
    ...cells(report).map(([, results]) => cellTable(report, results)),
    ...(report.models.length > 0 ? [modelTable(report)] : []),
    ...(cells(report).length > 1 ? [summaryTable(report)] : []),
    ...report.unavailable.map(({ backend, reason }) => `${backend} was not measured: ${reason}`),
    legend(report),
  ].join("\n\n")
}

export function machineText({ machine, peers, options, roofs, busyCells }: KernelReport): string {
  const { cpu, cpus, system, node, version, commit, date, hugePages } = machine
  const peerText = peers.map(
    peer =>
      `${peer.name} ${peer.version}${peer.callOverheadUs === null ? "" : ` (a call from JavaScript costs ${peer.callOverheadUs.toFixed(0)} µs; the figures are without it)`}`,
  )
  return [
    `${cpu}, ${cpus} CPUs, ${system}, Node ${node}, large pages ${hugePages ?? "unknown"}, ${date.slice(0, 10)}`,
    `tsq-native ${version}${commit ? ` (${commit})` : ""}${peerText.length > 0 ? `; ${peerText.join(", ")}` : ""}`,
    `${options.rounds} interleaved rounds; weights of products with few rows rotate over ${(options.copiesBytes / 1e6).toFixed(0)} MB`,
    ...(busyCells > 0
      ? [
          `Something else was running during ${busyCells} of ${roofs.length} cells: peaks fell by a fifth or more. Repeat the run on an idle machine.`,
        ]
      : []),
  ].join("\n")
}

export const legend = ({ options }: KernelReport): string =>
  [
    "ms: median (least to most) of the rounds. GB/s: weights as the backend stores them. roof: 100 × the time in which the weights can be",
    "read (mem) or the operations done by the instruction, whichever is longer, over the median. error: relative L2 distance to the",
    `float64 product with the backend's own weights. [int8]: activations are rounded to 8 bits; not comparable with exact ones.${options.isa.length > 1 ? "" : ` Kernels: ${options.isa[0]}.`}`,
  ].join("\n")

/** Results by matrix and threads, in the order of measurement. */
export function cells({ results }: KernelReport): [string, KernelResult[]][] {
  const found = new Map<string, KernelResult[]>()
  for (const result of results) {
    const title = `${result.k}×${result.n}, ${threadsText(result.threads)}`
    const cell = found.get(title)
    if (cell) cell.push(result)
    else found.set(title, [result])
  }
  return [...found]
}

export const threadsText = (threads: number): string => (threads === 1 ? "1 thread" : `${threads} threads`)

export const cellHead = ["backend", "m", "ms", "GFLOP/s", "GB/s", "roof", "", "error", "tokens/s"]

export const cellRows = (report: KernelReport, results: readonly KernelResult[]): string[][] =>
  results.map(result => [
    labelText(result, report.options),
    String(result.m),
    `${msText(result.medianMs)} (${msText(result.minMs)}–${msText(result.maxMs)})`,
    result.gflops.toFixed(result.gflops < 100 ? 1 : 0),
    result.weightGBps.toFixed(1),
    `${result.percentOfRoof.toFixed(0)} %`,
    result.bound === "memory"
      ? `mem ${result.readGBps.toFixed(1)}`
      : `${result.instruction} ${result.peakGops?.toFixed(0)}`,
    result.relL2.toExponential(1),
    rateText(result.tokensPerSecond),
  ])

function cellTable(report: KernelReport, results: readonly KernelResult[]): string {
  const { k, n, threads } = results[0]!
  return `${k}×${n}, ${threadsText(threads)}\n${table(cellHead, ["left", "right", "right", "right", "right", "right", "left", "right", "right"], cellRows(report, results))}`
}

export const modelHead = ["backend", "model", "threads", "m", "ms", "tokens/s", "without head"]

export const modelRows = (report: KernelReport): string[][] =>
  report.models.map(result => [
    labelText(result, report.options),
    result.model,
    String(result.threads),
    String(result.m),
    msText(result.ms),
    rateText(result.tokensPerSecond),
    rateText(result.tokensPerSecondWithoutHead),
  ])

const modelTable = (report: KernelReport): string =>
  `Kernel tokens per second: m tokens through all linear layers\n${table(modelHead, ["left", "left", "right", "right", "right", "right", "right"], modelRows(report))}`

export const summaryHead = ["backend", "threads", "m", "shapes", "GFLOP/s", "roof", "× exact peer", "× int8 peer"]

export const summaryRows = (report: KernelReport): string[][] =>
  report.summary.map(each => [
    labelText(each, report.options),
    String(each.threads),
    String(each.m),
    String(each.shapes),
    each.gflops.toFixed(each.gflops < 100 ? 1 : 0),
    `${each.percentOfRoof.toFixed(0)} %`,
    ratioText(each.timesExactPeer),
    ratioText(each.timesInt8Peer),
  ])

const summaryTable = (report: KernelReport): string =>
  `Over all shapes (geometric means; ×: speed beside the fastest such peer of each shape)\n${table(summaryHead, ["left", "right", "right", "right", "right", "right", "right", "right"], summaryRows(report))}`

const ratioText = (ratio: number | null): string => (ratio === null ? "" : ratio.toFixed(2))

/** Three digits. */
export const msText = (ms: number): string =>
  ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms >= 1 ? ms.toFixed(2) : ms.toFixed(ms >= 0.1 ? 3 : 4)

export const rateText = (rate: number): string =>
  rate >= 1000 ? Math.round(rate).toLocaleString("en") : rate.toFixed(rate >= 100 ? 0 : 1)
