// Checkpoints side by side (lib/bench/suite.ts): a table, and the pictures that let one choose.
import type { Part } from "./html.ts"
import { type ParetoPoint, paretoPlot } from "./pareto.ts"
import { table } from "./tables.ts"

interface Spread {
  median: number
  min: number
  max: number
}

export interface ShownSuite {
  reference: string
  protocol: string
  window: number
  tokenCount: number
  models: readonly {
    name: string
    bitsPerWeight: number
    fileBytes: number
    memoryBytes: number
    perplexity: number
    against?: { klMean: number; klStdError: number; topAgreement: number } | null | undefined
    prefill: Spread | null
    decode: Spread | null
  }[]
  speed: { promptTokens: number; newTokens: number; rounds: number; interleaved: boolean } | null
}

const head = [
  ...["model", "bits/weight", "file MB", "memory MB", "perplexity", "KL", "top token"],
  ...["prefill tokens/s", "decode tokens/s"],
]

const rate = (value: number) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3))
const rates = (spread: Spread | null) =>
  spread === null ? "–" : `${rate(spread.median)} (${rate(spread.min)}–${rate(spread.max)})`

const rows = ({ models }: ShownSuite): string[][] =>
  models.map(({ name, bitsPerWeight, fileBytes, memoryBytes, perplexity, against, prefill, decode }) => [
    name,
    bitsPerWeight.toFixed(3),
    (fileBytes / 1e6).toPrecision(4),
    (memoryBytes / 1e6).toPrecision(4),
    perplexity.toFixed(4),
    against ? `${against.klMean.toPrecision(3)} ± ${against.klStdError.toPrecision(1)}` : "reference",
    against ? `${(against.topAgreement * 100).toFixed(1)} %` : "",
    rates(prefill),
    rates(decode),
  ])

function about({ reference, protocol, window, tokenCount, speed }: ShownSuite): string {
  const quality = `Quality against ${reference} over ${tokenCount} tokens (${protocol}, window ${window}).`
  if (!speed) return quality
  const turns = speed.interleaved ? "models in turn" : "one model after the other, for want of memory"
  return `${quality} Tokens per second: median of ${speed.rounds} runs (from least to most), ${speed.promptTokens} tokens of prompt, ${speed.newTokens} new ones, one sequence, ${turns}.`
}

export const suiteText = (suite: ShownSuite): string =>
  `${table(
    head,
    head.map((_, i) => (i === 0 ? ("left" as const) : ("right" as const))),
    rows(suite),
  )}\n\n${about(suite)}`

export function suiteParts(suite: ShownSuite): Part[] {
  const points = (
    x: (model: ShownSuite["models"][number]) => number,
    spread?: (m: ShownSuite["models"][number]) => Spread | null,
  ): ParetoPoint[] =>
    suite.models.map(model => {
      const range = spread?.(model)
      return {
        ...{ x: x(model), y: model.against?.klMean ?? 0, label: model.name },
        ...(range && { range: [range.min, range.max] as const }),
      }
    })
  const yLabel = "KL to the reference, nats per token"
  const plots = [
    paretoPlot(
      points(({ fileBytes }) => fileBytes / 1e6),
      {
        ...{ title: "Quality against size", xLabel: "size of all tensors, MB", yLabel, better: "less" },
      },
    ),
  ]
  if (suite.speed)
    plots.push(
      paretoPlot(
        points(
          ({ decode }) => decode!.median,
          ({ decode }) => decode,
        ),
        { title: "Quality against speed", xLabel: "decoded tokens per second", yLabel, better: "more" },
      ),
    )
  return [
    { kind: "text", text: about(suite) },
    ...plots.map(svg => ({ kind: "svg" as const, svg })),
    { kind: "table", head, rows: rows(suite) },
  ]
}
