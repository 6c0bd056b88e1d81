// Puts the program of a decoder-only transformer together: what Llama, Mistral, Qwen2 and Qwen3 share.
import { addExperts, allocateExpertSlots, type ExpertTraits, expertScaleGroups, withExperts } from "./experts.ts"
import type { ModelConfig, ModelProgram, Op, OpKind, ScaleGroup, Section, WeightSlot } from "./program.ts"
import type { Rope } from "./rope.ts"

/** What tells one decoder architecture from another. */
export interface DecoderTraits {
  /** Which projections of the attention have a bias. */
  attentionBias: { qkv: boolean; o: boolean }
  mlpBias: boolean
  /** RMS norm of every head of q and k before they turn. */
  qkNorm: boolean
  /** By layer: positions that a query sees including its own; 0: all. */
  windows: readonly number[]
  rope: Rope
  /** Of the gated activation: 0 SiLU, 1 tanh-approximated GELU. */
  activation: 0 | 1
  /** In place of the MLP of some layers. */
  experts?: ExpertTraits
}

/** Slot numbers of the program; see docs/program.md. Every slot but 0 is written once per block. */
export class Slots {
  readonly widths: number[] = []

  add(width: number): number {
    return this.widths.push(width) - 1
  }
}

/** Collects the operations and weights of one section. Every weight is bound once, however often it is used. */
export class SectionBuilder {
  readonly ops: Op[] = []
  readonly weights: WeightSlot[] = []

