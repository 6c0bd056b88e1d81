import { dirname, isAbsolute, join } from "node:path"
import { type Command, Option } from "commander"
import type { SuiteEntry } from "../bench/suite.ts"
import { parseJson } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"
import type { LongWork } from "../core/progress.ts"
import type { LoadOptions } from "../engine/load-model.ts"
import type { Activations } from "../kernels/packed-weight.ts"
import type { Part } from "../report/html.ts"
import {
  addRunFlags,
  collect,
  integer,
  integers,
  interruptible,
  loadOptions,
  positive,
  refuseLater,
  type SharedFlags,
} from "./arguments.ts"
import { print, printJson, writePage } from "./output.ts"
import { showProgress } from "./progress.ts"
import { readText } from "./text-file.ts"

interface Flags extends SharedFlags {
  text?: string
  window?: number
  stride?: number
  protocol?: string
  against?: string
  layers?: boolean
  task?: readonly string[]
  limit?: number
  needle?: true | "passkey" | "pairs"
  lengths?: readonly number[]
  adapter?: string
  suite?: boolean
  rounds?: number
  html?: string
}

/** What every kind of evaluation is given. */
interface Shared extends LongWork {
  activations?: Activations
  adapter?: string
  load: LoadOptions
}

/** What one found: for --json, for the terminal, and for a page. */
interface Found {
  json: unknown
  text: string
  parts: Part[]
}

export function addEvaluate(program: Command): void {
  addRunFlags(
    program
      .command("evaluate")
      .description("quality of a model: perplexity on a text, distance from another model, tasks, retrieval")
      .argument(
        "<models...>",
        "Hugging Face folder or .gguf file; several, or a JSON file that lists them, with --suite",
      )
      .option("--text <file>", "UTF-8 text")
      .option("--window <n>", "tokens of a window", positive)
      .option("--stride <n>", "score only each window's last n positions", positive)
      .addOption(
        new Option("--protocol <name>", "how windows are cut and scored")
          .choices(["gptq", "llama.cpp", "whole"])
          .default("gptq"),
      )
      .option("--against <model>", "reference model: adds KL divergence and top-token agreement")
      .option("--adapter <folder>", "LoRA adapter as PEFT saves it, run beside the model's weights")
      .option("--layers", "with --against: the error of the residual stream after every block")
      .option("--task <file>", "documents of an lm-evaluation task, JSON or JSON Lines; may be repeated", collect)
      .option("--limit <n>", "only the first n documents of a task", positive)
      .addOption(
        new Option("--needle [kind]", "retrieval by length and depth: of a pass key in a text, or of pairs of tokens")
          .choices(["passkey", "pairs"])
          .preset("passkey"),
      )
      .option("--lengths <n,…>", "tokens of the prompts of --needle", integers)
      .option(
        "--suite",
        "models side by side: size, memory, quality against the first (or --against) and speed on --text",
      )
      .option("--rounds <n>", "measured runs of every model of --suite; 0: no speeds (default: 5)", integer)
      .option("--html <file>", "what was found, as a page with plots")
      .option("--json", "one JSON object on stdout"),
  ).action(async (models: string[], flags: Flags, command: Command) => {
    refuseLater(flags)
    const kinds = [flags.text, flags.task, flags.needle].filter(flag => flag !== undefined)
    if (kinds.length !== 1) command.error("error: give one of --text <file>, --task <file> and --needle")
    if (models.length > 1 && !flags.suite) command.error("error: several models are compared with --suite")
    if (flags.suite && flags.text === undefined) command.error("error: --suite needs --text <file>")
    if (flags.suite && flags.adapter !== undefined)
      command.error("error: --adapter is for one model; merge it into each model of --suite (tsq quantize --adapter)")
    const [model] = models as [string]
    const { setThreads } = await import("../core/machine.ts")
    if (flags.threads !== undefined) setThreads(flags.threads)
    const progress = showProgress()
    const interrupt = interruptible()
    const shared: Shared = {
      ...(flags.activations && { activations: flags.activations }),
      ...(flags.adapter !== undefined && { adapter: "adapter" }),
      load: {
        ...loadOptions(flags),
        ...(flags.adapter !== undefined && { adapters: { adapter: flags.adapter } }),
        onWarning: text => progress.note(`warning: ${text}`),
      },
      signal: interrupt.signal,
      onProgress: progress.onProgress,
    }
    try {
      const found = flags.task
        ? await runTasks(model, flags.task, flags, shared)
        : flags.needle
          ? await runNeedle(model, flags, shared)
          : flags.suite
            ? await runSuite(models, flags, shared)
            : await runText(model, flags, shared)
      progress.stop()
      if (flags.html !== undefined) {
        const { htmlPage } = await import("../report/html.ts")
        await writePage(flags.html, htmlPage(`tsq evaluate: ${models.join(", ")}`, found.parts))
      }
      if (flags.json) printJson(found.json)
      else print(found.text)
    } finally {
      progress.stop()
      interrupt.done()
    }
  })
}

