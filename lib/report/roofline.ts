// Roofline plots as SVG text: speed over arithmetic intensity, under what memory and instructions allow.
import { scaleLog } from "d3-scale"
import { escapeText, logTicks, tickText } from "./plot.ts"

export interface RooflinePoint {
  /** Operations a byte. */
  intensity: number
  /** 1e9 operations a second. */
  speed: number
  label: string
}

export interface RooflineSeries {
  name: string
  color: string
  /** Drawn as outlines: what must not be compared with the others unmarked. */
  hollow: boolean
  points: readonly RooflinePoint[]
}

export interface RooflineOptions {
  title: string
  /** 1e9 bytes a second. */
  memory: number
  /** 1e9 operations a second of each instruction. */
  ceilings: readonly { name: string; speed: number }[]
  width?: number
  /** Of the plot; the legend below it comes on top. */
  height?: number
}

const margin = { top: 44, right: 150, bottom: 54, left: 66 }
const legendColumns = 3
const legendRow = 20

/** An <svg> element. All values must be positive. */
export function rooflinePlot(series: readonly RooflineSeries[], options: RooflineOptions): string {
  const { memory, width = 900, height: plotHeight = 450 } = options
  const height = plotHeight + Math.ceil(series.length / legendColumns) * legendRow + 6
  const ceilings = [...options.ceilings].sort((a, b) => a.speed - b.speed)
  const points = series.flatMap(each => each.points)
  const highest = Math.max(...ceilings.map(each => each.speed), ...points.map(point => point.speed))
  const [left, right] = [margin.left, width - margin.right]
  const [top, bottom] = [margin.top, plotHeight - margin.bottom]
  const xs = points.map(point => point.intensity)
  const domainX = [Math.min(...xs) / 1.8, Math.max(...xs, (highest / memory) * 1.5) * 1.8] as const
  const domainY = [Math.min(...points.map(point => point.speed)) / 1.8, highest * 1.9] as const
  const x = scaleLog().domain(domainX).range([left, right])
  const y = scaleLog().domain(domainY).range([bottom, top])
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escapeText(options.title)}</title>`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    `<text x="${left}" y="22" font-size="15" font-weight="600">${escapeText(options.title)}</text>`,
  ]
  for (const tick of logTicks(...domainX))
    parts.push(
      line(x(tick), bottom, x(tick), top, "#ececec"),
      `<text x="${fixed(x(tick))}" y="${bottom + 18}" text-anchor="middle">${tickText(tick)}</text>`,
    )
  for (const tick of logTicks(...domainY))
    parts.push(
      line(left, y(tick), right, y(tick), "#ececec"),
      `<text x="${left - 8}" y="${fixed(y(tick) + 4)}" text-anchor="end">${tickText(tick)}</text>`,
    )
  const middle = (top + bottom) / 2
  parts.push(
    `<text x="${(left + right) / 2}" y="${plotHeight - 14}" text-anchor="middle">operations a byte of weights</text>`,
    `<text x="16" y="${middle}" text-anchor="middle" transform="rotate(-90 16 ${middle})">GFLOP/s (int8: GOP/s)</text>`,
  )
  // Memory: up to the highest ceiling. Ceilings: from where memory allows them.
  const fastest = ceilings.at(-1)?.speed ?? highest
  const from = Math.max(domainX[0], domainY[0] / memory)
  parts.push(line(x(from), y(from * memory), x(fastest / memory), y(fastest), "#555555", 1.6))
  const mark = Math.sqrt((from * fastest) / memory)
  const [markX, markY] = [x(mark), y(mark * memory)]
  const slope = (-Math.atan2(y(mark) - y(mark * 10), x(mark * 10) - x(mark)) * 180) / Math.PI
  parts.push(
    `<text x="${fixed(markX)}" y="${fixed(markY - 7)}" fill="#555555" text-anchor="middle" transform="rotate(${fixed(slope)} ${fixed(markX)} ${fixed(markY)})">memory, ${tickText(memory)} GB/s</text>`,
  )
  let lowest = Number.POSITIVE_INFINITY
  for (const { name, speed } of ceilings) {
    parts.push(line(x(speed / memory), y(speed), right, y(speed), "#555555", 1.6))
    // Labels of ceilings that are close to each other give way upwards.
    const at = Math.min(y(speed) + 4, lowest - 13)
    lowest = at
    parts.push(`<text x="${right + 6}" y="${fixed(at)}" fill="#555555">${escapeText(name)}, ${tickText(speed)}</text>`)
  }
  for (const { name, color, hollow, points: own } of series)
    for (const { intensity, speed, label } of own)
      parts.push(dot(x(intensity), y(speed), color, hollow, `${name}: ${label}`))
  series.forEach(({ name, color, hollow }, index) => {
    const column = left + (index % legendColumns) * ((width - left) / legendColumns)
    const at = plotHeight + Math.floor(index / legendColumns) * legendRow + 8
    parts.push(
      dot(column + 6, at - 4, color, hollow, name),
      `<text x="${fixed(column + 18)}" y="${at}">${escapeText(name)}</text>`,
    )
  })
  parts.push("</svg>")
  return parts.join("\n")
}

const fixed = (value: number): string => value.toFixed(1)

const line = (x1: number, y1: number, x2: number, y2: number, color: string, width = 1): string =>
  `<line x1="${fixed(x1)}" y1="${fixed(y1)}" x2="${fixed(x2)}" y2="${fixed(y2)}" stroke="${color}" stroke-width="${width}"/>`

function dot(cx: number, cy: number, color: string, hollow: boolean, title: string): string {
  const paint = hollow
    ? `fill="#ffffff" fill-opacity="0.6" stroke="${color}" stroke-width="2"`
    : `fill="${color}" fill-opacity="0.85"`
  return `<circle cx="${fixed(cx)}" cy="${fixed(cy)}" r="${hollow ? 4.2 : 5}" ${paint}><title>${escapeText(title)}</title></circle>`
}
