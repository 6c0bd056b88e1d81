// A model's description: what lib/models' architectures produce, and what the executor, calibration and transforms work from.

/** Parsed and validated config.json, in the terms every architecture shares. */
export interface ModelConfig {
  /** model_type of config.json. */
  architecture: string
  hiddenSize: number
  intermediateSize: number
  /** Of blocks with a mixture of experts; absent where there are none. */
  experts?: { count: number; perToken: number; intermediateSize: number }
  layers: number
  heads: number
  kvHeads: number
  headDim: number
  vocabularySize: number
  /** max_position_embeddings (times a rope scaling's factor only where the config says so). */
  maxContext: number
  normEps: number
  tiedEmbeddings: boolean
  bosTokenIds: number[]
  eosTokenIds: number[]
  /** dtype of the checkpoint's unquantized tensors by config ("bfloat16", "float16", "float32"). */
  torchDtype: string
  /** The JSON object as found, for what is particular to an architecture. */
  raw: Record<string, unknown>
}

/** Operation kinds and their code in the addon (native/program/program.h). */
export const opKinds = {
  embed: 0,
  rmsNorm: 1,
  linear: 2,
  rope: 3,
  attention: 4,
  gated: 5,
  add: 6,
  logits: 7,
  layerNorm: 8,
  columns: 9,
  positions: 10,
  activate: 11,
  route: 14,
  gather: 15,
  experts: 16,
  combine: 17,
} as const
export type OpKind = keyof typeof opKinds

export interface Op {
  kind: OpKind
  /** Input slots. */
  in: readonly number[]
  /** Output slot, -1 for logits. */
  out: number
  /** Indices into the section's weights. Those of experts follow each other, expert by expert. */
  weights: readonly number[]
  /** Parameters in the order of native/program/program.h. */
  p: readonly number[]
}

/** What a weight of a section is. Names are relative to the section's prefix ("model.layers.3." or ""). */
export type WeightSlot =
  /** A small f32 vector read from a tensor: a norm's weight or a bias. */
  | { kind: "vector"; tensor: string; size: number }
  /** A linear's weight [n, k], dense or quantized: tensor `${module}.weight` or the format's tensors of `module`. */
  | {
      kind: "linear"
      module: string
      n: number
      k: number
      bias: string | null
      /** Why it is never quantized; absent for ordinary linears. */
      kept?: string
      /** Which expert of its block it belongs to; absent where every row goes through it. */
      expert?: number
      /** The dense tensor is stored [k, n] (GPT-2's Conv1D); formats of quantized weights hold [n, k] all the same. */
      transposed?: true
    }
  /** Computed, e.g. inverse frequencies. */
  | { kind: "constant"; values: Float32Array; beyond?: LongConstant }

/** What takes a constant's place in sequences of more than `length` tokens altogether (longrope). */
export interface LongConstant {
  length: number
  values: Float32Array
}

export interface Section {
  ops: readonly Op[]
  weights: readonly WeightSlot[]
}

/** Linears whose inputs may be rescaled per channel: the scale's inverse is folded into `source`, the scale into `targets`. */
export interface ScaleGroup {
  /** Where 1/s goes: a norm's weight (vector) or the output rows of a linear. */
  source:
    | {
        kind: "vector"
        tensor: string
        /** What the norm adds to its weight w (1 in Gemma): w becomes (offset + w) / s - offset. */
        offset?: number
        /** The norm's bias, which is divided as well. */
        bias?: string
      }
    | {
        kind: "linear"
        module: string
        /** Where channel c lies in a fused projection: row begin + floor(c / length) * stride + c % length. Default: row c. */
        rows?: SourceRows
      }
  /** Linears that share the input. */
  targets: readonly string[]
  /** For v_proj -> o_proj under GQA: each source row serves this many blocks of target columns: heads / kvHeads; 1 otherwise. */
  repeat: number
  /** Width of a repeated block (headDim) where repeat > 1. */
  blockWidth: number
  /** Where source and targets are an expert's own: which. Only rows of that expert go through them. */
  expert?: number
}

export interface SourceRows {
  begin: number
  length: number
  stride: number
}

/** The program of a model. Sections: 0 prologue, then block templates, then the epilogue (last). */
export interface ModelProgram {
  config: ModelConfig
  /** Width of every slot; slot 0 is the residual stream between blocks: a block reads it first and writes it last, all other slots
   * are written once per block. */
  slots: readonly number[]
  sections: readonly Section[]
  /** Section of every layer. */
  blocks: readonly number[]
  /** Prefix of tensor names of a layer ("model.layers.3."); prologue and epilogue names are absolute. */
  blockPrefix(layer: number): string
  /** Module name of the input embedding and of the head (the same where tied). */
  embedding: string
  head: string
  /** Scale groups of a block, by template section. */
  scaleGroups(layer: number): readonly ScaleGroup[]
}

/** Every tensor that a program reads of a dense checkpoint, in its order: prologue, blocks, epilogue. A name may come twice (a tied head). */
export function tensorsOf(program: ModelProgram): { name: string; shape: readonly number[]; transposed: boolean }[] {
  const sections: [number, string][] = [
    [0, ""],
    ...program.blocks.map((section, layer): [number, string] => [section, program.blockPrefix(layer)]),
    [program.sections.length - 1, ""],
  ]
  return sections.flatMap(([section, prefix]) =>
    program.sections[section]!.weights.flatMap(slot => {
      if (slot.kind === "constant") return []
      if (slot.kind === "vector") return [{ name: prefix + slot.tensor, shape: [slot.size], transposed: false }]
      return [{ name: `${prefix}${slot.module}.weight`, shape: [slot.n, slot.k], transposed: slot.transposed ?? false }]
    }),
  )
}

/** Tokens of a sequence beyond which constants change, or null. */
export function longLength({ sections }: ModelProgram): number | null {
  for (const { weights } of sections)
    for (const slot of weights) if (slot.kind === "constant" && slot.beyond) return slot.beyond.length
  return null
}