const textOptions = async (flags: Flags) => ({
  text: await readText(flags.text!, "--text"),
  protocol: flags.protocol as never,
  ...(flags.window !== undefined && { window: flags.window }),
  ...(flags.stride !== undefined && { stride: flags.stride }),
  ...(flags.against !== undefined && { against: flags.against }),
})

async function runText(model: string, flags: Flags, shared: Shared): Promise<Found> {
  const { evaluateModel } = await import("../evaluate/evaluate-model.ts")
  const { evaluationParts, evaluationText } = await import("../report/evaluation.ts")
  const result = await evaluateModel(model, {
    ...shared,
    ...(await textOptions(flags)),
    ...(flags.layers && { layers: true }),
  })
  return { json: result, text: evaluationText(result), parts: evaluationParts(result) }
}

async function runTasks(path: string, files: readonly string[], flags: Flags, shared: Shared): Promise<Found> {
  const { evaluateTask } = await import("../evaluate/evaluate-task.ts")
  const { loadModel } = await import("../engine/load-model.ts")
  const { taskHead, taskRows, taskTable } = await import("../report/task-table.ts")
  const { load, ...options } = shared
  const model = await loadModel(path, load)
  try {
    const tasks = []
    for (const file of files)
      tasks.push(
        await evaluateTask(model, file, { ...options, ...(flags.limit !== undefined && { limit: flags.limit }) }),
      )
    const parts: Part[] = [{ kind: "table", head: taskHead, rows: taskRows(tasks) }]
    return { json: { model: model.path, tasks }, text: taskTable(tasks), parts }
  } finally {
    model.dispose()
  }
}

async function runNeedle(model: string, { needle, lengths, kvCache }: Flags, shared: Shared): Promise<Found> {
  const { evaluateNeedle } = await import("../evaluate/needle.ts")
  const { needleMap, needleText } = await import("../report/needle.ts")
  const result = await evaluateNeedle(model, {
    ...shared,
    ...(needle && needle !== true && { kind: needle }),
    ...(lengths && { lengths }),
  })
  const svg = needleMap(result, `Retrieval with keys and values in ${kvCache ?? "f32"}, per cent`)
  return { json: result, text: needleText(result), parts: [{ kind: "svg", svg }] }
}

async function runSuite(models: readonly string[], flags: Flags, shared: Shared): Promise<Found> {
  const { evaluateSuite } = await import("../bench/suite.ts")
  const { suiteParts, suiteText } = await import("../report/suite.ts")
  const listed = models.length === 1 && models[0]!.endsWith(".json")
  const list = listed ? await readList(models[0]!) : models
  const suite = await evaluateSuite(list, {
    ...shared,
    ...(await textOptions(flags)),
    ...(flags.rounds !== undefined && { rounds: flags.rounds }),
  })
  return { json: suite, text: suiteText(suite), parts: suiteParts(suite) }
}

/** A JSON array of paths and of { name, path }; relative paths are from its folder. */
async function readList(file: string): Promise<SuiteEntry[]> {
  const list = parseJson(await readText(file, "the list of models"), file)
  if (!Array.isArray(list)) throw new TsqError("ERR_FORMAT", `${file} holds no array, expected a list of models`)
  return list.map(item => {
    const entry = (typeof item === "string" ? { path: item } : item) as unknown as SuiteEntry
    if (typeof entry?.path !== "string")
      throw new TsqError(
        "ERR_FORMAT",
        `${file}: a model is ${JSON.stringify(item)}, expected a path or { name?, path }`,
      )
    return { ...entry, path: join(isAbsolute(entry.path) ? "" : dirname(file), entry.path) }
  })
}
