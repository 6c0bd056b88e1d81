// Loads a Hugging Face directory, quantized or not, so that it runs.
import { Checkpoint } from "../containers/checkpoint.ts"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { setThreads } from "../core/machine.ts"
import { describe, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { readGenerationDefaults } from "../models/generation-config.ts"
import { describeModel } from "../models/registry.ts"
import { type BoundSection, ModelRunner } from "../models/runner.ts"
import { loadTokenizer } from "../models/tokenizer.ts"
import { CheckpointSource } from "./checkpoint-source.ts"
import { Model } from "./model.ts"
import { progressOf } from "./progress.ts"

export interface LoadOptions extends LongWork {
  /** Default and only one so far: "cpu". */
  device?: "cpu"
  /** As setThreads(): for the whole process. */
  threads?: number
  /** Default and only one so far: "exact", activations as they are. */
  activations?: "exact"
  /** Default and only one so far: "f32". */
  kvCache?: "f32"
  /** Tokens that a sequence may have, at most the model's own context. Default: the model's. */
  maxContext?: number
  /** Told what is odd about a checkpoint but does not keep it from running. Default: process.emitWarning. */
  onWarning?: (message: string) => void
}

const optionNames = ["device", "threads", "activations", "kvCache", "maxContext", "onWarning", "signal", "onProgress"]

/**
 * ERR_IO and ERR_FORMAT for a directory that is no checkpoint, ERR_UNSUPPORTED for an architecture, rope type or option that
 * cannot run, ERR_SHAPE for tensors that do not fit config.json. Weights are packed; the files may be removed afterwards.
 */
export async function loadModel(path: string, values?: LoadOptions): Promise<Model> {
  if (typeof path !== "string" || path === "")
    throw new TsqError("ERR_OPTION", `loadModel: path is ${describe(path)}, expected the directory of a model`)
  const options = new Options("loadModel", values, optionNames)
  refuseOthers(options, "device", "cpu")
  refuseOthers(options, "activations", "exact")
  refuseOthers(options, "kvCache", "f32")
  const threads = options.integer("threads", { min: 1 }, undefined)
  const maxContext = options.integer("maxContext", { min: 1 }, undefined)
  const signal = options.signal()
  const onProgress = options.onProgress()
  if (options.has("onWarning") && typeof options.raw("onWarning") !== "function")
    options.fail("onWarning", "a function")
  const warn = values?.onWarning ?? (message => process.emitWarning(message, "TsqWarning"))
  throwIfAborted(signal)

  const checkpoint = await Checkpoint.open(path)
  try {
    const program = describeModel(checkpoint.config)
    const { config } = program
    if (maxContext !== undefined && maxContext > config.maxContext)
      throw new TsqError(
        "ERR_OPTION",
        `loadModel: maxContext is ${maxContext}, expected at most the model's context of ${config.maxContext}`,
      )
    const tokenizer = await loadTokenizer(path)
    const generationDefaults = await readGenerationDefaults(path)
    if (threads !== undefined) setThreads(threads)

    const source = new CheckpointSource(checkpoint, warn)
    const last = program.sections.length - 1
    const places: [section: number, prefix: string][] = [
      [0, ""],
      ...program.blocks.map((section, layer): [number, string] => [section, program.blockPrefix(layer)]),
      [last, ""],
    ]
    const report = progressOf("load", places.length, onProgress)
    const runner = new ModelRunner(program)
    const bound: BoundSection[] = []
    try {
      for (const [section, prefix] of places) {
        throwIfAborted(signal)
        bound.push(await runner.bindSection(section, prefix, source))
        report(bound.length, prefix || (section === 0 ? "embedding" : "head"))
      }
    } catch (error) {
      for (const section of bound) section.dispose()
      runner.dispose()
      throw error
    }
    return new Model({
      path,
      runner,
      tokenizer,
      generationDefaults,
      maxContext: maxContext ?? config.maxContext,
      prologue: bound[0]!,
      blocks: bound.slice(1, -1),
      epilogue: bound.at(-1)!,
      weights: source.summary([program.embedding, program.head]),
    })
  } finally {
    checkpoint.dispose()
  }
}

/** The value `only` or nothing; other names are for later versions. */
function refuseOthers(options: Options, name: string, only: string): void {
  const value = options.string(name, only)
  if (value !== only)
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${options.caller}: ${name} ${describe(value)} is not available in this version; leave it out or use ${describe(only)}`,
    )
}
