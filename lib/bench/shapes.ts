// Shapes of the matrices that kernels are measured on: those of published models by name, or any K×N.
import { TsqError } from "../core/errors.ts"
import { closest, describe } from "../core/options.ts"

/** The dimensions of a decoder of the llama family, as its config.json has them. */
export interface ModelShape {
  name: string
  modelType: "llama" | "mistral" | "qwen2" | "qwen3" | "gemma2"
  hidden: number
  intermediate: number
  layers: number
  heads: number
  kvHeads: number
  headDim: number
  vocabulary: number
  /** The output head is the embedding. */
  tied: boolean
  ropeTheta: number
  rmsNormEps: number
}

// name, type, hidden, intermediate, layers, heads, KV heads, head dimension, vocabulary, tied, rope base, eps
type Row = [
  string,
  ModelShape["modelType"],
  ...[number, number, number, number, number, number, number],
  boolean,
  number,
  number,
]
const rows: readonly Row[] = [
  ["llama-3.2-1b", "llama", 2048, 8192, 16, 32, 8, 64, 128256, true, 500000, 1e-5],
  ["llama-3.2-3b", "llama", 3072, 8192, 28, 24, 8, 128, 128256, true, 500000, 1e-5],
  ["llama-3-8b", "llama", 4096, 14336, 32, 32, 8, 128, 128256, false, 500000, 1e-5],
  ["llama-3-70b", "llama", 8192, 28672, 80, 64, 8, 128, 128256, false, 500000, 1e-5],
  ["tinyllama-1.1b", "llama", 2048, 5632, 22, 32, 4, 64, 32000, false, 10000, 1e-5],
  ["mistral-7b", "mistral", 4096, 14336, 32, 32, 8, 128, 32768, false, 1000000, 1e-5],
  ["qwen2.5-0.5b", "qwen2", 896, 4864, 24, 14, 2, 64, 151936, true, 1000000, 1e-6],
  ["qwen2.5-1.5b", "qwen2", 1536, 8960, 28, 12, 2, 128, 151936, true, 1000000, 1e-6],
  ["qwen2.5-3b", "qwen2", 2048, 11008, 36, 16, 2, 128, 151936, true, 1000000, 1e-6],
  ["qwen2.5-7b", "qwen2", 3584, 18944, 28, 28, 4, 128, 152064, false, 1000000, 1e-6],
  ["qwen2.5-72b", "qwen2", 8192, 29568, 80, 64, 8, 128, 152064, false, 1000000, 1e-6],
  ["qwen3-0.6b", "qwen3", 1024, 3072, 28, 16, 8, 128, 151936, true, 1000000, 1e-6],
  ["qwen3-4b", "qwen3", 2560, 9728, 36, 32, 8, 128, 151936, true, 1000000, 1e-6],
  ["qwen3-8b", "qwen3", 4096, 12288, 36, 32, 8, 128, 151936, false, 1000000, 1e-6],
  ["gemma-2-2b", "gemma2", 2304, 9216, 26, 8, 4, 256, 256000, true, 10000, 1e-6],
]

export const modelShapes: readonly ModelShape[] = rows.map(
  ([
    name,
    modelType,
    hidden,
    intermediate,
    layers,
    heads,
    kvHeads,
    headDim,
    vocabulary,
    tied,
    ropeTheta,
    rmsNormEps,
  ]) => ({
    ...{
      name,
      modelType,
      hidden,
      intermediate,
      layers,
      heads,
      kvHeads,
      headDim,
      vocabulary,
      tied,
      ropeTheta,
      rmsNormEps,
    },
  }),
)

/** The named model; ERR_OPTION with the names there are. */
export function modelShape(name: string): ModelShape {
  const found = modelShapes.find(shape => shape.name === name.toLowerCase())
  if (found) return found
  const names = modelShapes.map(shape => shape.name)
  const meant = closest(name, names)
  throw new TsqError(
    "ERR_OPTION",
    `no model is called ${describe(name)}; ${meant ? `did you mean ${JSON.stringify(meant)}?` : `there are ${names.join(", ")}`}`,
  )
}

/** A linear layer of a model: y[n] = W[n, k] x[k], `count` times in a token. */
export interface LinearShape {
  k: number
  n: number
  /** "q", "o" … of one layer; "head". */
  modules: string[]
  count: number
}

/** Every distinct linear shape of a model, with how often one token passes it. The head is the last. */
export function linearShapes(model: ModelShape): LinearShape[] {
  const { hidden, intermediate, layers, heads, kvHeads, headDim, vocabulary } = model
  const found: LinearShape[] = []
  const add = (module: string, k: number, n: number, count: number) => {
    const same = found.find(shape => shape.k === k && shape.n === n)
    if (same) {
      same.modules.push(module)
      same.count += count
    } else found.push({ k, n, modules: [module], count })
  }
  add("q", hidden, heads * headDim, layers)
  add("k", hidden, kvHeads * headDim, layers)
  add("v", hidden, kvHeads * headDim, layers)
  add("o", heads * headDim, hidden, layers)
  add("gate", hidden, intermediate, layers)
  add("up", hidden, intermediate, layers)
  add("down", intermediate, hidden, layers)
  add("head", hidden, vocabulary, 1)
  return found
}

export interface ShapeChoice {
  /** Distinct, in the order of mention. */
  shapes: { k: number; n: number }[]
  models: ModelShape[]
}

// No product of sizes leaves the safe integers, and no matrix that a machine holds is larger.
const largestSize = 2 ** 24

/** "llama-3.2-1b", "4096x14336" (K×N) …, in any mixture. ERR_OPTION for what is neither. */
export function chooseShapes(words: readonly string[]): ShapeChoice {
  const choice: ShapeChoice = { shapes: [], models: [] }
  const add = (k: number, n: number) => {
    if (!choice.shapes.some(shape => shape.k === k && shape.n === n)) choice.shapes.push({ k, n })
  }
  for (const word of words) {
    const sizes = /^(\d+)[x×*](\d+)$/i.exec(word)
    if (!sizes) {
      if (/^\d/.test(word))
        throw new TsqError("ERR_OPTION", `shape ${describe(word)}: expected K×N, such as 4096x14336`)
      const model = modelShape(word)
      if (!choice.models.includes(model)) choice.models.push(model)
      for (const { k, n } of linearShapes(model)) add(k, n)
      continue
    }
    const [k, n] = [Number(sizes[1]), Number(sizes[2])]
    if (k < 1 || n < 1 || k > largestSize || n > largestSize)
      throw new TsqError("ERR_OPTION", `shape ${describe(word)}: expected K and N from 1 to ${largestSize}`)
    add(k, n)
  }
  if (choice.shapes.length === 0)
    throw new TsqError("ERR_OPTION", "no shapes were given; name a model or give K×N, such as 4096x14336")
  return choice
}
