// Importance matrices: for every linear the sum of its squared inputs by column, and how many rows were summed.
// Source: ggml-org/llama.cpp, tools/imatrix/imatrix.cpp and tools/quantize/quantize.cpp.
import { TsqError } from "../core/errors.ts"
import { sharedFloats } from "../core/shared-array.ts"

export interface ImportanceEntry {
  /** Sums of squared inputs, [matrices, k]: more than one matrix for stacked experts. */
  sums: Float32Array
  /** Rows summed, by matrix; one for all where there is one. Old files: a scale of `sums`. */
  counts: Float32Array
}

export interface ImportanceMatrix {
  /** By tensor name: "blk.0.attn_q.weight". */
  entries: ReadonlyMap<string, ImportanceEntry>
  /** Names of the texts. */
  datasets: readonly string[]
  /** Windows of text, and tokens of each; 0 where a file does not say. */
  chunks: number
  chunkSize: number
}

export interface WriteImportanceOptions {
  /** Replace an existing file. */
  force?: boolean
  signal?: AbortSignal | undefined
}

/**
 * The mean squared input of every column, [matrices, k], on shared memory: what weighs errors. 1 for matrices that no row has reached,
 * as llama-quantize has it.
 */
export function meanSquares({ sums, counts }: ImportanceEntry): Float32Array {
  const result = sharedFloats(sums.length)
  const k = sums.length / counts.length
  for (let i = 0; i < sums.length; i++) {
    const count = counts[Math.floor(i / k)]!
    result[i] = count > 0 ? sums[i]! / count : 1
  }
  return result
}

/** In the order in which llama-imatrix writes: by the bytes of the names. */
export const sorted = ({ entries }: ImportanceMatrix): [string, ImportanceEntry][] =>
  [...entries].sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))

/** ERR_CORRUPT or ERR_NUMERIC, naming file and tensor, for an entry that cannot be one. */
export function checkedEntry(path: string, name: string, { sums, counts }: ImportanceEntry): ImportanceEntry {
  const what = `${path}: importance of ${JSON.stringify(name)}`
  if (sums.length === 0 || counts.length === 0 || sums.length % counts.length !== 0)
    throw new TsqError("ERR_CORRUPT", `${what} has ${sums.length} sums and ${counts.length} counts, which do not match`)
  for (const [of, values] of [
    ["sum", sums],
    ["count", counts],
  ] as const) {
    const bad = values.findIndex(value => !(value >= 0 && value < Number.POSITIVE_INFINITY))
    if (bad >= 0)
      throw new TsqError(
        "ERR_NUMERIC",
        `${what}: ${of} ${bad} is ${values[bad]}, expected a finite number of at least 0; make the matrix again`,
      )
  }
  return { sums, counts }
}
