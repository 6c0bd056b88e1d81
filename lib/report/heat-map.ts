// A grid of shares as SVG text: light to dark, each cell with its figure.
import { scaleLinear } from "d3-scale"
import { escapeText } from "./plot.ts"

export interface HeatMapOptions {
  title: string
  xLabel: string
  yLabel: string
  columns: readonly string[]
  rows: readonly string[]
  /** By row, then column: 0 to 1, null where nothing was measured. */
  values: readonly (readonly (number | null)[])[]
}

const cell = { width: 64, height: 34 }
const margin = { top: 44, right: 16, bottom: 52, left: 84 }
// From vermilion through white to blue of Okabe and Ito's palette: bad and good differ in lightness from the middle as well.
const color = scaleLinear<string>().domain([0, 0.5, 1]).range(["#d55e00", "#f7f3e8", "#0072b2"]).clamp(true)

/** An <svg> element, as large as its cells need. Full and empty retrieval stand out; figures are per cent. */
export function heatMap({ title, xLabel, yLabel, columns, rows, values }: HeatMapOptions): string {
  const width = Math.max(margin.left + columns.length * cell.width + margin.right, 320)
  const height = margin.top + rows.length * cell.height + margin.bottom
  const middle = margin.top + (rows.length * cell.height) / 2
  const text = (x: number, y: number, content: string, more = "") =>
    `<text x="${x}" y="${y}" ${more}>${escapeText(content)}</text>`
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escapeText(title)}</title>`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    text(16, 22, title, 'font-size="15" font-weight="600"'),
  ]
  rows.forEach((row, i) => {
    const y = margin.top + i * cell.height
    parts.push(text(margin.left - 8, y + cell.height / 2 + 4, row, 'text-anchor="end"'))
    columns.forEach((_, j) => {
      const x = margin.left + j * cell.width
      const value = values[i]?.[j] ?? null
      const fill = value === null ? "#ffffff" : color(value)
      parts.push(
        `<rect x="${x}" y="${y}" width="${cell.width - 2}" height="${cell.height - 2}" fill="${fill}" stroke="#d9d9d9"/>`,
      )
      const dark = value !== null && (value < 0.2 || value > 0.8)
      const figure = value === null ? "–" : String(Math.round(value * 100))
      parts.push(
        text(
          x + cell.width / 2 - 1,
          y + cell.height / 2 + 3,
          figure,
          `text-anchor="middle" fill="${dark ? "#ffffff" : "#1b1b1b"}"`,
        ),
      )
    })
  })
  columns.forEach((column, j) => {
    const x = margin.left + (j + 0.5) * cell.width - 1
    parts.push(text(x, height - margin.bottom + 18, column, 'text-anchor="middle"'))
  })
  parts.push(
    text(margin.left + (columns.length * cell.width) / 2, height - 12, xLabel, 'text-anchor="middle"'),
    text(18, middle, yLabel, `text-anchor="middle" transform="rotate(-90 18 ${middle})"`),
    "</svg>",
  )
  return parts.join("\n")
}
