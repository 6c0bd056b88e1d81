// Tensor names of Hugging Face checkpoints and of GGUF files, by family. Source: ggml-org/llama.cpp, gguf-py/gguf/tensor_mapping.py and
// conversion/*.py (convert_hf_to_gguf.py before), src/llama-arch.cpp.

type Module = readonly [gguf: string, hf: string, suffixes?: "weight" | "bias" | "both"]

/** How checkpoints of a family call their tensors. */
export interface NameTable {
  /** What names below the decoder begin with: the usual one first. */
  roots: readonly string[]
  /** Relative to a root. */
  modules: readonly Module[]
  /** The head's module. */
  heads: readonly string[]
  /** What names of a block begin with, behind a root and in front of the block's number. */
  layers: string
  block: readonly Module[]
  /** What names of experts begin with, and the parts of an expert. */
  experts?: { prefix: string; gate: string; up: string; down: string }
}

const attention: readonly Module[] = [
  ["attn_q", "self_attn.q_proj", "both"],
  ["attn_k", "self_attn.k_proj", "both"],
  ["attn_v", "self_attn.v_proj", "both"],
  ["attn_output", "self_attn.o_proj", "both"],
  ["attn_q_norm", "self_attn.q_norm"],
  ["attn_k_norm", "self_attn.k_norm"],
]
const mlp: readonly Module[] = [
  ["ffn_gate", "mlp.gate_proj", "both"],
  ["ffn_up", "mlp.up_proj", "both"],
  ["ffn_down", "mlp.down_proj", "both"],
]
const norms: readonly Module[] = [
  ["attn_norm", "input_layernorm"],
  ["ffn_norm", "post_attention_layernorm"],
]

const llama: NameTable = {
  roots: ["model."],
  modules: [
    ["token_embd", "embed_tokens"],
    ["output_norm", "norm"],
  ],
  heads: ["lm_head"],
  layers: "layers.",
  block: [...norms, ...attention, ...mlp],
}

const gemma: NameTable = {
  ...llama,
  roots: ["model.", "model.language_model.", "language_model.model."],
  heads: ["lm_head", "language_model.lm_head"],
  block: [
    ["attn_norm", "input_layernorm"],
    ["post_attention_norm", "post_attention_layernorm"],
    ["ffn_norm", "pre_feedforward_layernorm"],
    ["post_ffw_norm", "post_feedforward_layernorm"],
    ...attention,
    ...mlp,
  ],
}

/** By model_type; those that are not here have Llama's names. */
const tables: Readonly<Record<string, NameTable>> = {
  mixtral: {
    ...llama,
    block: [...norms, ...attention, ["ffn_gate_inp", "block_sparse_moe.gate"]],
    experts: { prefix: "block_sparse_moe.experts.", gate: "w1", up: "w3", down: "w2" },
  },
  qwen3_moe: {
    ...llama,
    block: [...llama.block, ["ffn_gate_inp", "mlp.gate"]],
    experts: { prefix: "mlp.experts.", gate: "gate_proj", up: "up_proj", down: "down_proj" },
  },
  // llama.cpp has no head of its own in this architecture.
  gemma2: { ...gemma, heads: [] },
  gemma3: gemma,
  gemma3_text: gemma,
  gpt2: {
    roots: ["transformer.", ""],
    modules: [
      ["token_embd", "wte"],
      ["position_embd", "wpe"],
      ["output_norm", "ln_f", "both"],
    ],
    heads: ["lm_head"],
    layers: "h.",
    block: [
      ["attn_norm", "ln_1", "both"],
      ["attn_qkv", "attn.c_attn", "both"],
      ["attn_output", "attn.c_proj", "both"],
      ["ffn_norm", "ln_2", "both"],
      ["ffn_up", "mlp.c_fc", "both"],
      ["ffn_down", "mlp.c_proj", "both"],
    ],
  },
  gpt_neox: {
    roots: ["gpt_neox."],
    modules: [
      ["token_embd", "embed_in"],
      ["output_norm", "final_layer_norm", "both"],
    ],
    heads: ["embed_out"],
    layers: "layers.",
    block: [
      ["attn_norm", "input_layernorm", "both"],
      ["attn_qkv", "attention.query_key_value", "both"],
      ["attn_output", "attention.dense", "both"],
      ["ffn_norm", "post_attention_layernorm", "both"],
      ["ffn_up", "mlp.dense_h_to_4h", "both"],
      ["ffn_down", "mlp.dense_4h_to_h", "both"],
    ],
  },
  phi3: {
    ...llama,
    block: [
      ...norms,
      ["attn_qkv", "self_attn.qkv_proj"],
      ["attn_output", "self_attn.o_proj"],
      ["ffn_up", "mlp.gate_up_proj"],
      ["ffn_down", "mlp.down_proj"],
    ],
  },
}

export const nameTable = (modelType: string): NameTable =>
  Object.hasOwn(tables, modelType) ? (tables[modelType] as NameTable) : llama

