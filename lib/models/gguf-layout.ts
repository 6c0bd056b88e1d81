// How the tensors of a GGUF file differ from those of the checkpoint beside their names: the order of rows, which side of a matrix comes
// first, and what norms add. Source: ggml-org/llama.cpp, conversion/{llama,gemma,gpt2,gptneox}.py.
import { sharedFloats, sharedInts } from "../core/shared-array.ts"
import { GgufNames } from "./gguf-names.ts"
import type { ModelConfig, ModelProgram } from "./program.ts"

/** Heads may change places, and rows within a head. */
export interface RowOrder {
  /** Rows of a head. */
  head: number
  /** The checkpoint's row (of a bias: element) that is row `row` of the GGUF tensor. */
  hfRow(row: number): number
}

/** Names of architectures in GGUF files that differ from model_type. Mistral's tensors are a llama's, with experts Mixtral's. */
const architectures: Readonly<Record<string, string>> = {
  mistral: "llama",
  mixtral: "llama",
  qwen3_moe: "qwen3moe",
  gemma3_text: "gemma3",
  gpt_neox: "gptneox",
}

export const ggufArchitectureOf = (modelType: string): string =>
  Object.hasOwn(architectures, modelType) ? (architectures[modelType] as string) : modelType

export class GgufLayout {
  readonly names: GgufNames
  /** general.architecture. */
  readonly architecture: string
  readonly #config: Pick<ModelConfig, "heads" | "headDim">

  constructor(config: Pick<ModelConfig, "architecture" | "heads" | "headDim">) {
    this.names = new GgufNames(config.architecture)
    this.architecture = ggufArchitectureOf(config.architecture)
    this.#config = config
  }

  /**
   * Null where rows keep their order. Architecture "llama" turns elements 2i and 2i + 1 of a head together where the checkpoint has i and
   * i + headDim / 2: rows of q and k change places within their heads. "gptneox" has all of q, all of k, all of v in one matrix, where the
   * checkpoint has those of a head beside each other.
   */
  rows(gguf: string): RowOrder | null {
    const { heads, headDim } = this.#config
    const [, part] = ofAttention.exec(gguf) ?? []
    if (this.architecture === "llama" && (part === "q" || part === "k"))
      return { head: headDim, hfRow: row => interleavedRow(row, headDim) }
    if (this.architecture === "gptneox" && part === "qkv")
      return { head: headDim, hfRow: row => groupedRow(row, heads, headDim) }
    return null
  }

  /** Which tensors of a file a program reads. Layers of a kind are looked at once: a hostile file may claim thousands with thousands of experts. */
  readBy({ sections, blocks, blockPrefix }: ModelProgram): (gguf: string) => boolean {
    const namesOf = (section: number, prefix: string): Set<string | null> =>
      new Set(
        sections[section]!.weights.map(slot =>
          slot.kind === "constant"
            ? null
            : this.names.tensor(prefix + (slot.kind === "vector" ? slot.tensor : `${slot.module}.weight`)),
        ),
      )
    const kinds = new Map([...new Set(blocks)].map(kind => [kind, namesOf(kind, blockPrefix(blocks.indexOf(kind)))]))
    const ends = new Set([...namesOf(0, ""), ...namesOf(sections.length - 1, "")])
    return gguf => {
      const [, layer, rest] = ofBlock.exec(gguf) ?? []
      const kind = layer === undefined ? undefined : blocks[Number(layer)]
      if (kind === undefined) return ends.has(gguf)
      return kinds.get(kind)!.has(`blk.${blocks.indexOf(kind)}.${rest}`)
    }
  }

  /** Whether a checkpoint's dense tensor is [k, n] (GPT-2's Conv1D); a GGUF file's never is. */
  isTransposed(gguf: string): boolean {
    return this.architecture === "gpt2" && /^blk\.\d+\.(attn_qkv|attn_output|ffn_up|ffn_down)\.weight$/.test(gguf)
  }

  /** What a GGUF file has more in every element: a norm of Gemma multiplies with 1 + w and stores that. */
  offset(gguf: string): number {
    return /^gemma[23]$/.test(this.architecture) && gguf.endsWith("norm.weight") ? 1 : 0
  }
}

const ofBlock = /^blk\.(0|[1-9]\d{0,5})\.(.+)$/
const ofAttention = /^blk\.\d+\.attn_(q|k|qkv)\.(?:weight|bias)$/

/** From [q, k, v][head][row] to [head][q, k, v][row]. */
function groupedRow(row: number, heads: number, headDim: number): number {
  const width = heads * headDim
  const head = Math.floor((row % width) / headDim)
  return (3 * head + Math.floor(row / width)) * headDim + (row % headDim)
}

function interleavedRow(row: number, headDim: number): number {
  const i = row % headDim
  return row - i + (i >> 1) + (i & 1) * (headDim / 2)
}

/** The checkpoint's row of each row of the file, on shared memory; null where they are the same. */
export function fileOrder(order: RowOrder | null, rows: number): Int32Array | null {
  if (order === null) return null
  const found = sharedInts(rows)
  for (let row = 0; row < rows; row++) found[row] = order.hfRow(row)
  return found
}

/** The file's row of each row of the checkpoint: the inverse. */
export function checkpointOrder(order: RowOrder | null, rows: number): Int32Array | null {
  if (order === null) return null
  const found = sharedInts(rows)
  for (let row = 0; row < rows; row++) found[order.hfRow(row)] = row
  return found
}

/** values + offset, in f32, on shared memory: the same array where the offset is 0. */
export function shifted(values: Float32Array, offset: number): Float32Array {
  if (offset === 0) return values
  const out = sharedFloats(values.length)
  for (let i = 0; i < values.length; i++) out[i] = values[i]! + offset
  return out
}
