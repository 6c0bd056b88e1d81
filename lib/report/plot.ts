// Scatter plots as SVG text: quality against size, with a legend and readable ticks.
import { scaleLinear, scaleLog } from "d3-scale"

export interface Point {
  x: number
  y: number
  label: string
}

export interface Series {
  name: string
  points: readonly Point[]
}

export interface PlotOptions {
  title: string
  xLabel: string
  yLabel: string
  /** y on a logarithmic axis; all y must be positive. */
  logY?: boolean
  width?: number
  height?: number
}

// Okabe and Ito's palette: told apart with any colour vision.
export const colors = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
const markers = ["circle", "square", "triangle", "diamond"] as const
const margin = { top: 44, right: 150, bottom: 52, left: 74 }

export const escapeText = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;")

/** An <svg> element. Series are joined by lines in the order of their points. */
export function scatterPlot(series: readonly Series[], options: PlotOptions): string {
  const { width = 760, height = 440, logY = false } = options
  const points = series.flatMap(({ points }) => points)
  const x = scaleLinear()
    .domain(padded(points.map(point => point.x)))
    .nice()
    .range([margin.left, width - margin.right])
  const ys = points.map(point => point.y)
  const y = (
    logY ? scaleLog().domain([Math.min(...ys) / 1.6, Math.max(...ys) * 1.6]) : scaleLinear().domain(padded(ys)).nice()
  ).range([height - margin.bottom, margin.top])
  const xTicks = x.ticks(8)
  const yTicks = logY ? logTicks(Math.min(...ys) / 1.6, Math.max(...ys) * 1.6) : y.ticks(7)
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escapeText(options.title)}</title>`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    `<text x="${margin.left}" y="22" font-size="15" font-weight="600">${escapeText(options.title)}</text>`,
  ]
  for (const tick of xTicks)
    parts.push(
      `<line x1="${x(tick)}" x2="${x(tick)}" y1="${margin.top}" y2="${height - margin.bottom}" stroke="#e6e6e6"/>`,
      `<text x="${x(tick)}" y="${height - margin.bottom + 18}" text-anchor="middle">${tick}</text>`,
    )
  for (const tick of yTicks)
    parts.push(
      `<line x1="${margin.left}" x2="${width - margin.right}" y1="${y(tick)}" y2="${y(tick)}" stroke="#e6e6e6"/>`,
      `<text x="${margin.left - 8}" y="${y(tick) + 4}" text-anchor="end">${tickText(tick)}</text>`,
    )
  const middle = (margin.top + height - margin.bottom) / 2
  parts.push(
    `<text x="${(margin.left + width - margin.right) / 2}" y="${height - 12}" text-anchor="middle">${escapeText(options.xLabel)}</text>`,
    `<text x="16" y="${middle}" text-anchor="middle" transform="rotate(-90 16 ${middle})">${escapeText(options.yLabel)}</text>`,
  )
  series.forEach(({ name, points: own }, index) => {
    const color = colors[index % colors.length]!
    const placed = own.map(point => ({ ...point, px: x(point.x), py: y(point.y) }))
    if (placed.length > 1)
      parts.push(
        `<polyline points="${placed.map(({ px, py }) => `${px.toFixed(1)},${py.toFixed(1)}`).join(" ")}" fill="none" stroke="${color}" stroke-width="1.5" opacity="0.7"/>`,
      )
    for (const { px, py, label } of placed) parts.push(marker(index, px, py, color, `${name}, ${label}`))
    const legendY = margin.top + 10 + index * 22
    parts.push(
      marker(index, width - margin.right + 22, legendY, color, name),
      `<text x="${width - margin.right + 36}" y="${legendY + 4}">${escapeText(name)}</text>`,
    )
  })
  parts.push("</svg>")
  return parts.join("\n")
}

function padded(values: readonly number[]): [number, number] {
  const low = Math.min(...values)
  const high = Math.max(...values)
  const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1
  return [low - pad, high + pad]
}

/** Powers of ten within the range, with 2 and 5 between them where there are few. */
export function logTicks(low: number, high: number): number[] {
  const ticks: number[] = []
  const few = Math.log10(high / low) < 3
  for (let exponent = Math.floor(Math.log10(low)); exponent <= Math.ceil(Math.log10(high)); exponent++)
    for (const digit of few ? [1, 2, 5] : [1]) {
      const tick = digit * 10 ** exponent
      if (tick >= low && tick <= high) ticks.push(tick)
    }
  return ticks
}

export const tickText = (value: number): string =>
  value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e5)
    ? value.toExponential(0)
    : String(Number(value.toPrecision(3)))

function marker(index: number, px: number, py: number, color: string, title: string): string {
  const [cx, cy] = [px.toFixed(1), py.toFixed(1)]
  const hint = `<title>${escapeText(title)}</title>`
  switch (markers[index % markers.length]) {
    case "circle":
      return `<circle cx="${cx}" cy="${cy}" r="5" fill="${color}">${hint}</circle>`
    case "square":
      return `<rect x="${(px - 4.5).toFixed(1)}" y="${(py - 4.5).toFixed(1)}" width="9" height="9" fill="${color}">${hint}</rect>`
    case "triangle":
      return `<path d="M${cx} ${(py - 6).toFixed(1)} l5.5 10 h-11 z" fill="${color}">${hint}</path>`
    default:
      return `<path d="M${cx} ${(py - 6).toFixed(1)} l6 6 l-6 6 l-6 -6 z" fill="${color}">${hint}</path>`
  }
}
