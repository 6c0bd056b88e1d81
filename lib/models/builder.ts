// Puts the program of a decoder-only transformer together: what Llama, Mistral, Qwen, Gemma and Phi-3 share.
import type { ActivationCode } from "./config.ts"
import { addFusedGateUp, addFusedQkv, fusedScaleGroups } from "./fused.ts"
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
  activation: ActivationCode
  /** One qkv_proj and one gate_up_proj in place of single projections (Phi-3). */
  fused?: boolean
  /** What sets Gemma apart. */
  gemma?: GemmaTraits
  /** What names of the decoder's tensors begin with, and the head's module. Default: "model." and "lm_head". */
  names?: { root: string; head: string }
}

export interface GemmaTraits {
  /** Of what attention and MLP are given and give; q and k as well with qkNorm. All add 1 to their weight. */
  embedScale: number
  attentionScale: number
  /** 0: none. */
  attentionSoftcap: number
  finalSoftcap: number
  /** Of layers with a window; the others turn as `rope` says. */
  slidingRope: Rope
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

  /** Inverse frequencies. */
  frequencies({ inverseFrequencies: values, beyond }: Rope): number {
    return this.#weight({ kind: "constant", values, ...(beyond && { beyond }) })
  }

  embed(module: string, n: number, k: number, out: number, scale = 1): void {
    this.#op("embed", [], out, [this.#weight({ kind: "linear", module, n, k, bias: null })], [scale])
  }

  /** Rows of a learned table [n, k] by position. */
  positions(module: string, n: number, k: number, out: number): void {
    this.#op("positions", [], out, [this.#weight({ kind: "linear", module, n, k, bias: null })], [n])
  }

  norm(tensor: string, size: number, eps: number, input: number, out: number, segments = 1, offset = 0): void {
    this.#op("rmsNorm", [input], out, [this.#weight({ kind: "vector", tensor, size })], [eps, segments, offset])
  }

