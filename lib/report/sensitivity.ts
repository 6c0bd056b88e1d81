// What quantizing each group of linears does to a model: a ranking for terminals, and a page with plots.
import { htmlPage } from "./html.ts"
import { escapeText, scatterPlot, tickText } from "./plot.ts"
import { table } from "./tables.ts"

interface Damages {
  architecture: string
  tokens: number
  groups: readonly {
    modules: readonly string[]
    layer: number
    weights: number
    candidates: readonly { scheme: string; bitsPerWeight: number; damage: number }[]
  }[]
}

/** Schemes in the order of their bits, those that some group has. */
function schemesOf({ groups }: Damages): string[] {
  const bits = new Map<string, number>()
  for (const { candidates } of groups)
    for (const { scheme, bitsPerWeight, damage } of candidates)
      if (damage > 0) bits.set(scheme, Math.min(bits.get(scheme) ?? bitsPerWeight, bitsPerWeight))
  return [...bits].sort((a, b) => a[1] - b[1]).map(([scheme]) => scheme)
}

const damageOf = (group: Damages["groups"][number], scheme: string): number | undefined =>
  group.candidates.find(candidate => candidate.scheme === scheme)?.damage

/** "layers.3.self_attn.q_proj +2": the first module without what all have in front; "layers.3.mlp.experts (384)". */
function nameOf({ modules }: Damages["groups"][number]): string {
  const first = modules[0]!.replace(/^model\./, "")
  const experts = /^(.*\.experts)\.\d+\./.exec(first)
  if (experts) return `${experts[1]} (${modules.length})`
  return first + (modules.length > 1 ? ` +${modules.length - 1}` : "")
}

/** Groups by their damage per weight at the scheme in the middle: what is worth most bits comes first. */
function ranked(report: Damages): Damages["groups"][number][] {
  const schemes = schemesOf(report)
  const middle = schemes[Math.floor((schemes.length - 1) / 2)]!
  const rate = (group: Damages["groups"][number]) => (damageOf(group, middle) ?? 0) / group.weights
  return [...report.groups].sort((a, b) => rate(b) - rate(a))
}

const cell = (damage: number | undefined): string => (damage === undefined ? "" : damage.toExponential(2))

export function sensitivityTable(report: Damages): string {
  const schemes = schemesOf(report)
  return table(
    ["linears", "weights", ...schemes],
    ["left", "right", ...schemes.map(() => "right" as const)],
    ranked(report).map(group => [
      nameOf(group),
      group.weights.toLocaleString("en"),
      ...schemes.map(scheme => cell(damageOf(group, scheme))),
    ]),
  )
}

/** Damage by layer, a line a scheme, one plot for each kind of linear; and the ranking. */
export function sensitivityPage(report: Damages): string {
  const schemes = schemesOf(report)
  const kinds = new Map<string, Damages["groups"][number][]>()
  for (const group of report.groups) {
    const kind = nameOf(group).replace(/^layers\.\d+\./, "")
    kinds.set(kind, [...(kinds.get(kind) ?? []), group])
  }
  const plots = [...kinds].map(([kind, groups]) =>
    scatterPlot(
      schemes.map(scheme => ({
        name: scheme,
        points: groups
          .map(group => ({ x: group.layer, y: damageOf(group, scheme) ?? 0, label: `layer ${group.layer}` }))
          .filter(({ y }) => y > 0),
      })),
      { title: kind, xLabel: "layer", yLabel: "KL divergence, nats per token", logY: true },
    ),
  )
  return htmlPage(`Sensitivity of ${report.architecture}`, [
    {
      kind: "text",
      text: `KL divergence of the model's output in nats per token, over ${report.tokens} tokens, with one group of linears quantized and the rest as it was.`,
    },
    { kind: "svg", svg: heatMap(report, schemes) },
    { kind: "svgs", svgs: plots },
    { kind: "heading", text: "Ranking" },
    {
      kind: "table",
      head: ["linears", "weights", ...schemes],
      rows: ranked(report).map(group => [
        nameOf(group),
        group.weights.toLocaleString("en"),
        ...schemes.map(scheme => cell(damageOf(group, scheme))),
      ]),
    },
  ])
}

const heat = { row: 18, column: 76, top: 64, left: 250, right: 20, bottom: 40 }

/** A row a group in the order of the model, a column a scheme; darker is worse, on a logarithmic scale. */
export function heatMap(report: Damages, schemes = schemesOf(report)): string {
  const values = report.groups
    .flatMap(({ candidates }) => candidates.map(({ damage }) => damage))
    .filter(value => value > 0)
  const [low, high] = [Math.min(...values), Math.max(...values)]
  const shade = (value: number) => Math.log(value / low) / Math.max(Math.log(high / low), Number.MIN_VALUE)
  const width = heat.left + schemes.length * heat.column + heat.right
  const height = heat.top + report.groups.length * heat.row + heat.bottom
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="system-ui, sans-serif" font-size="12">`,
    "<title>Damage by linears and scheme</title>",
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    `<text x="8" y="22" font-size="15" font-weight="600">Damage by linears and scheme</text>`,
    ...schemes.map(
      (scheme, i) =>
        `<text x="${heat.left + (i + 0.5) * heat.column}" y="${heat.top - 8}" text-anchor="middle">${escapeText(scheme)}</text>`,
    ),
  ]
  report.groups.forEach((group, row) => {
    const y = heat.top + row * heat.row
    parts.push(
      `<text x="${heat.left - 8}" y="${y + 13}" text-anchor="end">${escapeText(nameOf(group))}</text>`,
      ...schemes.flatMap((scheme, i) => {
        const damage = damageOf(group, scheme)
        if (damage === undefined || damage <= 0) return []
        const dark = shade(damage)
        return [
          `<rect x="${heat.left + i * heat.column}" y="${y}" width="${heat.column - 1}" height="${heat.row - 1}" fill="#0072b2" fill-opacity="${(0.06 + 0.9 * dark).toFixed(3)}"/>`,
          `<text x="${heat.left + (i + 0.5) * heat.column}" y="${y + 13}" text-anchor="middle" fill="${dark > 0.55 ? "#ffffff" : "#1b1b1b"}">${damage.toExponential(1)}</text>`,
        ]
      }),
    )
  })
  parts.push(
    `<text x="8" y="${height - 14}" fill="#555555">nats per token, ${tickText(low)} (light) to ${tickText(high)} (dark), logarithmic</text>`,
    "</svg>",
  )
  return parts.join("\n")
}
