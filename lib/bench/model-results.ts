// The results of the model benchmark, as `tsq bench model --json` prints them.
import type { BenchMachine } from "./machine.ts"
import type { Summary } from "./statistics.ts"

export interface ModelLabel {
  /** "tsq" or "node-llama-cpp". */
  backend: string
  /** What the weights are: "w4 g128, head w8", "Q4_0". */
  weights: string
  /** "int8": activations are rounded to 8 bits, which exact figures must not be compared with. */
  activations: "exact" | "int8"
}

/** Milliseconds in fresh processes. */
export interface StartTimes {
  /** "cold": from the checkpoint; "cache": from the file of packed weights. */
  from: "cold" | "cache"
  importMs: Summary
  loadMs: Summary
}

export interface ModelRow extends ModelLabel {
  isa: string | null
  threads: number
  promptTokens: number
  newTokens: number
  /** Tokens a second. */
  prefill: Summary
  decode: Summary
  /** From the prompt to the first new token, in milliseconds. */
  firstTokenMs: Summary
  /** Of the blocks' linears, two a weight and token. */
  prefillGflops: number
  /** Read for every new token; null where it cannot be told. */
  weightBytes: number | null
  decodeGBps: number | null
  /** 100 × decodeGBps / read bandwidth of the same rounds. */
  percentOfRoof: number | null
  bitsPerWeight: number | null
  /** What keys and values were cached as: ours as asked, the peers' as they have it by default. */
  kvCache: string
  /** Of a process that holds nothing else, after the last round. Our rows share one process, whatever the activations. */
  residentBytes: number
  peakBytes: number
  starts: StartTimes[]
}

/** How many times as fast a row of ours is as a peer's. */
export interface ModelRatio {
  weights: string
  activations: "exact" | "int8"
  peer: string
  prefill: number
  decode: number
}

export interface ModelBenchReport {
  machine: BenchMachine
  /** Median of all rounds. */
  readGBps: number
  model: { name: string; path: string | null; synthetic: boolean; parameters: number }
  results: ModelRow[]
  ratios: ModelRatio[]
  read: Summary
  unavailable: { backend: string; reason: string }[]
  peers: { name: string; version: string }[]
  options: {
    promptTokens: number
    newTokens: number
    threads: number
    rounds: number
    starts: number
    /** All contenders stayed in memory; otherwise each was loaded anew in every round. */
    resident: boolean
    /** Whether the package ran as it is published; from sources, starts include their translation. */
    compiled: boolean
  }
}

/** Every row of ours beside every row of a peer. */
export function ratiosOf(rows: readonly ModelRow[]): ModelRatio[] {
  const ours = rows.filter(({ backend }) => backend === "tsq")
  const peers = rows.filter(({ backend }) => backend !== "tsq")
  return ours.flatMap(own =>
    peers.map(peer => ({
      weights: own.weights,
      activations: own.activations,
      peer: `${peer.backend} ${peer.weights}`,
      prefill: own.prefill.median / peer.prefill.median,
      decode: own.decode.median / peer.decode.median,
    })),
  )
}

export const rowName = ({ backend, weights, activations }: ModelLabel): string =>
  `${backend} ${weights}${activations === "int8" ? " [int8]" : ""}`
