// Tensor names of Hugging Face checkpoints and of GGUF files, and the order of rows in which the two differ.
// Source: ggml-org/llama.cpp, gguf-py/gguf/tensor_mapping.py and convert_hf_to_gguf.py.

/** Modules by their GGUF and their Hugging Face name; `bias`: it may have one. */
const modules: readonly [gguf: string, hf: string, bias: boolean][] = [
  ["token_embd", "model.embed_tokens", false],
  ["output_norm", "model.norm", false],
  ["output", "lm_head", false],
]
const blockModules: readonly [gguf: string, hf: string, bias: boolean][] = [
  ["attn_norm", "input_layernorm", false],
  ["attn_q", "self_attn.q_proj", true],
  ["attn_k", "self_attn.k_proj", true],
  ["attn_v", "self_attn.v_proj", true],
  ["attn_output", "self_attn.o_proj", true],
  ["attn_q_norm", "self_attn.q_norm", false],
  ["attn_k_norm", "self_attn.k_norm", false],
  ["ffn_norm", "post_attention_layernorm", false],
  ["ffn_gate", "mlp.gate_proj", true],
  ["ffn_up", "mlp.up_proj", true],
  ["ffn_down", "mlp.down_proj", true],
  ["ffn_gate_inp", "mlp.gate", false],
]

/** Linears of experts, whose matrices a GGUF file holds one behind the other: [experts, n, k]. */
const expertModules: readonly [gguf: string, names: readonly string[]][] = [
  ["ffn_gate_exps", ["gate_proj", "w1"]],
  ["ffn_up_exps", ["up_proj", "w3"]],
  ["ffn_down_exps", ["down_proj", "w2"]],
]
const hfExpert = /^(?:mlp|block_sparse_moe)\.experts\.(0|[1-9][0-9]{0,4})\.(\w+)\.weight$/
const ggufExpert = /^blk\.(?:0|[1-9][0-9]{0,5})\.(ffn_(?:gate|up|down)_exps)\.weight$/

const suffixes = (bias: boolean) => (bias ? [".weight", ".bias"] : [".weight"])
const pairs = (list: typeof modules) =>
  list.flatMap(([gguf, hf, bias]) => suffixes(bias).map(suffix => [gguf + suffix, hf + suffix] as const))
const swapped = (list: readonly (readonly [string, string])[]) => new Map(list.map(([gguf, hf]) => [hf, gguf]))

const hfNames = new Map(pairs(modules))
const ggufNames = swapped(pairs(modules))
const hfBlockNames = new Map(pairs(blockModules))
// Mixtral's name for its router.
const ggufBlockNames = swapped([...pairs(blockModules), ["ffn_gate_inp.weight", "block_sparse_moe.gate.weight"]])

const layer = "(0|[1-9][0-9]{0,5})"
const hfBlock = new RegExp(`^model\\.layers\\.${layer}\\.(.+)$`)
const ggufBlock = new RegExp(`^blk\\.${layer}\\.(.+)$`)

/** Where a GGUF file has the weight of an expert's linear: in "blk.3.ffn_up_exps.weight", at its number; null for all other tensors. */
export function ggufExpertOf(hf: string): { name: string; expert: number } | null {
  const [, index, rest = ""] = hfBlock.exec(hf) ?? []
  const [, expert, part] = hfExpert.exec(rest) ?? []
  const gguf = expertModules.find(([, names]) => part !== undefined && names.includes(part))?.[0]
  return gguf === undefined ? null : { name: `blk.${index}.${gguf}.weight`, expert: Number(expert) }
}

/** Whether a GGUF tensor holds the matrices of all experts of a block. */
export const holdsExperts = (gguf: string): boolean => ggufExpert.test(gguf)

/** Whether it is a router, which is never quantized. */
export const isRouter = (gguf: string): boolean => /^blk\.\d+\.ffn_gate_inp\.weight$/.test(gguf)

/** The tensor's name in a GGUF file, "blk.3.attn_q.weight"; null for a tensor that Llama, Mistral, Qwen2 and Qwen3 do not have, and for experts. */
export function ggufName(hf: string): string | null {
  const [, index, rest] = hfBlock.exec(hf) ?? []
  if (rest === undefined) return ggufNames.get(hf) ?? null
  const name = ggufBlockNames.get(rest)
  return name === undefined ? null : `blk.${index}.${name}`
}

/** The tensor's name in a Hugging Face checkpoint, "model.layers.3.self_attn.q_proj.weight"; null as for ggufName. */
export function hfName(gguf: string): string | null {
  const [, index, rest] = ggufBlock.exec(gguf) ?? []
  if (rest === undefined) return hfNames.get(gguf) ?? null
  const name = hfBlockNames.get(rest)
  return name === undefined ? null : `model.layers.${index}.${name}`
}

/** Frequency factors of llama3 scaling, f32 [headDim / 2]; no checkpoint has them as a tensor. */
export const ropeFreqsName = "rope_freqs.weight"

/**
 * Whether a tensor's rows (a bias's elements) come in another order than in the checkpoint: q and k of architecture "llama", which
 * turns elements 2i and 2i + 1 together where the checkpoint has i and i + headDim / 2. Columns keep their order.
 */
export function hasPermutedRows(architecture: string, gguf: string): boolean {
  return architecture === "llama" && /^blk\.\d+\.attn_[qk]\.(weight|bias)$/.test(gguf)
}

/** The checkpoint's row that is row `row` of the GGUF tensor. Every head is a permutation of its own. */
export function hfRow(row: number, headDim: number): number {
  const i = row % headDim
  return row - i + (i >> 1) + (i & 1) * (headDim / 2)
}

/** The GGUF tensor's row that is row `row` of the checkpoint: the inverse of hfRow. */
export function ggufRow(row: number, headDim: number): number {
  const i = row % headDim
  const half = headDim / 2
  return row - i + (i < half ? 2 * i : 2 * (i - half) + 1)
}
