// Results of tasks as lm-evaluation-harness prints them: a row for every metric.
import { table } from "./tables.ts"

/** Names of the harness. */
const metricNames: Readonly<Record<string, string>> = {
  ...{ accNorm: "acc_norm", accBytes: "acc_bytes", wordPerplexity: "word_perplexity" },
  ...{ bytePerplexity: "byte_perplexity", bitsPerByte: "bits_per_byte" },
}

type Shown = readonly {
  task: string
  documents: number
  metrics: Readonly<Record<string, { value: number; stdError: number | null }>>
}[]

export const taskHead = ["task", "documents", "metric", "value", "± error"]

export const taskRows = (results: Shown): string[][] =>
  results.flatMap(({ task, documents, metrics }) =>
    Object.entries(metrics).map(([name, { value, stdError }], i) => [
      i === 0 ? task : "",
      i === 0 ? String(documents) : "",
      metricNames[name] ?? name,
      value.toFixed(4),
      stdError === null ? "" : stdError.toFixed(4),
    ]),
  )

export const taskTable = (results: Shown): string =>
  table(taskHead, ["left", "right", "left", "right", "right"], taskRows(results))
