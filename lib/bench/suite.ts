// Several checkpoints side by side: size, memory, quality against one of them, and speed. Speeds are measured in turn, round by round, so
// that what the machine does meanwhile falls on all alike.
import { basename, resolve } from "node:path"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import { type LongWork, progressReporter } from "../core/progress.ts"
import { type LoadOptions, loadModel } from "../engine/load-model.ts"
import type { Model } from "../engine/model.ts"
import type { Protocol } from "../engine/windows.ts"
import { type Evaluation, evaluateModel } from "../evaluate/evaluate-model.ts"
import type { Activations } from "../kernels/packed-weight.ts"
import { inspectModel } from "../quantize/inspect-model.ts"
import { availableMemory } from "./machine.ts"
import { randomWords } from "./samples.ts"
import { type Summary, summarize } from "./statistics.ts"

export interface SuiteEntry {
  /** How it is called. Default: the last part of the path. */
  name?: string
  path: string
}

export interface SuiteOptions extends LongWork {
  /** What to score: a text, or its token ids. */
  text?: string
  ids?: ArrayLike<number>
  protocol?: Protocol
  window?: number
  stride?: number
  /** What the others are compared with. Default: the first model. */
  against?: string
  /** Tokens of the prompt and generated ones of a measured run. Default 128 and 32, less where a context is shorter. */
  promptTokens?: number
  newTokens?: number
  /** Measured runs of each model; 0: no speeds. Default 5. */
  rounds?: number
  activations?: Activations
  load?: LoadOptions
}

export interface SuiteRow {
  name: string
  model: string
  /** Of quantized linears with scales and zero points. */
  bitsPerWeight: number
  /** Of all tensors in the files. */
  fileBytes: number
  /** Of the weights as they lie in memory, and of one sequence's keys and values at the window's length on top. */
  memoryBytes: number
  perplexity: number
  /** null for the reference. */
  against: Evaluation["against"] | null
  /** Tokens per second; null where not measured. */
  prefill: Summary | null
  decode: Summary | null
}

export interface SuiteReport {
  reference: string
  protocol: Protocol
  window: number
  tokenCount: number
  models: SuiteRow[]
  /** Of the runs: whether all models lay in memory at once and took turns. */
  speed: { promptTokens: number; newTokens: number; rounds: number; interleaved: boolean } | null
}

const optionNames = [
  ...["text", "ids", "protocol", "window", "stride", "against", "promptTokens", "newTokens", "rounds"],
  ...["activations", "load", "signal", "onProgress"],
]

/** ERR_OPTION for fewer than one model, or two of one name; what loadModel and evaluateModel throw. */
export async function evaluateSuite(
  list: readonly (string | SuiteEntry)[],
  values: SuiteOptions,
): Promise<SuiteReport> {
  const options = new Options("evaluateSuite", values, optionNames)
  const entries = readEntries(list)
  if (options.has("text") === options.has("ids"))
    throw new TsqError("ERR_OPTION", 'evaluateSuite: give what to score as one of the options "text" and "ids"')
  const rounds = options.integer("rounds", { min: 0, max: 1000 }, 5)
  const asked = {
    promptTokens: options.integer("promptTokens", { min: 1 }, 128),
    newTokens: options.integer("newTokens", { min: 2 }, 32),
  }
  const reference = resolve(options.string("against", entries[0]!.path))
  const signal = options.signal()
  const report = progressReporter(options.onProgress())
  if (values.load?.adapters !== undefined)
    options.fail(
      "load",
      "no adapters, which belong to one model: merge them into each (quantizeModel's option adapters)",
    )
  const load = { ...values.load, ...(signal && { signal }) }
  const scoring = Object.fromEntries(
    ["text", "ids", "protocol", "window", "stride", "activations", "signal"]
      .filter(name => options.has(name))
      .map(name => [name, options.raw(name)]),
  )
  const rows: SuiteRow[] = []
  let context = Number.POSITIVE_INFINITY
  let common: Pick<SuiteReport, "protocol" | "window" | "tokenCount"> | undefined
  // The reference runs as it is stored, whatever the others are asked to do.
  const { quantize, kvCache = "f32", ...plain }: LoadOptions = load
  const base = await loadModel(reference, { ...plain, activations: "exact" })
  const activations = values.activations ?? values.load?.activations ?? "scheme"
  const rounds8 = activations === "int8" || (activations === "scheme" && base.weights.roundedModules.length > 0)
  const asStored = quantize === undefined && kvCache === "f32" && !rounds8
  try {
    for (const [i, { name, path }] of entries.entries()) {
      throwIfAborted(signal)
      report({ stage: "evaluate", done: i, total: entries.length, detail: name })
      const same = asStored && resolve(path) === reference
      const { weightBytes: fileBytes } = await inspectModel(path)
      const model = same ? base : await loadModel(path, load)
      context = Math.min(context, model.maxContext)
      try {
        const found = await evaluateModel(model, { ...scoring, ...(!same && { against: base }) })
        common ??= { protocol: found.protocol, window: found.window, tokenCount: found.tokenCount }
        rows.push({
          ...{
            name,
            model: path,
            bitsPerWeight: model.bitsPerWeight,
            fileBytes,
            memoryBytes: model.weights.bytes + model.kvCacheBytes(found.window),
          },
          ...{ perplexity: found.perplexity, against: found.against ?? null, prefill: null, decode: null },
        })
      } finally {
        if (!same) model.dispose()
      }
    }
  } finally {
    base.dispose()
  }
  const speed = rounds > 0 ? await measure(rows, { ...asked, rounds, context, load, values, report, signal }) : null
  return { reference, ...common!, models: rows, speed }
}