  layerNorm(module: string, size: number, eps: number, input: number, out: number): void {
    const weights = ["weight", "bias"].map(name => this.#weight({ kind: "vector", tensor: `${module}.${name}`, size }))
    this.#op("layerNorm", [input], out, weights, [eps])
  }

  linear(module: string, n: number, k: number, hasBias: boolean, input: number, out: number, transposed = false): void {
    const bias = hasBias ? `${module}.bias` : null
    const weights = [this.#weight({ kind: "linear", module, n, k, bias, ...(transposed && { transposed }) })]
    if (bias) weights.push(this.#weight({ kind: "vector", tensor: bias, size: n }))
    this.#op("linear", [input], out, weights, [])
  }

  /** `pieces` runs of `length` columns, `stride` apart, beside each other. */
  columns(begin: number, pieces: number, length: number, stride: number, input: number, out: number): void {
    this.#op("columns", [input], out, [], [begin, pieces, length, stride])
  }

  rope(frequencies: number, rope: Rope, heads: number, headDim: number, input: number, out: number): void {
    this.#op("rope", [input], out, [frequencies], [heads, headDim, rope.rotaryDim, rope.attentionFactor])
  }

  attention(
    { heads, kvHeads, headDim }: ModelConfig,
    window: number,
    q: number,
    k: number,
    v: number,
    out: number,
    scale = headDim ** -0.5,
    softcap = 0,
  ): void {
    this.#op("attention", [q, k, v], out, [], [heads, kvHeads, headDim, scale, window, softcap])
  }

  gated(activation: ActivationCode, gate: number, up: number, out: number): void {
    this.#op("gated", [gate, up], out, [], [activation])
  }

  activate(activation: ActivationCode, input: number, out: number): void {
    this.#op("activate", [input], out, [], [activation])
  }

  add(a: number, b: number, out: number): void {
    this.#op("add", [a, b], out, [], [])
  }

  logits(module: string, n: number, k: number, input: number, softcap = 0): void {
    this.#op("logits", [input], -1, [this.#weight({ kind: "linear", module, n, k, bias: null })], [softcap])
  }

  build(): Section {
    return { ops: this.ops, weights: this.weights }
  }
}

/**
 * The program of a pre-norm decoder: x += o(attention(q, k, v of norm(x))), then x += down(act(gate) * up of norm(x)).
 * Layers whose windows differ get templates of their own.
 */
export function buildDecoder(config: ModelConfig, traits: DecoderTraits): ModelProgram {
  const { hiddenSize, vocabularySize, layers, tiedEmbeddings } = config
  const slots = new Slots()
  const residual = slots.add(hiddenSize)
  const { gemma, names = { root: "model.", head: "lm_head" } } = traits
  const embedding = `${names.root}embed_tokens`
  const head = tiedEmbeddings ? embedding : names.head

  const prologue = new SectionBuilder()
  prologue.embed(embedding, vocabularySize, hiddenSize, residual, gemma?.embedScale)
  const sections = [prologue.build()]

  const kinds = [...new Set(traits.windows)]
  const blockSlots = allocateBlockSlots(slots, config, traits)
  for (const window of kinds) sections.push(buildBlock(config, traits, window, residual, blockSlots))

  const epilogue = new SectionBuilder()
  const last = blockSlots.attentionInput
  epilogue.norm(`${names.root}norm.weight`, hiddenSize, config.normEps, residual, last, 1, gemma && 1)
  epilogue.logits(head, vocabularySize, hiddenSize, last, gemma?.finalSoftcap)
  sections.push(epilogue.build())

  const groups = traits.fused ? fusedScaleGroups(config) : scaleGroups(config, traits)
  return {
    config,
    slots: slots.widths,
    sections,
    blocks: Array.from({ length: layers }, (_, layer) => 1 + kinds.indexOf(traits.windows[layer]!)),
    blockPrefix: layer => `${names.root}layers.${layer}.`,
    embedding,
    head,
    scaleGroups: () => groups,
  }
}

type BlockSlots = ReturnType<typeof allocateBlockSlots>

function allocateBlockSlots(slots: Slots, config: ModelConfig, traits: DecoderTraits) {
  const { hiddenSize, intermediateSize } = config
  const query = config.heads * config.headDim
  const key = config.kvHeads * config.headDim
  const attentionInput = slots.add(hiddenSize)
  const q = slots.add(query)
  const k = slots.add(key)
  const v = slots.add(key)
  return {
    attentionInput,
    q,
    k,
    v,
    qkv: traits.fused ? slots.add(query + 2 * key) : q,
    normedQ: traits.qkNorm ? slots.add(query) : q,
    normedK: traits.qkNorm ? slots.add(key) : k,
    turnedQ: slots.add(query),
    turnedK: slots.add(key),
    attention: slots.add(query),
    o: slots.add(hiddenSize),
    normedO: traits.gemma ? slots.add(hiddenSize) : -1,
    middle: slots.add(hiddenSize),
    mlpInput: slots.add(hiddenSize),
    gateUp: traits.fused ? slots.add(2 * intermediateSize) : -1,
    gate: slots.add(intermediateSize),
    up: slots.add(intermediateSize),
    activated: slots.add(intermediateSize),
    down: slots.add(hiddenSize),
    normedDown: traits.gemma ? slots.add(hiddenSize) : -1,
  }
}

function buildBlock(config: ModelConfig, traits: DecoderTraits, window: number, x: number, slot: BlockSlots): Section {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim, normEps } = config
  const { attentionBias, mlpBias, fused, gemma } = traits
  const query = heads * headDim
  const key = kvHeads * headDim
  const block = new SectionBuilder()
  const norm = (module: string, size: number, input: number, out: number, segments?: number) =>
    block.norm(`${module}.weight`, size, normEps, input, out, segments, gemma && 1)
  norm("input_layernorm", hiddenSize, x, slot.attentionInput)
  if (fused) addFusedQkv(block, config, slot)
  else {
    block.linear("self_attn.q_proj", query, hiddenSize, attentionBias.qkv, slot.attentionInput, slot.q)
    block.linear("self_attn.k_proj", key, hiddenSize, attentionBias.qkv, slot.attentionInput, slot.k)
    block.linear("self_attn.v_proj", key, hiddenSize, attentionBias.qkv, slot.attentionInput, slot.v)
  }
  if (traits.qkNorm) {
    norm("self_attn.q_norm", headDim, slot.q, slot.normedQ, heads)
    norm("self_attn.k_norm", headDim, slot.k, slot.normedK, kvHeads)
  }
  const rope = gemma && window > 0 ? gemma.slidingRope : traits.rope
  const frequencies = block.frequencies(rope)
  block.rope(frequencies, rope, heads, headDim, slot.normedQ, slot.turnedQ)
  block.rope(frequencies, rope, kvHeads, headDim, slot.normedK, slot.turnedK)
  const { turnedQ, turnedK, v, attention } = slot
  block.attention(config, window, turnedQ, turnedK, v, attention, gemma?.attentionScale, gemma?.attentionSoftcap)
  block.linear("self_attn.o_proj", hiddenSize, query, attentionBias.o, slot.attention, slot.o)
  if (gemma) norm("post_attention_layernorm", hiddenSize, slot.o, slot.normedO)
  block.add(x, gemma ? slot.normedO : slot.o, slot.middle)
  norm(gemma ? "pre_feedforward_layernorm" : "post_attention_layernorm", hiddenSize, slot.middle, slot.mlpInput)
  if (fused) addFusedGateUp(block, config, slot)
  else {
    block.linear("mlp.gate_proj", intermediateSize, hiddenSize, mlpBias, slot.mlpInput, slot.gate)
    block.linear("mlp.up_proj", intermediateSize, hiddenSize, mlpBias, slot.mlpInput, slot.up)
  }
  block.gated(traits.activation, slot.gate, slot.up, slot.activated)
  block.linear("mlp.down_proj", hiddenSize, intermediateSize, mlpBias, slot.activated, slot.down)
  if (gemma) norm("post_feedforward_layernorm", hiddenSize, slot.down, slot.normedDown)
  block.add(slot.middle, gemma ? slot.normedDown : slot.down, x)
  return block.build()
}

/**
 * The same for every block. Where a source is a linear with a bias (v_proj of Qwen2, `mlp_bias`), the inverse scale belongs on
 * `${module}.bias` as well as on the rows of its weight. v_proj feeds o_proj through a weighted mean over positions, which
 * keeps channels apart: KV head h serves the query heads h * repeat ... (h + 1) * repeat - 1.
 */
function scaleGroups(config: ModelConfig, { gemma }: DecoderTraits): ScaleGroup[] {
  const norm = (module: string) => ({
    kind: "vector" as const,
    tensor: `${module}.weight`,
    ...(gemma && { offset: 1 }),
  })
  const attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
  return [
    { source: norm("input_layernorm"), targets: attention, repeat: 1, blockWidth: 1 },
    {
      source: { kind: "linear", module: "self_attn.v_proj" },
      targets: ["self_attn.o_proj"],
      repeat: config.heads / config.kvHeads,
      blockWidth: config.headDim,
    },
    {
      source: norm(gemma ? "pre_feedforward_layernorm" : "post_attention_layernorm"),
      targets: ["mlp.gate_proj", "mlp.up_proj"],
      repeat: 1,
      blockWidth: 1,
    },
    { source: { kind: "linear", module: "mlp.up_proj" }, targets: ["mlp.down_proj"], repeat: 1, blockWidth: 1 },
  ]
}
