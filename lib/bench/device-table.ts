// The results of the kernel benchmark on a CUDA device: text for a terminal, and a page.
import { barChart } from "../report/bars.ts"
import { htmlPage, type Part } from "../report/html.ts"
import { colors } from "../report/plot.ts"
import { table } from "../report/tables.ts"
import type { DeviceKernelReport, DeviceKernelResult } from "./device-results.ts"
import { rateText } from "./kernel-table.ts"

export function deviceText(report: DeviceKernelReport): string {
  return [
    headText(report),
    ...cells(report).map(([title, results]) => `${title}\n${table(head, aligns, rowsOf(results))}`),
    ...report.unavailable.map(({ backend, reason }) => `${backend} was not measured: ${reason}`),
    legend,
  ].join("\n\n")
}

export function devicePage(report: DeviceKernelReport): string {
  const parts: Part[] = headText(report)
    .split("\n")
    .map(text => ({ kind: "text", text }))
  for (const [title, results] of cells(report)) {
    const names = [...new Set(results.map(nameOf))]
    const bars = results.map(result => ({
      label: `${nameOf(result)}, m ${result.m}`,
      value: result.percentOfRoof,
      color: colors[names.indexOf(nameOf(result)) % colors.length]!,
      hatched: false,
    }))
    parts.push({ kind: "heading", text: title })
    parts.push({ kind: "svg", svg: barChart(bars, { title, unit: "% of the bandwidth's roof", width: 900 }) })
    parts.push({ kind: "table", head, rows: rowsOf(results) })
  }
  for (const { backend, reason } of report.unavailable)
    parts.push({ kind: "text", text: `${backend} was not measured: ${reason}` })
  parts.push({ kind: "text", text: legend.replaceAll("\n", " ") })
  return htmlPage("Kernel benchmark on a CUDA device", parts)
}

function headText({ machine, device, readGBps, cublas, options }: DeviceKernelReport): string {
  const { name, id, computeCapability, multiprocessors, cacheBytes } = device
  const { before, after } = readGBps
  return [
    `${name} (${id}), compute capability ${computeCapability}, ${multiprocessors} multiprocessors, L2 ${(cacheBytes / 2 ** 20).toFixed(1)} MiB`,
    `${machine.system}, Node ${machine.node}, tsq-native ${machine.version}${machine.commit ? ` (${machine.commit})` : ""}, ${machine.date.slice(0, 10)}`,
    `reads ${before.median.toFixed(1)} GB/s (${before.min.toFixed(1)}–${before.max.toFixed(1)}), ${after.median.toFixed(1)} at the end; ${options.rounds} rounds; weights rotate over ${(options.copiesBytes / 1e6).toFixed(1)} MB or two copies`,
    ...(cublas ? [blasText(cublas)] : []),
  ].join("\n")
}

function blasText({ library, version, peak }: NonNullable<DeviceKernelReport["cublas"]>): string {
  const rates = peak.map(({ dtype, side, gflops }) => {
    const [median, min, max] = [gflops.median, gflops.min, gflops.max].map(rate => (rate / 1e3).toFixed(1))
    return `${side}³ at ${median} TFLOP/s in ${dtype} (${min}–${max})`
  })
  return [`cuBLAS ${version} (${library})`, ...rates].join(", ")
}

/** Results by matrix, in the order of measurement. */
function cells({ results }: DeviceKernelReport): [string, DeviceKernelResult[]][] {
  const found = new Map<string, DeviceKernelResult[]>()
  for (const result of results) {
    const title = `${result.k}×${result.n}`
    const cell = found.get(title)
    if (cell) cell.push(result)
    else found.set(title, [result])
  }
  return [...found]
}

const head = ["backend", "m", "µs", "GB/s", "roof", "TFLOP/s", "peak", "× cuBLAS", "error", "tokens/s"]
const aligns = ["left", ...head.slice(1).map(() => "right" as const)] as const
const nameOf = ({ backend, dtype }: DeviceKernelResult): string => `${backend} ${dtype}`

const rowsOf = (results: DeviceKernelResult[]): string[][] =>
  results.map(result => rowOf(result, blasOf(result, results)))

/** What cuBLAS took for the same product. */
const blasOf = ({ dtype, m }: DeviceKernelResult, results: DeviceKernelResult[]): DeviceKernelResult | undefined =>
  results.find(other => other.backend === "cublas" && other.dtype === dtype && other.m === m)

const rowOf = (result: DeviceKernelResult, blas: DeviceKernelResult | undefined): string[] => [
  nameOf(result),
  String(result.m),
  `${usText(result.medianMs)} (${usText(result.minMs)}–${usText(result.maxMs)})`,
  result.gbps.toFixed(1),
  `${result.percentOfRoof.toFixed(0)} %`,
  (result.gflops / 1e3).toFixed(2),
  result.percentOfPeak === null ? "–" : `${result.percentOfPeak.toFixed(0)} %`,
  blas === undefined ? "–" : (blas.medianMs / result.medianMs).toFixed(2),
  result.relL2.toExponential(1),
  rateText(result.tokensPerSecond),
]

const usText = (ms: number): string => (ms * 1e3).toFixed(ms < 0.1 ? 2 : 1)

const legend = [
  "µs: time of the device for a product in a graph, median (least to most) of the rounds. GB/s: weight, x and y, once each. roof: 100 × these",
  "bytes at the bandwidth of reading, over the median; many rows are bound by arithmetic and have a lower one. peak: TFLOP/s as a share of what cuBLAS",
  "gave for large square matrices in this run. × cuBLAS: times as fast as cuBLAS with 16-bit weights. error: relative L2 distance to the float64 product",
  "with the backend's own weights, on a sample. tsq-unfused: codes are decoded to memory, then multiplied; its bytes are the codes'.",
].join("\n")