function readEntries(list: unknown): Required<SuiteEntry>[] {
  if (!Array.isArray(list) || list.length === 0)
    throw new TsqError("ERR_OPTION", `evaluateSuite: models is ${describe(list)}, expected a list of at least one`)
  const entries = list.map((item: unknown, i) => {
    const { name, path } = (typeof item === "string" ? { path: item } : (item ?? {})) as Partial<SuiteEntry>
    if (typeof path !== "string" || path === "" || (name !== undefined && (typeof name !== "string" || name === "")))
      throw new TsqError(
        "ERR_OPTION",
        `evaluateSuite: models[${i}] is ${describe(item)}, expected a path or { name?, path }`,
      )
    return { name: name ?? basename(resolve(path)), path }
  })
  const twice = entries.find(({ name }, i) => entries.findIndex(other => other.name === name) !== i)
  if (twice)
    throw new TsqError("ERR_OPTION", `evaluateSuite: two models are called ${describe(twice.name)}; give them names`)
  return entries
}

interface Measurement {
  promptTokens: number
  newTokens: number
  rounds: number
  /** The shortest of all models. */
  context: number
  load: LoadOptions
  values: SuiteOptions
  report: ReturnType<typeof progressReporter>
  signal: AbortSignal | undefined
}

/** What loading takes at most beside the packed weights, and what stays free. */
const memoryShare = 0.6

async function measure(rows: SuiteRow[], how: Measurement): Promise<NonNullable<SuiteReport["speed"]>> {
  const { rounds, load, values, report, signal } = how
  const interleaved = rows.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0) < memoryShare * availableMemory()
  const open = new Map<SuiteRow, Model>()
  const rates = new Map(rows.map(row => [row, { prefill: [] as number[], decode: [] as number[] }]))
  const newTokens = Math.min(how.newTokens, Math.max(2, how.context >> 1))
  const promptTokens = Math.min(how.promptTokens, how.context - newTokens)
  try {
    if (interleaved) for (const row of rows) open.set(row, await loadModel(row.model, load))
    const run = async (model: Model, round: number) => {
      throwIfAborted(signal)
      const next = randomWords(round + 1)
      const prompt = Array.from({ length: promptTokens }, () => next() % model.config.vocabularySize)
      return await model.complete(prompt, {
        ...{ maxTokens: newTokens, temperature: 0, repetitionPenalty: 1, ignoreEos: true },
        ...(values.activations && { activations: values.activations }),
        ...(signal && { signal }),
      })
    }
    const keep = (row: SuiteRow, found: Awaited<ReturnType<typeof run>>) => {
      rates.get(row)!.prefill.push(found.prefillTokensPerSecond)
      rates.get(row)!.decode.push(found.decodeTokensPerSecond)
    }
    if (interleaved) {
      // The first run of each finds memory and threads, and is not counted.
      for (let round = -1; round < rounds; round++)
        for (const [row, model] of open) {
          report({ stage: "speed", done: Math.max(round, 0), total: rounds, detail: row.name })
          const found = await run(model, Math.max(round, 0))
          if (round >= 0) keep(row, found)
        }
    } else
      for (const row of rows) {
        const model = await loadModel(row.model, load)
        open.set(row, model)
        await run(model, 0)
        for (let round = 0; round < rounds; round++) keep(row, await run(model, round))
        model.dispose()
        open.delete(row)
      }
  } finally {
    for (const model of open.values()) model.dispose()
  }
  for (const row of rows) {
    row.prefill = summarize(rates.get(row)!.prefill)
    row.decode = summarize(rates.get(row)!.decode)
  }
  return { promptTokens, newTokens, rounds, interleaved }
}
