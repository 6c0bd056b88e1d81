// The needle grid as a table and as a heat map.
import { heatMap } from "./heat-map.ts"
import { table } from "./tables.ts"

export interface ShownNeedle {
  model: string
  kind: string
  lengths: readonly number[]
  depths: readonly number[]
  cells: readonly { length: number; depth: number; trials: number; retrieved: number }[]
  retrieval: number
}

const depthText = (depth: number) => `${Math.round(depth * 100)} %`

/** By depth, then by length: share retrieved. */
const grid = ({ lengths, depths, cells }: ShownNeedle): (number | null)[][] =>
  depths.map(depth =>
    lengths.map(length => {
      const found = cells.find(cell => cell.length === length && cell.depth === depth)
      return found ? found.retrieved / found.trials : null
    }),
  )

export function needleText(result: ShownNeedle): string {
  const rows = grid(result).map((row, i) => [
    depthText(result.depths[i]!),
    ...row.map(value => (value === null ? "–" : `${Math.round(value * 100)} %`)),
  ])
  const head = ["depth", ...result.lengths.map(String)]
  const grown = table(
    head,
    head.map(() => "right" as const),
    rows,
  )
  return `${grown}\n\n${(result.retrieval * 100).toFixed(1)} % of the needles retrieved (${result.kind})`
}

export const needleMap = (result: ShownNeedle, title: string): string =>
  heatMap({
    title,
    ...{ xLabel: "tokens of the prompt", yLabel: "depth of the needle" },
    columns: result.lengths.map(length =>
      length >= 1024 && length % 1024 === 0 ? `${length / 1024}k` : String(length),
    ),
    rows: result.depths.map(depthText),
    values: grid(result),
  })
