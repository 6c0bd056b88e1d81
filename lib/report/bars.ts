// Horizontal bars as SVG text: one value for each name, told apart by colour and, where they must not be compared unmarked, by
// hatching.
import { scaleLinear } from "d3-scale"
import { escapeText } from "./plot.ts"

export interface Bar {
  label: string
  value: number
  color: string
  hatched: boolean
  /** Spread, drawn as a line over the end of the bar. */
  range?: readonly [number, number]
}

export interface BarOptions {
  title: string
  unit: string
  width?: number
}

const rowHeight = 26
const margin = { top: 40, right: 74, bottom: 10, left: 206 }

/** An <svg> element, as high as its bars need. Values start at 0. */
export function barChart(bars: readonly Bar[], { title, unit, width = 480 }: BarOptions): string {
  const height = margin.top + bars.length * rowHeight + margin.bottom
  const most = Math.max(...bars.map(bar => bar.range?.[1] ?? bar.value), 0)
  const x = scaleLinear()
    .domain([0, most || 1])
    .range([margin.left, width - margin.right])
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escapeText(title)}</title>`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    `<text x="8" y="20" font-size="14" font-weight="600">${escapeText(title)}</text>`,
    `<text x="${width - 8}" y="20" text-anchor="end" fill="#555555">${escapeText(unit)}</text>`,
  ]
  bars.forEach(({ label, value, color, hatched, range }, index) => {
    const at = margin.top + index * rowHeight
    const end = x(value)
    parts.push(
      `<text x="${margin.left - 8}" y="${at + 15}" text-anchor="end">${escapeText(label)}</text>`,
      `<rect x="${margin.left}" y="${at + 2}" width="${(end - margin.left).toFixed(1)}" height="${rowHeight - 8}" fill="${color}" fill-opacity="${hatched ? 0.35 : 0.9}"/>`,
    )
    if (hatched) parts.push(hatching(margin.left, at + 2, end - margin.left, rowHeight - 8, color))
    if (range) {
      const middle = at + 2 + (rowHeight - 8) / 2
      parts.push(
        `<line x1="${x(range[0]).toFixed(1)}" x2="${x(range[1]).toFixed(1)}" y1="${middle}" y2="${middle}" stroke="#1b1b1b" stroke-width="1.2"/>`,
      )
    }
    const after = Math.max(end, range ? x(range[1]) : end)
    parts.push(`<text x="${(after + 6).toFixed(1)}" y="${at + 15}">${valueText(value)}</text>`)
  })
  parts.push("</svg>")
  return parts.join("\n")
}

/** Slanted lines within a bar, as one path: patterns by reference would need names that are unique in the page. */
function hatching(left: number, top: number, width: number, height: number, color: string): string {
  const steps: string[] = []
  for (let at = 6 - height; at < width; at += 6) {
    // From (at, height) up to (at + height, 0), cut off at both ends of the bar.
    const [begin, end] = [Math.max(at, 0), Math.min(at + height, width)]
    if (end <= begin) continue
    const y = (x: number) => (top + height - (x - at)).toFixed(1)
    steps.push(`M${(left + begin).toFixed(1)} ${y(begin)} L${(left + end).toFixed(1)} ${y(end)}`)
  }
  return `<path d="${steps.join(" ")}" stroke="${color}" stroke-width="1.2" fill="none"/>`
}

const valueText = (value: number): string =>
  value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(3)
