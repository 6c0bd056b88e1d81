// Places labels beside points so that none lies over another, over a point or outside of the plot.

export interface LabelPlace {
  /** Left end of the text, and its base line. */
  x: number
  y: number
  /** Whether it lies so far from its point that a line should lead to it. */
  leader: boolean
}

interface Box {
  left: number
  right: number
  top: number
  bottom: number
}

const characterWidth = 6.6
const lineHeight = 13
const pointRadius = 7

const overlaps = (a: Box, b: Box): boolean =>
  a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom

/** Text of one line in 12-pixel type. Points that find no free place get null: too many for the area. */
export function placeLabels(
  points: readonly { x: number; y: number; label: string }[],
  area: Box,
): (LabelPlace | null)[] {
  const taken: Box[] = points.map(({ x, y }) => ({
    ...{ left: x - pointRadius, right: x + pointRadius, top: y - pointRadius, bottom: y + pointRadius },
  }))
  return points.map(({ x, y, label }) => {
    const width = label.length * characterWidth
    for (let distance = 10; distance < 260; distance += 12)
      for (const [dx, dy] of directions) {
        const left = dx === 0 ? x - width / 2 : dx > 0 ? x + dx * distance : x + dx * distance - width
        const base = y + dy * distance + 4
        const box = { left, right: left + width, top: base - lineHeight + 2, bottom: base + 3 }
        const inside =
          box.left >= area.left && box.right <= area.right && box.top >= area.top && box.bottom <= area.bottom
        if (!inside || taken.some(other => overlaps(box, other))) continue
        taken.push(box)
        return { x: left, y: base, leader: distance > 22 }
      }
    return null
  })
}

/** Beside the point first, where no horizontal line through it strikes the text out. */
const directions = [
  ...[[0.7, -0.8] as const, [0.7, 0.9] as const, [-0.7, -0.8] as const, [-0.7, 0.9] as const],
  ...[[1, 0] as const, [-1, 0] as const, [0, -1.3] as const, [0, 1.5] as const],
]