/** Names of a family's tensors, with ".weight" and ".bias", in both worlds. */
export class GgufNames {
  readonly #table: NameTable
  readonly #gguf: ReadonlyMap<string, string>
  readonly #hf: ReadonlyMap<string, string>
  readonly #ggufBlock: ReadonlyMap<string, string>
  readonly #hfBlock: ReadonlyMap<string, string>
  readonly #layer: RegExp

  constructor(modelType: string) {
    const table = nameTable(modelType)
    const { roots, modules, heads, layers, block } = table
    this.#table = table
    const top = [
      ...roots.flatMap(root => suffixed(modules).map(([gguf, hf]): Pair => [gguf, root + hf])),
      ...heads.map((head): Pair => ["output.weight", `${head}.weight`]),
    ]
    this.#gguf = new Map(top.map(([gguf, hf]) => [hf, gguf]))
    // The first of several names is the usual one.
    this.#hf = new Map(top.reverse())
    const inner = suffixed(block)
    this.#ggufBlock = new Map(inner.map(([gguf, hf]) => [hf, gguf]))
    this.#hfBlock = new Map(inner)
    const escaped = roots.map(root => root.replaceAll(".", "\\."))
    this.#layer = new RegExp(`^(?:${escaped.join("|")})${layers.replaceAll(".", "\\.")}${number}\\.(.+)$`)
  }

  /** The tensor's name in a GGUF file, "blk.3.attn_q.weight"; null for a tensor that the family does not have, and for experts. */
  gguf(hf: string): string | null {
    const [, index, rest] = this.#layer.exec(hf) ?? []
    if (rest === undefined) return this.#gguf.get(hf) ?? null
    const name = this.#ggufBlock.get(rest)
    return name === undefined ? null : `blk.${index}.${name}`
  }

  /** The tensor's name in a Hugging Face checkpoint, "model.layers.3.self_attn.q_proj.weight"; null as of gguf. */
  hf(gguf: string): string | null {
    const [, index, rest] = ggufBlock.exec(gguf) ?? []
    if (rest === undefined) return this.#hf.get(gguf) ?? null
    const name = this.#hfBlock.get(rest)
    return name === undefined ? null : this.#block(index as string) + name
  }

  /** Where a GGUF file has the weight of an expert's linear: in "blk.3.ffn_up_exps.weight", at its number; null for all other tensors. */
  expert(hf: string): { name: string; expert: number } | null {
    const { experts } = this.#table
    const [, index, rest = ""] = this.#layer.exec(hf) ?? []
    if (!experts || !rest.startsWith(experts.prefix)) return null
    const [, expert, found] = ofExpert.exec(rest.slice(experts.prefix.length)) ?? []
    const part = expertParts.find(name => experts[name] === found)
    return part === undefined ? null : { name: `blk.${index}.ffn_${part}_exps.weight`, expert: Number(expert) }
  }

  /** The GGUF tensor that holds a tensor, with those of other experts or by itself. */
  tensor(hf: string): string | null {
    return this.expert(hf)?.name ?? this.gguf(hf)
  }

  /** The module of one expert of such a tensor; null for all others, and in families without experts. */
  expertModule(gguf: string, expert: number): string | null {
    const { experts } = this.#table
    const [, index, part] = stacked.exec(gguf) ?? []
    if (!experts || part === undefined) return null
    return `${this.#block(index as string)}${experts.prefix}${expert}.${experts[part as (typeof expertParts)[number]]}`
  }

  #block(index: string): string {
    return `${this.#table.roots[0]}${this.#table.layers}${index}.`
  }
}

type Pair = [gguf: string, hf: string]

function suffixed(modules: readonly Module[]): Pair[] {
  return modules.flatMap(([gguf, hf, suffixes = "weight"]): Pair[] => {
    const names = suffixes === "both" ? ["weight", "bias"] : [suffixes]
    return names.map(suffix => [`${gguf}.${suffix}`, `${hf}.${suffix}`])
  })
}

const number = "(0|[1-9][0-9]{0,5})"
const ggufBlock = new RegExp(`^blk\\.${number}\\.(.+)$`)

const expertParts = ["gate", "up", "down"] as const
const ofExpert = /^(0|[1-9][0-9]{0,4})\.(\w+)\.weight$/
const stacked = new RegExp(`^blk\\.${number}\\.ffn_(gate|up|down)_exps\\.weight$`)

/** Whether a GGUF tensor holds the matrices of all experts of a block. */
export const holdsExperts = (gguf: string): boolean => stacked.test(gguf)

/** Whether it is a router, which is never quantized. */
export const isRouter = (gguf: string): boolean => /^blk\.\d+\.ffn_gate_inp\.weight$/.test(gguf)

/** Tensors that no checkpoint has: what frequencies are divided by, f32 [rotated elements / 2]. */
export const ropeNames = {
  /** Of llama3 scaling. */
  factors: "rope_freqs.weight",
  /** Of longrope, in texts within the first context and beyond. */
  short: "rope_factors_short.weight",
  long: "rope_factors_long.weight",
} as const

export const isRopeFactors = (gguf: string): boolean => (Object.values(ropeNames) as string[]).includes(gguf)
