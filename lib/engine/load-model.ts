// Loads a Hugging Face directory, quantized or not, or a GGUF file, so that it runs.
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { Checkpoint } from "../containers/checkpoint.ts"
import { isObject, parseJsonObject } from "../containers/json.ts"
import { ioError, TsqError, throwIfAborted } from "../core/errors.ts"
import { setThreads } from "../core/machine.ts"
import { describe, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { type Activations, readActivations } from "../kernels/packed-weight.ts"
import type { GenerationDefaults } from "../models/generation-config.ts"
import { kvFormat as formatOf, type KvCacheOption, type KvCacheSettings, readKvCache } from "../models/kv-cache.ts"
import { type BoundSection, ModelRunner, type WeightSource } from "../models/runner.ts"
import type { Tokenizer } from "../models/tokenizer.ts"
import { native } from "../native.ts"
import { CheckpointSource } from "./checkpoint-source.ts"
import { storedKvFormat } from "./kv-scales.ts"
import { Model, type WeightSummary } from "./model.ts"
import type { OnLoad } from "./on-load.ts"
import { type OnLoadScheme, onLoadSchemes } from "./on-load-schemes.ts"
import { PackCache } from "./pack-cache.ts"
import { progressOf } from "./progress.ts"
import { WeightRecorder } from "./weight-recorder.ts"

export interface LoadOptions extends LongWork {
  /** Default and only one so far: "cpu". */
  device?: "cpu"
  /** As setThreads(): for the whole process. */
  threads?: number
  /**
   * What the model's weights are multiplied with where a call does not say so itself. Default "scheme": activations as the
   * checkpoint says (W8A8, FP8 and LLM.int8() round them), exact where it says nothing. "exact": as they are, always. "int8":
   * rounded to 8 bits, which is faster.
   */
  activations?: Activations
  /**
   * Rounds the linears of the blocks that the checkpoint stores as floats as they are packed, to the nearest codes and without
   * calibration: "w8a8", "fp8", "llm.int8", "w8a16", "w4a16", "nf4" or "fp4". Embedding, head and routers of experts stay, and so does what
   * is quantized already. Default: nothing is rounded.
   */
  quantize?: OnLoadScheme
  /** How keys and values are cached (docs/kv-cache.md). Default "f32". */
  kvCache?: KvCacheOption
  /** Tokens that a sequence may have, at most the model's own context. Default: the model's. */
  maxContext?: number
  /**
   * Keeps the packed weights in a file (docs/cache.md), from which the next start takes a fraction of the time. "read": uses
   * one that is there, and writes none. Default: false.
   */
  cache?: boolean | "read"
  /** Folder of cache files. Default: TSQ_CACHE_DIR, otherwise beside the checkpoint, or the user's own where that cannot be written. */
  cacheDir?: string
  /** LoRA adapters to load beside it (Model.loadAdapter): folders as PEFT saves them, by the names that calls choose them by. */
  adapters?: Readonly<Record<string, string>>
  /** Told what is odd about a checkpoint but does not keep it from running. Default: process.emitWarning. */
  onWarning?: (message: string) => void
}

const optionNames = [
  "device",
  "threads",
  "activations",
  "quantize",
  "kvCache",
  "maxContext",
  "cache",
  "cacheDir",
  "adapters",
  "onWarning",
  "signal",
  "onProgress",
]

/**
 * `path`: a checkpoint folder, or a GGUF file (of a split model any part), whose blocks run as codes in groups (docs/formats.md).
 * ERR_IO and ERR_FORMAT for what is no model, ERR_UNSUPPORTED for an architecture, rope type or option that
 * cannot run, ERR_SHAPE for tensors that do not fit config.json. Weights are packed; the files may be removed afterwards.
 */
export async function loadModel(path: string, values?: LoadOptions): Promise<Model> {
  const adapters = readAdapters(new Options("loadModel", values, optionNames))
  const model = await loadBase(path, values)
  try {
    for (const [name, directory] of adapters) {
      throwIfAborted(values?.signal)
      await model.loadAdapter(name, directory, values?.onWarning && { onWarning: values.onWarning })
    }
    return model
  } catch (error) {
    model.dispose()
    throw error
  }
}

function readAdapters(options: Options): [string, string][] {
  const value = options.raw("adapters") ?? {}
  if (!isObject(value) || !Object.values(value).every(path => typeof path === "string" && path !== ""))
    options.fail("adapters", "an object of folders by name")
  return Object.entries(value as Record<string, string>)
}

async function loadBase(path: string, values?: LoadOptions): Promise<Model> {
  if (typeof path !== "string" || path === "")
    throw new TsqError(
      "ERR_OPTION",
      `loadModel: path is ${describe(path)}, expected the directory of a model or a .gguf file`,
    )
  const options = new Options("loadModel", values, optionNames)
  refuseOthers(options, "device", "cpu")
  const activations = readActivations(options, "scheme")
  const kvCache = readKvCache(options)
  const quantize = options.oneOf("quantize", onLoadSchemes, null)
  const threads = options.integer("threads", { min: 1 }, undefined)
  const maxContext = options.integer("maxContext", { min: 1 }, undefined)
  const signal = options.signal()
  const onProgress = options.onProgress()
  if (options.has("onWarning") && typeof options.raw("onWarning") !== "function")
    options.fail("onWarning", "a function")
  const warn = values?.onWarning ?? (message => process.emitWarning(message, "TsqWarning"))
  throwIfAborted(signal)
  if (threads !== undefined) setThreads(threads)

  const request: Request = { path, maxContext, activations, kvCache, signal, onProgress }
  if (path.endsWith(".gguf")) return await loadGguf(request, options)
  const cache = packCache(path, options, warn, quantize)
  const stored = (await cache?.find()) ?? null
  if (cache && stored) {
    try {
      stored.start(signal)
      const later = cache.tokenizerMayWait(stored)
      return told(await assemble(request, await readConfig(path), stored, new Folder(path, later)), warn)
    } catch (error) {
      throwIfAborted(signal)
      if (!stored.hasFailed(error)) throw error
      cache.notUsed(stored.path, error)
    } finally {
      await stored.close()
    }
  }

  const checkpoint = await Checkpoint.open(path)
  try {
    const source = new CheckpointSource(checkpoint, warn, await onLoadOf(quantize, checkpoint, signal))
    const folder = new Folder(path)
    if (!cache?.write) return told(await assemble(request, checkpoint.config, source, folder), warn)
    const recorder = new WeightRecorder(source)
    const model = told(await assemble(request, checkpoint.config, recorder, folder), warn)
    try {
      const report = progressOf("cache", 1, onProgress)
      report(0)
      await cache.store(recorder, model.weights, signal)
      report(1)
    } catch (error) {
      model.dispose()
      throw error
    } finally {
      recorder.forget()
    }
    return model
  } finally {
    checkpoint.dispose()
  }
}

/** The model, once it was said which of its weights no kernel takes. */
function told(model: Model, warn: (message: string) => void): Model {
  const { referenceModules: slow } = model.weights
  if (slow.length > 0)
    warn(
      `${model.path}: ${slow.length} modules have codes that no kernel takes, ${slow[0]} first: they are exact, and take the memory and the time of f32 weights`,
    )
  return model
}

interface Request extends LongWork {
  path: string
  maxContext: number | undefined
  activations: Activations
  kvCache: KvCacheSettings | "checkpoint"
}

interface ModelSource extends WeightSource {
  /** Whether there is a tensor of that name, or a module's in any format. */
  has(tensor: string): boolean
  /** Of what it has handed out; `outside` names the embedding and the head, which are not among the blocks' linears. */
  summary(outside: readonly string[]): WeightSummary
}

/** What a model has besides configuration and weights. */
interface Companions {
  tokenizer(): Promise<Tokenizer>
  generationDefaults(): Promise<GenerationDefaults>
}

/** A checkpoint's. With `later` the tokenizer's vocabulary is made when it is first needed. */
class Folder implements Companions {
  readonly #path: string
  readonly #later: boolean

  constructor(path: string, later = false) {
    this.#path = path
    this.#later = later
  }

  async tokenizer(): Promise<Tokenizer> {
    const { loadTokenizer } = await import("../models/tokenizer.ts")
    return loadTokenizer(this.#path, { later: this.#later })
  }

  async generationDefaults(): Promise<GenerationDefaults> {
    const { readGenerationDefaults } = await import("../models/generation-config.ts")
    return readGenerationDefaults(this.#path)
  }
}

/** What rounds linears as they are loaded; null where nothing does. */
async function onLoadOf(
  scheme: OnLoadScheme | null,
  checkpoint: Checkpoint,
  signal: AbortSignal | undefined,
): Promise<OnLoad | null> {
  if (scheme === null) return null
  const { OnLoad } = await import("./on-load.ts")
  const { describeModel } = await import("../models/registry.ts")
  const program = describeModel(checkpoint.config, tensor => checkpoint.has(tensor))
  const kept = program.blocks.flatMap((section, layer) =>
    program.sections[section]!.weights.flatMap(slot =>
      slot.kind === "linear" && slot.kept ? [program.blockPrefix(layer) + slot.module] : [],
    ),
  )
  return new OnLoad(scheme, [program.embedding, program.head, ...kept], signal)
}

async function loadGguf(request: Request, options: Options): Promise<Model> {
  if (options.has("quantize"))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `loadModel: quantize is for checkpoint folders; ${request.path} is a GGUF file: leave quantize out`,
    )
  if (options.raw("cache"))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `loadModel: cache is for checkpoint folders; ${request.path} is packed anew each time: leave cache out`,
    )
  const { GgufModel } = await import("./gguf-model.ts")
  const gguf = await GgufModel.open(request.path)
  try {
    return await assemble(request, gguf.config, gguf.weights, gguf)
  } finally {
    gguf.dispose()
  }
}

async function assemble(
  { path, maxContext, activations, kvCache, signal, onProgress }: Request,
  configuration: Record<string, unknown>,
  source: ModelSource,
  companions: Companions,
): Promise<Model> {
  // Imported here, and not with this module: a cache file is being read by now, so that it takes no time of its own.
  const { describeModel } = await import("../models/registry.ts")
  const program = describeModel(configuration, tensor => source.has(tensor))
  const { config } = program
  if (maxContext !== undefined && maxContext > config.maxContext)
    throw new TsqError(
      "ERR_OPTION",
      `loadModel: maxContext is ${maxContext}, expected at most the model's context of ${config.maxContext}`,
    )
  const kvFormat = kvCache !== "checkpoint" ? formatOf(kvCache, config) : await storedKvFormat(path, program)
  const last = program.sections.length - 1
  const places: [section: number, prefix: string][] = [
    [0, ""],
    ...program.blocks.map((section, layer): [number, string] => [section, program.blockPrefix(layer)]),
    [last, ""],
  ]
  const report = progressOf("load", places.length, onProgress)
  const runner = new ModelRunner(program)
  const bound: BoundSection[] = []
  // Begun before the tokenizer, which keeps this thread busy and no other.
  const embedding = runner.bindSection(0, "", source)
  embedding.catch(() => undefined) // reported where it is awaited; until then it must not count as unhandled
  // Nothing of what a model holds can be collected: looking through the heap every 64 MB would take longer than packing them.
  native.deferReports(true)
  let tokenizer: Tokenizer
  let generationDefaults: GenerationDefaults
  try {
    tokenizer = await companions.tokenizer()
    generationDefaults = await companions.generationDefaults()
    for (const [section, prefix] of places) {
      throwIfAborted(signal)
      bound.push(await (section === 0 ? embedding : runner.bindSection(section, prefix, source)))
      report(bound.length, prefix || (section === 0 ? "embedding" : "head"))
    }
  } catch (error) {
    if (bound.length === 0) (await embedding.catch(() => null))?.dispose()
    for (const section of bound) section.dispose()
    runner.dispose()
    throw error
  } finally {
    native.deferReports(false)
  }
  const weights = source.summary([program.embedding, program.head])
  return new Model({
    path,
    runner,
    tokenizer,
    generationDefaults,
    maxContext: maxContext ?? config.maxContext,
    activations: activations === "scheme" && weights.roundedModules.length === 0 ? "exact" : activations,
    kvFormat,
    prologue: bound[0]!,
    blocks: bound.slice(1, -1),
    epilogue: bound.at(-1)!,
    weights,
  })
}

async function readConfig(directory: string): Promise<Record<string, unknown>> {
  const path = join(directory, "config.json")
  try {
    return parseJsonObject(await readFile(path, "utf8"), path)
  } catch (cause) {
    throw cause instanceof TsqError ? cause : ioError("read", path, cause)
  }
}

/** null where no cache was asked for. */
function packCache(
  directory: string,
  options: Options,
  warn: (message: string) => void,
  quantize: OnLoadScheme | null,
): PackCache | null {
  const cache = options.raw("cache")
  if (cache !== undefined && typeof cache !== "boolean" && cache !== "read")
    options.fail("cache", 'true, false or "read"')
  const cacheDir = options.string("cacheDir", undefined)
  return cache
    ? new PackCache(directory, { write: cache === true, cacheDir, warn, ...(quantize && { packing: { quantize } }) })
    : null
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
