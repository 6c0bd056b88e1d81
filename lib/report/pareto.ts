// One cost over another as SVG text, every point named, those that no other beats marked and joined.
import { scaleLinear, scaleLog } from "d3-scale"
import { placeLabels } from "./labels.ts"
import { colors, escapeText, logTicks, tickText } from "./plot.ts"

export interface ParetoPoint {
  x: number
  /** Lower is better; 0 (the reference itself) is drawn at the foot of a logarithmic axis. */
  y: number
  label: string
  /** Of x, drawn as a line. */
  range?: readonly [number, number] | undefined
}

export interface ParetoOptions {
  title: string
  xLabel: string
  yLabel: string
  /** Which x is better. */
  better: "less" | "more"
  width?: number
  height?: number
}

const margin = { top: 44, right: 24, bottom: 52, left: 78 }

/** Indices of the points that no other equals or beats in both and beats in one. */
export function paretoFront(points: readonly { x: number; y: number }[], better: "less" | "more"): number[] {
  const sign = better === "less" ? 1 : -1
  const beats = (a: { x: number; y: number }, b: { x: number; y: number }) =>
    sign * a.x <= sign * b.x && a.y <= b.y && (a.x !== b.x || a.y !== b.y)
  return points.flatMap((point, i) => (points.some(other => beats(other, point)) ? [] : [i]))
}

/** An <svg> element. y is logarithmic. */
export function paretoPlot(points: readonly ParetoPoint[], options: ParetoOptions): string {
  const { better, width = 820, height = 460 } = options
  const positive = points.map(({ y }) => y).filter(y => y > 0)
  const [low, high] = positive.length > 0 ? [Math.min(...positive), Math.max(...positive)] : [1, 1]
  const hasZero = points.some(({ y }) => y <= 0)
  const floor = low / (hasZero ? 6 : 2)
  const area = { left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom }
  const ends = points.flatMap(({ x, range }) => [x, ...(range ?? [])])
  const pad = (Math.max(...ends) - Math.min(...ends)) * 0.08 || Math.abs(ends[0]!) * 0.1 || 1
  const x = scaleLinear()
    .domain([Math.max(0, Math.min(...ends) - pad), Math.max(...ends) + pad])
    .nice()
    .range([area.left, area.right])
  const y = scaleLog()
    .domain([floor, high * 2])
    .range([area.bottom, area.top])
  const placed = points.map(point => ({ ...point, px: x(point.x), py: point.y > 0 ? y(point.y) : area.bottom - 10 }))
  const front = paretoFront(points, better)
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escapeText(options.title)}</title>`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    `<text x="${margin.left}" y="22" font-size="15" font-weight="600">${escapeText(options.title)}</text>`,
    `<text x="${area.right}" y="22" text-anchor="end" fill="#555555">${better === "less" ? "best: bottom left" : "best: bottom right"}; joined: no other is better in both</text>`,
  ]
  for (const tick of x.ticks(8))
    parts.push(
      `<line x1="${x(tick)}" x2="${x(tick)}" y1="${area.top}" y2="${area.bottom}" stroke="#e6e6e6"/>`,
      `<text x="${x(tick)}" y="${area.bottom + 18}" text-anchor="middle">${tickText(tick)}</text>`,
    )
  // Below the smallest value the axis is broken: 0 has no place on it.
  for (const tick of logTicks(hasZero ? low / 2 : floor, high * 2))
    parts.push(
      `<line x1="${area.left}" x2="${area.right}" y1="${y(tick).toFixed(1)}" y2="${y(tick).toFixed(1)}" stroke="#e6e6e6"/>`,
      `<text x="${area.left - 8}" y="${(y(tick) + 4).toFixed(1)}" text-anchor="end">${tickText(tick)}</text>`,
    )
  if (hasZero) parts.push(`<text x="${area.left - 8}" y="${area.bottom - 6}" text-anchor="end">0</text>`)
  const middle = (area.top + area.bottom) / 2
  parts.push(
    `<text x="${(area.left + area.right) / 2}" y="${height - 12}" text-anchor="middle">${escapeText(options.xLabel)}</text>`,
    `<text x="16" y="${middle}" text-anchor="middle" transform="rotate(-90 16 ${middle})">${escapeText(options.yLabel)}</text>`,
  )
  const line = front.map(i => placed[i]!).sort((a, b) => a.px - b.px)
  const path = line.map(({ px, py }) => `${px.toFixed(1)},${py.toFixed(1)}`).join(" ")
  if (line.length > 1) parts.push(`<polyline points="${path}" fill="none" stroke="${colors[0]}" stroke-width="1.5"/>`)
  const labels = placeLabels(
    placed.map(({ px, py, label }) => ({ x: px, y: py, label })),
    area,
  )
  placed.forEach(({ px, py, label, range, x: value, y: cost }, i) => {
    const onFront = front.includes(i)
    const color = onFront ? colors[0]! : "#8a8a8a"
    const [cx, cy] = [px.toFixed(1), py.toFixed(1)]
    const hint = `<title>${escapeText(`${label}: ${tickText(value)}, ${cost.toPrecision(3)}`)}</title>`
    if (range)
      parts.push(
        `<line x1="${x(range[0]).toFixed(1)}" x2="${x(range[1]).toFixed(1)}" y1="${cy}" y2="${cy}" stroke="${color}" opacity="0.6"/>`,
      )
    parts.push(
      `<circle cx="${cx}" cy="${cy}" r="5" fill="${onFront ? color : "#ffffff"}" stroke="${color}" stroke-width="1.6">${hint}</circle>`,
    )
    const at = labels[i]
    if (!at) return
    if (at.leader)
      parts.push(
        `<line x1="${cx}" y1="${cy}" x2="${(at.x > px ? at.x - 2 : Math.min(px, at.x + label.length * 6.6)).toFixed(1)}" y2="${(at.y - 4).toFixed(1)}" stroke="#bbbbbb"/>`,
      )
    const weight = onFront ? ' font-weight="600"' : ' fill="#444444"'
    parts.push(
      `<text x="${at.x.toFixed(1)}" y="${at.y.toFixed(1)}"${weight} stroke="#ffffff" stroke-width="3" paint-order="stroke">${escapeText(label)}</text>`,
    )
  })
  parts.push("</svg>")
  return parts.join("\n")
}
