// Runs a task and computes the harness's metrics (lm_eval/api/task.py, process_results; lm_eval/api/metrics.py).
import { readFile } from "node:fs/promises"
import { basename } from "node:path"
import { ioError, TsqError } from "../core/errors.ts"
import { describe, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { type LoadOptions, loadModel } from "../engine/load-model.ts"
import type { Likelihood, LikelihoodOptions } from "../engine/loglikelihood.ts"
import { Model } from "../engine/model.ts"
import { type Activations, readActivations } from "../kernels/packed-weight.ts"
import { checkTask, lengthOf, parseTask, type Task } from "./task.ts"

export interface EvaluateTaskOptions extends LongWork {
  /** Only the first so many documents. */
  limit?: number
  activations?: Activations
  /** Name of an adapter that `load` or the model has. */
  adapter?: string | null
  /** For a model given by its directory. */
  load?: LoadOptions
}

export interface TaskMetric {
  value: number
  /** Standard error; null for metrics that are no mean. */
  stdError: number | null
}

export interface TaskResult {
  /** Directory of the model. */
  model: string
  task: string
  kind: Task["kind"]
  documents: number
  /**
   * multiple_choice: acc, accNorm (log-likelihood by characters of the choice), accBytes (by its bytes). loglikelihood: acc (the continuation is greedy), perplexity
   * of a document. loglikelihood_rolling: wordPerplexity, bytePerplexity, bitsPerByte.
   */
  metrics: Record<string, TaskMetric>
  /** multiple_choice: the choices taken for acc. */
  answers?: number[]
}

/** `task`: a file of documents (see parseTask), or a parsed task. Models given by directory are loaded and disposed here. */
export async function evaluateTask(
  model: string | Model,
  task: string | Task,
  values?: EvaluateTaskOptions,
): Promise<TaskResult> {
  const options = new Options("evaluateTask", values, [
    "limit",
    "activations",
    "adapter",
    "load",
    "signal",
    "onProgress",
  ])
  const limit = options.integer("limit", { min: 1 }, undefined)
  const [signal, onProgress] = [options.signal(), options.onProgress()]
  const found = typeof task === "string" ? await readTask(task) : checkTask(task)
  if (typeof model !== "string" && !(model instanceof Model))
    throw new TsqError(
      "ERR_OPTION",
      `evaluateTask: the model is ${describe(model)}, expected a directory or a loaded model`,
    )
  const opened =
    typeof model === "string" ? await loadModel(model, { ...values?.load, ...(signal && { signal }) }) : model
  try {
    const scoring: LikelihoodOptions = {
      activations: readActivations(options, opened.activations),
      ...(options.has("adapter") && { adapter: options.raw("adapter") as string | null }),
      ...(signal && { signal }),
      ...(onProgress && { onProgress }),
    }
    const about = { model: opened.path, task: found.name, kind: found.kind }
    if (found.kind === "multiple_choice") {
      const documents = found.documents.slice(0, limit)
      const requests = documents.flatMap(({ context, choices }) =>
        choices.map(choice => ({ context, continuation: found.delimiter + choice })),
      )
      const scores = await opened.loglikelihood(requests, scoring)
      return { ...about, documents: documents.length, ...chosen(documents, scores) }
    }
    if (found.kind === "loglikelihood") {
      const documents = found.documents.slice(0, limit)
      const scores = await opened.loglikelihood(documents, scoring)
      return { ...about, documents: documents.length, metrics: cloze(scores) }
    }
    const texts = found.documents.slice(0, limit).map(({ text }) => text)
    const scores = await opened.loglikelihoodRolling(texts, scoring)
    return { ...about, documents: texts.length, metrics: rolling(texts, scores) }
  } finally {
    if (opened !== model) opened.dispose()
  }
}

async function readTask(path: string): Promise<Task> {
  let source: string
  try {
    source = await readFile(path, "utf8")
  } catch (cause) {
    throw ioError("read the task", path, cause)
  }
  return parseTask(source, basename(path).replace(/\.jsonl?$/, ""))
}

function chosen(
  documents: readonly { choices: readonly string[]; label: number }[],
  scores: readonly Likelihood[],
): Pick<TaskResult, "metrics" | "answers"> {
  const hits = { acc: [] as number[], accNorm: [] as number[], accBytes: [] as number[] }
  const answers: number[] = []
  let next = 0
  for (const { choices, label } of documents) {
    const own = scores.slice(next, next + choices.length).map(({ logprob }) => logprob)
    next += choices.length
    const by = (length: (choice: string) => number) => largest(own.map((value, i) => value / length(choices[i]!)))
    const answer = largest(own)
    answers.push(answer)
    hits.acc.push(Number(answer === label))
    hits.accNorm.push(Number(by(lengthOf.characters) === label))
    hits.accBytes.push(Number(by(lengthOf.bytes) === label))
  }
  const metrics = Object.fromEntries(Object.entries(hits).map(([name, values]) => [name, meanOf(values)]))
  return { metrics, answers }
}

function cloze(scores: readonly Likelihood[]): Record<string, TaskMetric> {
  const mean = meanOf(scores.map(({ logprob }) => logprob))
  return {
    acc: meanOf(scores.map(({ isGreedy }) => Number(isGreedy))),
    perplexity: { value: Math.exp(-mean.value), stdError: Math.exp(-mean.value) * mean.stdError! },
  }
}

/** Over all texts together, weighted by their length. Words are what lies between white space, as the harness counts them. */
function rolling(texts: readonly string[], scores: readonly Likelihood[]): Record<string, TaskMetric> {
  const total = scores.reduce((sum, { logprob }) => sum + logprob, 0)
  const words = texts.reduce((sum, text) => sum + text.split(/\s+/).length, 0)
  const bytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0)
  const plain = (value: number): TaskMetric => ({ value, stdError: null })
  return {
    wordPerplexity: plain(Math.exp(-total / words)),
    bytePerplexity: plain(Math.exp(-total / bytes)),
    bitsPerByte: plain(-total / bytes / Math.LN2),
  }
}

/** The first of equal ones. */
const largest = (values: readonly number[]): number =>
  values.reduce((best, value, i) => (value > values[best]! ? i : best), 0)

function meanOf(values: readonly number[]): TaskMetric {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  return { value: mean, stdError: values.length > 1 ? Math.sqrt(squares / (values.length - 1) / values.length) : 0 }
}
