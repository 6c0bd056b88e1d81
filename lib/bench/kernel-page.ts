// The results of the kernel benchmark as one HTML page: rooflines, bars, tables.
import { type Bar, barChart } from "../report/bars.ts"
import { htmlPage, type Part } from "../report/html.ts"
import { colors } from "../report/plot.ts"
import { type RooflineSeries, rooflinePlot } from "../report/roofline.ts"
import type { Label } from "./backend.ts"
import { type KernelReport, labelKey, labelText } from "./kernel-results.ts"
import {
  cellHead,
  cellRows,
  cells,
  legend,
  machineText,
  modelHead,
  modelRows,
  summaryHead,
  summaryRows,
  threadsText,
} from "./kernel-table.ts"
import { median } from "./statistics.ts"

export function kernelPage(report: KernelReport): string {
  const { options, unavailable, models } = report
  const parts: Part[] = machineText(report)
    .split("\n")
    .map(text => ({ kind: "text", text }))
  for (const threads of options.threads) parts.push(...roofline(report, threads))
  parts.push({ kind: "heading", text: models.length > 0 ? "Kernel tokens per second" : "Speed over all shapes" })
  parts.push({ kind: "svgs", svgs: models.length > 0 ? modelBars(report) : shapeBars(report) })
  if (models.length > 0) parts.push({ kind: "table", head: modelHead, rows: modelRows(report) })
  parts.push({ kind: "heading", text: "Over all shapes" })
  parts.push({ kind: "text", text: "Geometric means; ×: speed beside the fastest such peer of each shape." })
  parts.push({ kind: "table", head: summaryHead, rows: summaryRows(report) })
  for (const [title, results] of cells(report)) {
    parts.push({ kind: "heading", text: title })
    parts.push({ kind: "table", head: cellHead, rows: cellRows(report, results) })
  }
  for (const { backend, reason } of unavailable)
    parts.push({ kind: "text", text: `${backend} was not measured: ${reason}` })
  parts.push({ kind: "text", text: legend(report).replaceAll("\n", " ") })
  return htmlPage("Kernel benchmark", parts)
}

// The palette of all plots, and more for a run of many backends.
const manyColors = [...colors, "#8c564b", "#7f7f7f", "#9467bd", "#17becf", "#bcbd22", "#e377c2"]

/** A colour for each backend, the same in every plot. */
function palette({ results }: KernelReport): (label: Label) => string {
  const keys = [...new Set(results.map(labelKey))]
  return label => manyColors[keys.indexOf(labelKey(label)) % manyColors.length]!
}

function roofline(report: KernelReport, threads: number): Part[] {
  const own = report.results.filter(result => result.threads === threads)
  const roofs = report.roofs.filter(roof => roof.threads === threads)
  if (own.length === 0) return []
  const colorOf = palette(report)
  const series = new Map<string, RooflineSeries & { points: { intensity: number; speed: number; label: string }[] }>()
  for (const result of own) {
    const key = labelKey(result)
    let found = series.get(key)
    if (!found) {
      const name = labelText(result, report.options)
      found = { name, color: colorOf(result), hollow: result.activations === "int8", points: [] }
      series.set(key, found)
    }
    const { m, n, k, weightBytes, gflops, percentOfRoof } = result
    const label = `${k}×${n}, m ${m}: ${gflops.toFixed(0)} GFLOP/s, ${percentOfRoof.toFixed(0)} % of its roof`
    found.points.push({ intensity: (2 * m * n * k) / weightBytes, speed: gflops, label })
  }
  const names = new Set(roofs.flatMap(roof => roof.peaks.map(peak => peak.instruction)))
  const ceilings = [...names].map(name => ({
    name,
    speed: median(
      roofs.flatMap(roof => roof.peaks.filter(peak => peak.instruction === name).map(peak => peak.gops.median)),
    ),
  }))
  const memory = median(roofs.map(roof => roof.readGBps.median))
  const title = `Roofline, ${threadsText(threads)} (outlines: int8 activations)`
  return [{ kind: "svg", svg: rooflinePlot([...series.values()], { title, memory, ceilings }) }]
}

function modelBars(report: KernelReport): string[] {
  const colorOf = palette(report)
  const charts = new Map<string, Bar[]>()
  for (const result of report.models)
    addBar(charts, `${result.model}, m ${result.m}, ${threadsText(result.threads)}`, {
      label: labelText(result, report.options),
      value: result.tokensPerSecond,
      color: colorOf(result),
      hatched: result.activations === "int8",
    })
  return [...charts].map(([title, bars]) => barChart(bars, { title, unit: "tokens/s" }))
}

function shapeBars(report: KernelReport): string[] {
  const colorOf = palette(report)
  const charts = new Map<string, Bar[]>()
  for (const each of report.summary)
    addBar(charts, `m ${each.m}, ${threadsText(each.threads)}`, {
      label: labelText(each, report.options),
      value: each.gflops,
      color: colorOf(each),
      hatched: each.activations === "int8",
    })
  return [...charts].map(([title, bars]) => barChart(bars, { title, unit: "GFLOP/s, geometric mean" }))
}

function addBar(charts: Map<string, Bar[]>, title: string, bar: Bar): void {
  const bars = charts.get(title)
  if (bars) bars.push(bar)
  else charts.set(title, [bar])
}
