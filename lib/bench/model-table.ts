// The results of the model benchmark as text for a terminal.
import { table } from "../report/tables.ts"
import { rateText, threadsText } from "./kernel-table.ts"
import { type ModelBenchReport, type ModelRow, rowName } from "./model-results.ts"
import type { Summary } from "./statistics.ts"

export function modelText(report: ModelBenchReport): string {
  return [
    machineLines(report).join("\n"),
    table(speedHead, ["left", ...speedHead.slice(1).map(() => "right" as const)], speedRows(report)),
    ...(report.ratios.length > 0 ? [table(ratioHead, ["left", "left", "right", "right"], ratioRows(report))] : []),
    ...(startRows(report).length > 0 ? [table(startHead, ["left", "left", "right", "right"], startRows(report))] : []),
    ...report.unavailable.map(({ backend, reason }) => `${backend} was not measured: ${reason}`),
    modelLegend(report),
  ].join("\n\n")
}

export function machineLines({ machine, model, peers, options, read, results }: ModelBenchReport): string[] {
  const { cpu, cpus, system, node, version, commit, date, hugePages } = machine
  const peerText = peers.map(peer => `; ${peer.name} ${peer.version}`).join("")
  const { promptTokens, newTokens, threads, rounds, resident } = options
  return [
    `${cpu}, ${cpus} CPUs, ${system}, Node ${node}, large pages ${hugePages ?? "unknown"}, ${date.slice(0, 10)}`,
    `tsq-native ${version}${commit ? ` (${commit})` : ""}${peerText}`,
    `${model.name}, ${(model.parameters / 1e9).toFixed(2)} G parameters, ${model.synthetic ? "random weights" : model.path}`,
    `${promptTokens} prompt tokens, ${newTokens} new, ${threadsText(threads)}, ${rounds} ${rounds === 1 ? "round" : "interleaved rounds"}${resident ? "" : ", each model loaded anew in every round"}; memory reads at ${rangeText(read)} GB/s`,
    `keys and values: ${cacheText(results)}`,
  ]
}

/** "tsq int8, last 65 tokens f16; node-llama-cpp its own f16". */
function cacheText(rows: readonly ModelRow[]): string {
  const caches = new Map(rows.map(({ backend, kvCache }) => [backend, kvCache]))
  return [...caches].map(([name, kvCache]) => `${name} ${name === "tsq" ? "" : "its own "}${kvCache}`).join("; ")
}

export const speedHead = [
  ...["model", "prefill/s", "GFLOP/s", "first ms", "decode/s", "GB/s", "of roof", "MB/token", "resident MB", "peak MB"],
]

export const speedRows = ({ results }: ModelBenchReport): string[][] =>
  results.map(row => [
    rowName(row),
    rangeText(row.prefill),
    row.prefillGflops.toFixed(0),
    row.firstTokenMs.median.toFixed(0),
    rangeText(row.decode),
    row.decodeGBps === null ? "" : row.decodeGBps.toFixed(1),
    row.percentOfRoof === null ? "" : `${row.percentOfRoof.toFixed(0)} %`,
    row.weightBytes === null ? "" : megabytes(row.weightBytes),
    megabytes(row.residentBytes),
    megabytes(row.peakBytes),
  ])

export const ratioHead = ["times as fast", "as", "prefill", "decode"]

export const ratioRows = ({ ratios }: ModelBenchReport): string[][] =>
  ratios.map(({ weights, activations, peer, prefill, decode }) => [
    rowName({ backend: "tsq", weights, activations }),
    peer,
    prefill.toFixed(2),
    decode.toFixed(2),
  ])

export const startHead = ["start", "from", "import ms", "load ms"]

/** One for each process: the activations make no difference. */
export function startRows({ results }: ModelBenchReport): string[][] {
  const seen = new Map<string, ModelRow>()
  for (const row of results) seen.set(`${row.backend} ${row.weights}`, row)
  return [...seen].flatMap(([name, { backend, starts }]) =>
    starts.map(({ from, importMs, loadMs }) => [
      name,
      from === "cache" ? "cache file" : backend === "tsq" ? "checkpoint" : "file",
      rangeText(importMs),
      rangeText(loadMs),
    ]),
  )
}

export const modelLegend = ({ options }: ModelBenchReport): string =>
  [
    "Medians (least–most). prefill: prompt tokens by the time to the first new token. decode: further new tokens by their time, greedy. roof:",
    "weights read for a token at the read bandwidth of the same rounds. [int8]: activations are rounded to 8 bits; not comparable with exact",
    `ones. Starts: fresh processes, files in the page cache${options.compiled ? "" : "; run from sources, so that imports include their translation"}.`,
  ].join("\n")

const rangeText = ({ median, min, max, count }: Summary): string =>
  count === 1 ? rateText(median) : `${rateText(median)} (${rateText(min)}–${rateText(max)})`

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(0)
