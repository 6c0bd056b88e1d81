// The options of the model benchmark, checked once.
import { existsSync, statSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { basename, join, resolve } from "node:path"
import { parseJsonObject } from "../containers/json.ts"
import { ioError, TsqError } from "../core/errors.ts"
import { describe, listChoices, Options } from "../core/options.ts"
import type { LongWork } from "../core/progress.ts"
import { type KvCacheOption, readKvCache } from "../models/kv-cache.ts"
import { describeModel } from "../models/registry.ts"
import { native } from "../native.ts"
import { type ModelShape, modelShape } from "./shapes.ts"
import type { SyntheticScheme } from "./synthetic-checkpoint.ts"
import { type GgufType, ggufTypes } from "./synthetic-gguf.ts"
import { syntheticModel } from "./synthetic-model.ts"
import { smallestVocabulary } from "./synthetic-tokenizer.ts"

export interface ModelBenchOptions extends LongWork {
  promptTokens?: number
  newTokens?: number
  threads?: number
  /** Default: both. */
  activations?: "exact" | "int8" | "both"
  /** How this library caches keys and values (docs/kv-cache.md); peers keep to their own. Default "f32". */
  kvCache?: KvCacheOption
  /** Of a made-up checkpoint: bits of linears, columns that share a scale, bits of embedding and head. */
  bits?: number
  groupSize?: number
  headBits?: number
  rounds?: number
  /** Fresh processes whose start is timed, for each contender and way of starting; 0: none. */
  starts?: number
  /** GGUF files for node-llama-cpp. Without any, files of the model's shape are made up. */
  gguf?: readonly string[]
  /** Mixtures of made-up GGUF files. */
  ggufTypes?: readonly string[]
  /** Folder with the peers' node_modules. */
  peers?: string
  /** Where made-up files are kept. Default: a temporary folder. */
  workDir?: string
  /** Told what a reader should know, such as a peer that is missing. */
  onNote?: (text: string) => void
}

export interface ModelPlan extends LongWork {
  shape: ModelShape
  /** A checkpoint that exists; null: one is made up. */
  directory: string | null
  scheme: SyntheticScheme
  promptTokens: number
  newTokens: number
  threads: number
  activations: ("exact" | "int8")[]
  kvCache: KvCacheOption | undefined
  rounds: number
  starts: number
  gguf: string[]
  ggufTypes: GgufType[]
  peers: string | undefined
  workDir: string | undefined
  note: (text: string) => void
}

const known = [
  ...[
    "promptTokens",
    "newTokens",
    "threads",
    "activations",
    "kvCache",
    "bits",
    "groupSize",
    "headBits",
    "rounds",
    "starts",
  ],
  ...["gguf", "ggufTypes", "peers", "workDir", "onNote", "signal", "onProgress"],
]

/** `model`: the folder of a checkpoint, the name of a shape, or a shape. */
export async function readModelOptions(
  model: string | ModelShape,
  values: ModelBenchOptions | undefined,
): Promise<ModelPlan> {
  const options = new Options("benchModel", values, known)
  const activations = options.oneOf("activations", ["exact", "int8", "both"], "both")
  const headBits = options.integer("headBits", { min: 4, max: 16 }, 8)
  if (headBits !== 4 && headBits !== 8 && headBits !== 16) options.fail("headBits", "4, 8 or 16")
  const types = options.strings("ggufTypes", ggufTypes)
  for (const type of types)
    if (!(ggufTypes as readonly string[]).includes(type))
      throw new TsqError(
        "ERR_OPTION",
        `benchModel: GGUF type ${describe(type)} cannot be made up, expected ${listChoices(ggufTypes)}; give a file of another type with gguf`,
      )
  const note = options.raw("onNote")
  if (note !== undefined && typeof note !== "function") options.fail("onNote", "a function")
  const scheme = {
    bits: options.integer("bits", { min: 2, max: 8 }, 4) as SyntheticScheme["bits"],
    groupSize: options.integer("groupSize", { min: 1 }, 128),
    headBits: headBits as SyntheticScheme["headBits"],
  }
  const cache = readKvCache(options)
  const chosen = await chooseModel(model)
  if (cache === "checkpoint" && chosen.directory === null)
    options.fail("kvCache", "another type for random weights: only a checkpoint's folder may hold scales")
  return {
    ...chosen,
    kvCache: values?.kvCache,
    scheme,
    promptTokens: options.integer("promptTokens", { min: 1, max: 65536 }, 512),
    // The first new token belongs to the prompt's time.
    newTokens: options.integer("newTokens", { min: 2, max: 65536 }, 128),
    threads: options.integer("threads", { min: 1, max: 256 }, native.threads()),
    activations: activations === "both" ? ["exact", "int8"] : [activations],
    rounds: options.integer("rounds", { min: 1, max: 1000 }, 5),
    starts: options.integer("starts", { min: 0, max: 100 }, 3),
    gguf: [...options.strings("gguf", [])].map(path => resolve(path)),
    ggufTypes: [...new Set(types)] as GgufType[],
    peers: options.string("peers", undefined),
    workDir: options.string("workDir", undefined),
    note: (note as ((text: string) => void) | undefined) ?? (() => {}),
    signal: options.signal(),
    onProgress: options.onProgress(),
  }
}

async function chooseModel(model: string | ModelShape): Promise<Pick<ModelPlan, "shape" | "directory">> {
  if (typeof model === "string" && existsSync(model) && statSync(model).isDirectory()) {
    const directory = resolve(model)
    return { directory, shape: await shapeOf(directory) }
  }
  if (typeof model === "string" && /[/\\]/.test(model))
    throw new TsqError("ERR_IO", `there is no folder ${model}; give a checkpoint's folder or the name of a shape`)
  const shape = typeof model === "string" ? modelShape(model) : model
  if (shape.vocabulary < smallestVocabulary)
    throw new TsqError(
      "ERR_OPTION",
      `benchModel: the vocabulary has ${shape.vocabulary} tokens, expected at least ${smallestVocabulary}`,
    )
  // Refuses an architecture that cannot run before gigabytes are written.
  describeModel(syntheticModel(shape).config)
  return { shape, directory: null }
}

/** The shape of a checkpoint, as its configuration has it. */
async function shapeOf(directory: string): Promise<ModelShape> {
  const path = join(directory, "config.json")
  let text: string
  try {
    text = await readFile(path, "utf8")
  } catch (cause) {
    throw ioError("read", path, cause)
  }
  const raw = parseJsonObject(text, path)
  const { config } = describeModel(raw)
  return {
    name: basename(directory),
    modelType: config.architecture as ModelShape["modelType"],
    hidden: config.hiddenSize,
    intermediate: config.intermediateSize,
    layers: config.layers,
    heads: config.heads,
    kvHeads: config.kvHeads,
    headDim: config.headDim,
    vocabulary: config.vocabularySize,
    tied: config.tiedEmbeddings,
    ropeTheta: typeof raw.rope_theta === "number" ? raw.rope_theta : 10000,
    rmsNormEps: config.normEps,
  }
}
