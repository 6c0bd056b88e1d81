// llama-quantize's mixtures: the block type of every matrix of a model, by the name of the whole.
// Source: ggml-org/llama.cpp, src/llama-quant.cpp and tools/quantize/quantize.cpp.
import { type GgmlType, ggmlTypeNamed } from "../containers/gguf-types.ts"

/** What the types of a mixture depend on beside the matrix. */
export interface MixModel {
  layers: number
  heads: number
  kvHeads: number
  /** The output head is the embedding. */
  tied: boolean
  /** An importance matrix is given. */
  importance?: boolean
  /** Of a mixture; 0 or absent where there are none. */
  experts?: number
}

export interface MixMatrix {
  /** Without ".weight": "token_embd", "output" or "blk.3.attn_v". */
  name: string
  /** Columns. */
  k: number
}

export interface MixedType {
  type: GgmlType
  /** The mixture's own type, where rows do not fill its blocks; otherwise null. */
  instead: GgmlType | null
}

const named = (name: string): GgmlType => ggmlTypeNamed(name) as GgmlType

interface Place extends MixModel {
  layer: number
}

type Choice = string | ((place: Place) => string)

/** Types of what is not of the base type. */
interface Mix {
  /** general.file_type */
  fileType: number
  base: string
  /** The head, and a tied embedding. */
  output?: string
  embedding?: string
  attnV?: Choice
  ffnDown?: Choice
  attnOutput?: Choice
  /** Matrices of the base type are not made without an importance matrix. */
  needsImportance?: boolean
}

const shared = ({ heads, kvHeads }: MixModel): number => heads / kvHeads
/** The first and the last eighth of the layers, and every third between them. */
const more = ({ layer, layers }: Place): boolean => {
  const eighth = Math.floor(layers / 8)
  return layer < eighth || layer >= Math.floor((7 * layers) / 8) || (layer - eighth) % 3 === 2
}
const moreBits =
  (finer: string, base: string): Choice =>
  place =>
    more(place) ? finer : base
const isFirstEighth = ({ layer, layers }: Place): boolean => layer < Math.floor(layers / 8)
const firstEighth =
  (finer: string, base: string): Choice =>
  place =>
    isFirstEighth(place) ? finer : base
const firstEighthWith =
  (importance: boolean, finer: string, base: string): Choice =>
  place =>
    isFirstEighth(place) && (place.importance ?? false) === importance ? finer : base

const plain = (fileType: number, base: string, output = "Q6_K"): Mix => ({ fileType, base, output })

const mixes = {
  f32: plain(0, "F32", "F32"),
  f16: plain(1, "F16", "F16"),
  bf16: plain(32, "BF16", "BF16"),
  q4_0: { ...plain(2, "Q4_0"), ffnDown: firstEighthWith(true, "Q4_1", "Q4_0") },
  q4_1: plain(3, "Q4_1"),
  q5_0: { ...plain(8, "Q5_0"), ffnDown: firstEighthWith(true, "Q5_1", "Q5_0") },
  q5_1: plain(9, "Q5_1"),
  q8_0: plain(7, "Q8_0", "Q8_0"),
  q2_k: {
    ...plain(10, "Q2_K"),
    attnV: place => (shared(place) >= 4 ? "Q4_K" : "Q3_K"),
    ffnDown: "Q3_K",
    attnOutput: "Q3_K",
  },
  q2_k_s: {
    ...plain(21, "Q2_K"),
    attnV: place => (shared(place) >= 4 ? "Q4_K" : "Q2_K"),
    ffnDown: firstEighth("Q4_K", "Q2_K"),
    needsImportance: true,
  },
  q3_k_s: plain(11, "Q3_K"),
  q3_k_m: {
    ...plain(12, "Q3_K"),
    attnV: ({ layer }) => (layer < 2 ? "Q5_K" : "Q4_K"),
    ffnDown: ({ layer, layers }) => (layer < Math.floor(layers / 16) ? "Q5_K" : "Q4_K"),
    attnOutput: "Q4_K",
  },
  q3_k_l: { ...plain(13, "Q3_K"), attnV: "Q5_K", ffnDown: "Q5_K", attnOutput: "Q5_K" },
  q4_k_s: {
    ...plain(14, "Q4_K"),
    attnV: ({ layer }) => (layer < 4 ? "Q5_K" : "Q4_K"),
    ffnDown: firstEighth("Q5_K", "Q4_K"),
  },
  q4_k_m: { ...plain(15, "Q4_K"), attnV: moreBits("Q6_K", "Q4_K"), ffnDown: moreBits("Q6_K", "Q4_K") },
  q5_k_s: plain(16, "Q5_K"),
  q5_k_m: { ...plain(17, "Q5_K"), attnV: moreBits("Q6_K", "Q5_K"), ffnDown: moreBits("Q6_K", "Q5_K") },
  q6_k: plain(18, "Q6_K"),
  iq4_nl: {
    ...plain(25, "IQ4_NL"),
    attnV: place => (shared(place) >= 4 ? "Q5_K" : "IQ4_NL"),
    ffnDown: firstEighthWith(false, "Q5_K", "IQ4_NL"),
  },
  iq4_xs: {
    ...plain(30, "IQ4_XS"),
    attnV: place => (shared(place) >= 4 ? "Q5_K" : "IQ4_XS"),
    ffnDown: firstEighthWith(false, "Q5_K", "IQ4_XS"),
  },
} satisfies Record<string, Mix>