  #op(kind: OpKind, inputs: number[], out: number, weights: number[], p: number[]): void {
    this.ops.push({ kind, in: inputs, out, weights, p })
  }

  #weight(slot: WeightSlot): number {
    return this.weights.push(slot) - 1
  }

  constant(values: Float32Array): number {
    return this.#weight({ kind: "constant", values })
  }

  embed(module: string, n: number, k: number, out: number): void {
    this.#op("embed", [], out, [this.#weight({ kind: "linear", module, n, k, bias: null })], [1])
  }

  norm(tensor: string, size: number, eps: number, input: number, out: number, segments = 1): void {
    this.#op("rmsNorm", [input], out, [this.#weight({ kind: "vector", tensor, size })], [eps, segments, 0])
  }

  /** kept: why it is never quantized. */
  linear(module: string, n: number, k: number, hasBias: boolean, input: number, out: number, kept?: string): void {
    const bias = hasBias ? `${module}.bias` : null
    const weights = [this.#weight({ kind: "linear", module, n, k, bias, ...(kept && { kept }) })]
    if (bias) weights.push(this.#weight({ kind: "vector", tensor: bias, size: n }))
    this.#op("linear", [input], out, weights, [])
  }

  rope(frequencies: number, rope: Rope, heads: number, headDim: number, input: number, out: number): void {
    this.#op("rope", [input], out, [frequencies], [heads, headDim, rope.rotaryDim, rope.attentionFactor])
  }

  attention(config: ModelConfig, window: number, q: number, k: number, v: number, out: number): void {
    const { heads, kvHeads, headDim } = config
    this.#op("attention", [q, k, v], out, [], [heads, kvHeads, headDim, headDim ** -0.5, window, 0])
  }

  gated(activation: 0 | 1, gate: number, up: number, out: number): void {
    this.#op("gated", [gate, up], out, [], [activation])
  }

  add(a: number, b: number, out: number): void {
    this.#op("add", [a, b], out, [], [])
  }

  route(topK: number, renormalize: boolean, input: number, out: number): void {
    this.#op("route", [input], out, [], [topK, renormalize ? 1 : 0])
  }

  gather(topK: number, input: number, routes: number, out: number): void {
    this.#op("gather", [input, routes], out, [], [topK])
  }

  /** A linear of every expert. */
  experts(modules: string[], n: number, k: number, topK: number, input: number, routes: number, out: number): void {
    const weights = modules.map((module, expert) => this.#weight({ kind: "linear", module, n, k, bias: null, expert }))
    this.#op("experts", [input, routes], out, weights, [topK])
  }

  combine(topK: number, input: number, routes: number, out: number): void {
    this.#op("combine", [input, routes], out, [], [topK])
  }

  logits(module: string, n: number, k: number, input: number): void {
    this.#op("logits", [input], -1, [this.#weight({ kind: "linear", module, n, k, bias: null })], [0])
  }

  build(): Section {
    return { ops: this.ops, weights: this.weights }
  }
}

/**
 * The program of a pre-norm decoder: x += o(attention(q, k, v of norm(x))), then x += down(act(gate) * up of norm(x)).
 * Layers that differ in their windows, or in whether they have experts, get templates of their own.
 */
export function buildDecoder(config: ModelConfig, traits: DecoderTraits): ModelProgram {
  const { hiddenSize, vocabularySize, tiedEmbeddings } = config
  const slots = new Slots()
  const residual = slots.add(hiddenSize)
  const embedding = "model.embed_tokens"
  const head = tiedEmbeddings ? embedding : "lm_head"

  const prologue = new SectionBuilder()
  prologue.embed(embedding, vocabularySize, hiddenSize, residual)
  const sections = [prologue.build()]

  const kinds = new Map<string, number>()
  const blockSlots = allocateBlockSlots(slots, config, traits)
  const blocks = traits.windows.map((window, layer) => {
    const sparse = traits.experts?.layers[layer] ?? false
    const kind = `${window} ${sparse}`
    if (!kinds.has(kind))
      kinds.set(kind, sections.push(buildBlock(config, traits, window, sparse, residual, blockSlots)) - 1)
    return kinds.get(kind)!
  })

  const epilogue = new SectionBuilder()
  epilogue.norm("model.norm.weight", hiddenSize, config.normEps, residual, blockSlots.attentionInput)
  epilogue.logits(head, vocabularySize, hiddenSize, blockSlots.attentionInput)
  sections.push(epilogue.build())

  const { experts } = traits
  const [attentionGroups, mlpGroups] = scaleGroups(config)
  const dense = [...attentionGroups, ...mlpGroups]
  const sparse = experts ? [...attentionGroups, ...expertScaleGroups(experts)] : dense
  return {
    config: experts ? withExperts(config, experts) : config,
    slots: slots.widths,
    sections,
    blocks,
    blockPrefix: layer => `model.layers.${layer}.`,
    embedding,
    head,
    scaleGroups: layer => (experts?.layers[layer] ? sparse : dense),
  }
}

type BlockSlots = ReturnType<typeof allocateBlockSlots>

function allocateBlockSlots(slots: Slots, config: ModelConfig, traits: DecoderTraits) {
  const { hiddenSize, intermediateSize } = config
  const query = config.heads * config.headDim
  const key = config.kvHeads * config.headDim
  const { experts } = traits
  const attentionInput = slots.add(hiddenSize)
  const q = slots.add(query)
  const k = slots.add(key)
  const v = slots.add(key)
  return {
    attentionInput,
    q,
    k,
    v,
    normedQ: traits.qkNorm ? slots.add(query) : q,
    normedK: traits.qkNorm ? slots.add(key) : k,
    turnedQ: slots.add(query),
    turnedK: slots.add(key),
    attention: slots.add(query),
    o: slots.add(hiddenSize),
    middle: slots.add(hiddenSize),
    mlpInput: slots.add(hiddenSize),
    mlp: experts?.layers.every(Boolean)
      ? null
      : {
          gate: slots.add(intermediateSize),
          up: slots.add(intermediateSize),
          activated: slots.add(intermediateSize),
          down: slots.add(hiddenSize),
        },
    experts: experts?.layers.some(Boolean) ? allocateExpertSlots(slots, hiddenSize, experts) : null,
  }
}

function buildBlock(
  config: ModelConfig,
  traits: DecoderTraits,
  window: number,
  sparse: boolean,
  x: number,
  slot: BlockSlots,
): Section {
  const { hiddenSize, heads, kvHeads, headDim, normEps } = config
  const { attentionBias, rope } = traits
  const query = heads * headDim
  const key = kvHeads * headDim
  const block = new SectionBuilder()
  block.norm("input_layernorm.weight", hiddenSize, normEps, x, slot.attentionInput)
  block.linear("self_attn.q_proj", query, hiddenSize, attentionBias.qkv, slot.attentionInput, slot.q)
  block.linear("self_attn.k_proj", key, hiddenSize, attentionBias.qkv, slot.attentionInput, slot.k)
  block.linear("self_attn.v_proj", key, hiddenSize, attentionBias.qkv, slot.attentionInput, slot.v)
  if (traits.qkNorm) {
    block.norm("self_attn.q_norm.weight", headDim, normEps, slot.q, slot.normedQ, heads)
    block.norm("self_attn.k_norm.weight", headDim, normEps, slot.k, slot.normedK, kvHeads)
  }
  const frequencies = block.constant(rope.inverseFrequencies)
  block.rope(frequencies, rope, heads, headDim, slot.normedQ, slot.turnedQ)
  block.rope(frequencies, rope, kvHeads, headDim, slot.normedK, slot.turnedK)
  block.attention(config, window, slot.turnedQ, slot.turnedK, slot.v, slot.attention)
  block.linear("self_attn.o_proj", hiddenSize, query, attentionBias.o, slot.attention, slot.o)
  block.add(x, slot.o, slot.middle)
  block.norm("post_attention_layernorm.weight", hiddenSize, normEps, slot.middle, slot.mlpInput)
  const { activation, experts } = traits
  const down =
    sparse && experts && slot.experts
      ? addExperts(block, slot.experts, hiddenSize, activation, experts, slot.mlpInput)
      : addMlp(block, slot, config, traits)
  block.add(slot.middle, down, x)
  return block.build()
}

function addMlp(block: SectionBuilder, slot: BlockSlots, config: ModelConfig, traits: DecoderTraits): number {
  const { hiddenSize, intermediateSize } = config
  const { mlpBias, activation } = traits
  const { gate, up, activated, down } = slot.mlp!
  block.linear("mlp.gate_proj", intermediateSize, hiddenSize, mlpBias, slot.mlpInput, gate)
  block.linear("mlp.up_proj", intermediateSize, hiddenSize, mlpBias, slot.mlpInput, up)
  block.gated(activation, gate, up, activated)
  block.linear("mlp.down_proj", hiddenSize, intermediateSize, mlpBias, activated, down)
  return down
}

/**
 * Of the attention and of the MLP, the same for every block that has them. Where a source is a linear with a bias (v_proj of Qwen2, `mlp_bias`), the inverse scale belongs on
 * `${module}.bias` as well as on the rows of its weight. v_proj feeds o_proj through a weighted mean over positions, which
 * keeps channels apart: KV head h serves the query heads h * repeat ... (h + 1) * repeat - 1.
 */
function scaleGroups(config: ModelConfig): [attention: ScaleGroup[], mlp: ScaleGroup[]] {
  const attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
  return [
    [
      { source: { kind: "vector", tensor: "input_layernorm.weight" }, targets: attention, repeat: 1, blockWidth: 1 },
      {
        source: { kind: "linear", module: "self_attn.v_proj" },
        targets: ["self_attn.o_proj"],
        repeat: config.heads / config.kvHeads,
        blockWidth: config.headDim,
      },
    ],
    [
      {
        source: { kind: "vector", tensor: "post_attention_layernorm.weight" },
        targets: ["mlp.gate_proj", "mlp.up_proj"],
        repeat: 1,
        blockWidth: 1,
      },
      { source: { kind: "linear", module: "mlp.up_proj" }, targets: ["mlp.down_proj"], repeat: 1, blockWidth: 1 },
    ],
  ]
}
