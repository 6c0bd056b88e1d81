// What the benchmark of models and the processes that hold a model say to each other. A process holds one model, so that its memory and
// its start are its own.
import type { KvCacheOption } from "../models/kv-cache.ts"

export interface LoadTsq {
  kind: "load"
  engine: "tsq"
  /** Of the checkpoint. */
  path: string
  threads: number
  /** Tokens of the longest sequence. */
  context: number
  cache: boolean | "read"
  cacheDir: string
  kvCache: KvCacheOption | undefined
}

export interface LoadLlama {
  kind: "load"
  engine: "node-llama-cpp"
  /** Of the GGUF file. */
  path: string
  threads: number
  context: number
  /** URL of the module. */
  entry: string
}

export interface Generate {
  kind: "generate"
  prompt: number[]
  newTokens: number
  activations: "exact" | "int8"
}

export type Request = LoadTsq | LoadLlama | Generate | { kind: "memory" }

export interface Loaded {
  importMs: number
  /** Until the first prompt can be given. */
  loadMs: number
  /** Bytes of weights that a token's step reads; null where that cannot be told. */
  weightBytes: number | null
  /** Of the blocks' weights as stored; null likewise. */
  bitsPerWeight: number | null
  /** What keys and values are cached as. */
  kvCache: string
  /** Kernels in use: a table of ours, or what the peer says of itself. */
  isa: string | null
}

export interface Generated {
  /** From the prompt to the first new token. */
  firstMs: number
  /** From the first new token to the last. */
  restMs: number
  /** New tokens, the first included. */
  tokens: number
}

export interface ProcessMemory {
  residentBytes: number
  peakBytes: number
}

export type Answer = { result: Loaded | Generated | ProcessMemory } | { error: { code?: string; message: string } }