export type GgufPreset = keyof typeof mixes

export const ggufPresets = Object.keys(mixes) as GgufPreset[]

export const isGgufPreset = (name: unknown): name is GgufPreset =>
  typeof name === "string" && Object.hasOwn(mixes, name)

/** general.file_type of a mixture. */
export const ggufFileType = (preset: GgufPreset): number => mixes[preset].fileType

/** Whether llama-quantize refuses to make a matrix of a block without its importance. */
export function needsImportance(preset: GgufPreset, type: GgmlType): boolean {
  const mix: Mix = mixes[preset]
  return mix.needsImportance === true && type.name === mix.base
}

/** What llama-quantize takes where rows are no multiple of 256. */
const narrower: ReadonlyMap<string, string> = new Map([
  ["Q2_K", "Q4_0"],
  ["Q3_K", "Q4_0"],
  ["Q4_K", "Q5_0"],
  ["Q5_K", "Q5_1"],
  ["Q6_K", "Q8_0"],
  ["IQ4_XS", "IQ4_NL"],
])

/** The type of a matrix. */
export function mixedType(preset: GgufPreset, model: MixModel, { name, k }: MixMatrix): MixedType {
  const wanted = named(wantedType(mixes[preset], model, name))
  let type = wanted
  if (k % type.blockSize !== 0) type = named(narrower.get(type.name) ?? "F16")
  if (k % type.blockSize !== 0) type = named("F16")
  return { type, instead: type === wanted ? null : wanted }
}

/** Routers and learned positions, which llama.cpp's converter makes F32 and llama-quantize leaves alone. */
export const staysFloat = (name: string): boolean => name === "position_embd" || /^blk\.\d+\.ffn_gate_inp$/.test(name)

/** general.file_type of mixtures whose attn_output has five bits beside eight experts: Q2_K, Q3_K_S, Q3_K_M, Q4_K_S, Q4_K_M, IQ4_NL, IQ4_XS. */
const fiveBitOutput: ReadonlySet<number> = new Set([10, 11, 12, 14, 15, 25, 30])

function wantedType(mix: Mix, model: MixModel, name: string): string {
  const { base, output = base } = mix
  if (staysFloat(name)) return "F32"
  // attn_v and attn_k are a small part of a model of eight experts.
  const eight = model.experts === 8 && ggmlTypeNamed(base)!.blockSize > 1
  if (eight && /^blk\.\d+\.attn_[kv]$/.test(name)) return "Q8_0"
  if (eight && fiveBitOutput.has(mix.fileType) && /^blk\.\d+\.attn_output$/.test(name)) return "Q5_K"
  if (name === "output") return output
  if (name === "token_embd") return model.tied ? output : (mix.embedding ?? base)
  const [, layer, part] = /^blk\.(\d+)\.(attn_v|attn_qkv|ffn_down|attn_output)(?:_exps)?$/.exec(name) ?? []
  if (part === undefined) return base
  const place = { ...model, layer: Number(layer) }
  // What holds v as well.
  const isV = part === "attn_v" || part === "attn_qkv"
  const choice: Choice | undefined = isV ? mix.attnV : part === "ffn_down" ? mix.ffnDown : mix.attnOutput
  const type = typeof choice === "function" ? choice(place) : (choice ?? base)
  // Models of the shape of Llama 2 70B, whose v is an eighth of q.
  const finer = isV && model.layers === 80 && shared(model) > 1 && (type === "Q3_K" || type === "Q4_K")
  return finer ? "Q5_K" : type
}
