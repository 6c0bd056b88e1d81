// Puts together the program of decoders with layer norms, biases everywhere, one fused projection of q, k and v, and an MLP without
// a gate: GPT-2 and GPT-NeoX.
import { SectionBuilder, Slots } from "./builder.ts"
import type { ActivationCode } from "./config.ts"
import type { ModelConfig, ModelProgram, ScaleGroup, Section } from "./program.ts"
import type { Rope } from "./rope.ts"

/** Names of modules; those of a block are relative to its prefix. */
export interface LayerNormNames {
  embedding: string
  /** Of learned positions, or null. */
  positions: string | null
  finalNorm: string
  head: string
  layers: string
  attentionNorm: string
  qkv: string
  attentionOut: string
  mlpNorm: string
  up: string
  down: string
}

export interface LayerNormTraits {
  names: LayerNormNames
  /** Attention and MLP read the same hidden state and are added together. */
  parallel: boolean
  /** Rows of the fused projection: q, k and v of each head beside each other, or all of q, all of k, all of v. */
  interleaved: boolean
  /** Weights of blocks are stored [in, out]. */
  transposed: boolean
  attentionBias: boolean
  /** null: learned positions. */
  rope: Rope | null
  activation: ActivationCode
  /** By layer: what scores are multiplied with. */
  attentionScales: readonly number[]
}

export function buildLayerNormDecoder(config: ModelConfig, traits: LayerNormTraits): ModelProgram {
  const { hiddenSize, vocabularySize, normEps, maxContext, tiedEmbeddings } = config
  const { names, attentionScales } = traits
  const slots = new Slots()
  const residual = slots.add(hiddenSize)
  const slot = allocateSlots(slots, config, traits)
  const head = tiedEmbeddings ? names.embedding : names.head

  const prologue = new SectionBuilder()
  if (names.positions === null) prologue.embed(names.embedding, vocabularySize, hiddenSize, residual)
  else {
    prologue.embed(names.embedding, vocabularySize, hiddenSize, slot.attentionInput)
    prologue.positions(names.positions, maxContext, hiddenSize, slot.mlpInput)
    prologue.add(slot.attentionInput, slot.mlpInput, residual)
  }
  const kinds = [...new Set(attentionScales)]
  const epilogue = new SectionBuilder()
  epilogue.layerNorm(names.finalNorm, hiddenSize, normEps, residual, slot.attentionInput)
  epilogue.logits(head, vocabularySize, hiddenSize, slot.attentionInput)
  const groups = scaleGroups(config, traits)
  return {
    config,
    slots: slots.widths,
    sections: [
      prologue.build(),
      ...kinds.map(scale => buildBlock(config, traits, scale, residual, slot)),
      epilogue.build(),
    ],
    blocks: attentionScales.map(scale => 1 + kinds.indexOf(scale)),
    blockPrefix: layer => `${names.layers}${layer}.`,
    embedding: names.embedding,
    head,
    scaleGroups: () => groups,
  }
}

type BlockSlots = ReturnType<typeof allocateSlots>

function allocateSlots(
  slots: Slots,
  { hiddenSize, intermediateSize }: ModelConfig,
  { rope, parallel }: LayerNormTraits,
) {
  const add = () => slots.add(hiddenSize)
  const [attentionInput, qkv, q, k, v] = [add(), slots.add(3 * hiddenSize), add(), add(), add()]
  return {
    attentionInput,
    qkv,
    q,
    k,
    v,
    turnedQ: rope ? add() : q,
    turnedK: rope ? add() : k,
    attention: add(),
    o: add(),
    middle: add(),
    mlpInput: add(),
    up: slots.add(intermediateSize),
    activated: slots.add(intermediateSize),
    down: add(),
    both: parallel ? add() : -1,
  }
}

function buildBlock(
  config: ModelConfig,
  traits: LayerNormTraits,
  attentionScale: number,
  x: number,
  slot: BlockSlots,
): Section {
  const { hiddenSize, intermediateSize, heads, headDim, normEps } = config
  const { names, parallel, interleaved, transposed, attentionBias, rope } = traits
  const block = new SectionBuilder()
  const linear = (module: string, n: number, k: number, bias: boolean, input: number, out: number) =>
    block.linear(module, n, k, bias, input, out, transposed)
  block.layerNorm(names.attentionNorm, hiddenSize, normEps, x, slot.attentionInput)
  linear(names.qkv, 3 * hiddenSize, hiddenSize, attentionBias, slot.attentionInput, slot.qkv)
  for (const [part, out] of [slot.q, slot.k, slot.v].entries())
    if (interleaved) block.columns(part * headDim, heads, headDim, 3 * headDim, slot.qkv, out)
    else block.columns(part * hiddenSize, 1, hiddenSize, hiddenSize, slot.qkv, out)
  if (rope) {
    const frequencies = block.frequencies(rope)
    block.rope(frequencies, rope, heads, headDim, slot.q, slot.turnedQ)
    block.rope(frequencies, rope, heads, headDim, slot.k, slot.turnedK)
  }
  block.attention(config, 0, slot.turnedQ, slot.turnedK, slot.v, slot.attention, attentionScale)
  linear(names.attentionOut, hiddenSize, hiddenSize, attentionBias, slot.attention, slot.o)
  if (!parallel) block.add(x, slot.o, slot.middle)
  block.layerNorm(names.mlpNorm, hiddenSize, normEps, parallel ? x : slot.middle, slot.mlpInput)
  linear(names.up, intermediateSize, hiddenSize, true, slot.mlpInput, slot.up)
  block.activate(traits.activation, slot.up, slot.activated)
  linear(names.down, hiddenSize, intermediateSize, true, slot.activated, slot.down)
  if (parallel) block.add(slot.o, slot.down, slot.both)
  block.add(parallel ? x : slot.middle, parallel ? slot.both : slot.down, x)
  return block.build()
}

/** The MLP's activation lies between its linears: nothing can be moved through it. */
function scaleGroups({ hiddenSize, headDim }: ModelConfig, { names, interleaved }: LayerNormTraits): ScaleGroup[] {
  const norm = (module: string) => ({
    kind: "vector" as const,
    tensor: `${module}.weight`,
    bias: `${module}.bias`,
  })
  const rows = interleaved
    ? { begin: 2 * headDim, length: headDim, stride: 3 * headDim }
    : { begin: 2 * hiddenSize, length: hiddenSize, stride: hiddenSize }
  const plain = { repeat: 1, blockWidth: 1 }
  return [
    { source: norm(names.attentionNorm), targets: [names.qkv], ...plain },
    { source: { kind: "linear", module: names.qkv, rows }, targets: [names.attentionOut], ...plain },
    { source: norm(names.mlpNorm), targets: [names.up], ...plain },
  ]
}
