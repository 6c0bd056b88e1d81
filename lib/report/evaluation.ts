// An evaluation in words and pictures: what llama.cpp's perplexity tool prints, and the error by layer.
import { basename } from "node:path"
import type { Part } from "./html.ts"
import { scatterPlot } from "./plot.ts"
import { table } from "./tables.ts"

/** The parts of an evaluation (lib/evaluate/evaluate-model.ts) that are shown. */
export interface ShownEvaluation {
  model: string
  protocol: string
  tokenCount: number
  nllStdError: number
  perplexity: number
  bitsPerByte: number | null
  bitsPerCharacter: number | null
  window: number
  against?: ShownComparison
}

interface ShownComparison {
  model: string
  perplexity: number
  perplexityStdError: number
  perplexityRatio: number
  perplexityRatioStdError: number
  perplexityDifference: number
  perplexityDifferenceStdError: number
  logPerplexityCorrelation: number
  klMean: number
  klStdError: number
  klPercentiles: Readonly<Record<string, number>>
  topAgreement: number
  topAgreementStdError: number
  probabilityChange: {
    mean: number
    stdError: number
    rms: number
    rmsStdError: number
    percentiles: Readonly<Record<string, number>>
  }
  layers?: readonly { layer: number; relativeSquaredError: number }[]
}

const percentileTexts: Readonly<Record<string, string>> = {
  ...{ max: "maximum", p999: "99.9 %", p99: "99 %", p95: "95 %", p90: "90 %", p75: "75 %", median: "median" },
  ...{ p25: "25 %", p10: "10 %", p5: "5 %", p1: "1 %", p01: "0.1 %", min: "minimum" },
}

const percent = (share: number, digits = 3) => `${(share * 100).toFixed(digits)} %`

export function evaluationText(result: ShownEvaluation): string {
  const { against } = result
  const lines = summaryLines(result)
  if (!against) return lines.join("\n")
  lines.push("", table(percentileHead, ["left", "right", "right"], percentileRows(against)))
  if (against.layers) lines.push("", table(layerHead, ["right", "right"], layerRows(against.layers)))
  return lines.join("\n")
}

/** For a page: the same, and the error by layer as a plot. */
export function evaluationParts(result: ShownEvaluation): Part[] {
  const { model, against } = result
  const parts: Part[] = [{ kind: "sample", title: model, text: summaryLines(result).join("\n") }]
  if (!against) return parts
  parts.push({ kind: "table", head: percentileHead, rows: percentileRows(against) })
  if (!against.layers) return parts
  parts.push({ kind: "table", head: layerHead, rows: layerRows(against.layers) })
  const layers = against.layers.filter(({ relativeSquaredError }) => relativeSquaredError > 0)
  if (layers.length > 0) parts.push({ kind: "svg", svg: layerPlot([{ name: basename(model), layers }]) })
  return parts
}

function summaryLines({ perplexity, nllStdError, tokenCount, protocol, window, ...rest }: ShownEvaluation): string[] {
  const { bitsPerByte, bitsPerCharacter, against } = rest
  const perText =
    bitsPerByte === null || bitsPerCharacter === null
      ? ""
      : `, ${bitsPerByte.toFixed(4)} bits per byte, ${bitsPerCharacter.toFixed(4)} per character`
  const error = (perplexity * nllStdError).toFixed(4)
  const own = `perplexity ${perplexity.toFixed(4)} ± ${error} over ${tokenCount} tokens (${protocol}, window ${window})${perText}`
  if (!against) return [own]
  const { probabilityChange: change } = against
  return [
    own,
    `reference  ${against.perplexity.toFixed(4)} ± ${against.perplexityStdError.toFixed(4)}, correlation of logarithms ${percent(against.logPerplexityCorrelation, 2)}`,
    `ratio ${against.perplexityRatio.toFixed(5)} ± ${against.perplexityRatioStdError.toFixed(5)}, difference ${against.perplexityDifference.toFixed(5)} ± ${against.perplexityDifferenceStdError.toFixed(5)}`,
    `KL ${against.klMean.toExponential(3)} ± ${against.klStdError.toExponential(1)} nats per token`,
    `same top token ${percent(against.topAgreement, 2)} ± ${percent(against.topAgreementStdError, 2)}`,
    `probability of the right token: mean change ${percent(change.mean)} ± ${percent(change.stdError)}, RMS ${percent(change.rms)} ± ${percent(change.rmsStdError)}`,
  ]
}

const percentileHead = ["", "KL", "change of probability"]
const percentileRows = ({ klPercentiles, probabilityChange }: ShownComparison): string[][] =>
  Object.entries(percentileTexts).map(([name, text]) => [
    text,
    klPercentiles[name]!.toExponential(3),
    percent(probabilityChange.percentiles[name]!),
  ])

const layerHead = ["layer", "relative squared error"]
const layerRows = (layers: NonNullable<ShownComparison["layers"]>): string[][] =>
  layers.map(({ layer, relativeSquaredError }) => [String(layer), relativeSquaredError.toExponential(3)])

/** Relative squared error of the residual stream after each block, one line a model. */
export const layerPlot = (
  models: readonly { name: string; layers: readonly { layer: number; relativeSquaredError: number }[] }[],
): string =>
  scatterPlot(
    models.map(({ name, layers }) => ({
      name,
      points: layers.map(({ layer, relativeSquaredError: y }) => ({
        ...{ x: layer, y, label: `layer ${layer}: ${y.toExponential(2)}` },
      })),
    })),
    {
      title: "Error of the residual stream",
      ...{ xLabel: "after block", yLabel: "relative squared error", logY: true },
    },
  )
