// The results of the model benchmark as one HTML page.
import { barChart } from "../report/bars.ts"
import { htmlPage, type Part } from "../report/html.ts"
import { colors } from "../report/plot.ts"
import { type ModelBenchReport, rowName } from "./model-results.ts"
import {
  machineLines,
  modelLegend,
  ratioHead,
  ratioRows,
  speedHead,
  speedRows,
  startHead,
  startRows,
} from "./model-table.ts"

export function modelPage(report: ModelBenchReport): string {
  const parts: Part[] = machineLines(report).map(text => ({ kind: "text", text }))
  parts.push({ kind: "svgs", svgs: [bars(report, "prefill"), bars(report, "decode")] })
  parts.push({ kind: "table", head: speedHead, rows: speedRows(report) })
  if (report.ratios.length > 0) parts.push({ kind: "table", head: ratioHead, rows: ratioRows(report) })
  const starts = startRows(report)
  if (starts.length > 0) parts.push({ kind: "table", head: startHead, rows: starts })
  for (const { backend, reason } of report.unavailable)
    parts.push({ kind: "text", text: `${backend} was not measured: ${reason}` })
  parts.push({ kind: "text", text: modelLegend(report).replaceAll("\n", " ") })
  return htmlPage(`Model benchmark: ${report.model.name}`, parts)
}

function bars({ results, options }: ModelBenchReport, what: "prefill" | "decode"): string {
  const list = results.map((row, index) => ({
    label: rowName(row),
    value: row[what].median,
    range: [row[what].min, row[what].max] as const,
    color: colors[index % colors.length]!,
    hatched: row.activations === "int8",
  }))
  const title =
    what === "prefill" ? `Prefill, ${options.promptTokens} tokens` : `Decoding, ${options.newTokens} new tokens`
  return barChart(list, { title, unit: "tokens/s" })
}
