// Projections that a checkpoint holds in one matrix: qkv_proj and gate_up_proj of Phi-3. Their modules stay whole, so that
// quantized checkpoints keep the names that engines know; the program cuts what they compute.
import type { SectionBuilder } from "./builder.ts"
import type { ModelConfig, ScaleGroup } from "./program.ts"

interface QkvSlots {
  attentionInput: number
  qkv: number
  q: number
  k: number
  v: number
}

/** Rows of qkv_proj: all of q, all of k, all of v. */
export function addFusedQkv(block: SectionBuilder, config: ModelConfig, slot: QkvSlots): void {
  const { hiddenSize, heads, kvHeads, headDim } = config
  const [query, key] = [heads * headDim, kvHeads * headDim]
  const width = query + 2 * key
  block.linear("self_attn.qkv_proj", width, hiddenSize, false, slot.attentionInput, slot.qkv)
  block.columns(0, 1, query, query, slot.qkv, slot.q)
  block.columns(query, 1, key, key, slot.qkv, slot.k)
  block.columns(query + key, 1, key, key, slot.qkv, slot.v)
}

interface GateUpSlots {
  mlpInput: number
  gateUp: number
  gate: number
  up: number
}

/** Rows of gate_up_proj: the gate's before the others. */
export function addFusedGateUp(block: SectionBuilder, config: ModelConfig, slot: GateUpSlots): void {
  const { hiddenSize, intermediateSize: size } = config
  block.linear("mlp.gate_up_proj", 2 * size, hiddenSize, false, slot.mlpInput, slot.gateUp)
  block.columns(0, 1, size, size, slot.gateUp, slot.gate)
  block.columns(size, 1, size, size, slot.gateUp, slot.up)
}

/** As of single projections, with the rows of v and of up within their matrices. */
export function fusedScaleGroups({ heads, kvHeads, headDim, intermediateSize: size }: ModelConfig): ScaleGroup[] {
  const key = kvHeads * headDim
  const values = { begin: heads * headDim + key, length: key, stride: key }
  const plain = { repeat: 1, blockWidth: 1 }
  return [
    { source: { kind: "vector", tensor: "input_layernorm.weight" }, targets: ["self_attn.qkv_proj"], ...plain },
    {
      source: { kind: "linear", module: "self_attn.qkv_proj", rows: values },
      targets: ["self_attn.o_proj"],
      repeat: heads / kvHeads,
      blockWidth: headDim,
    },
    { source: { kind: "vector", tensor: "post_attention_layernorm.weight" }, targets: ["mlp.gate_up_proj"], ...plain },
    {
      source: { kind: "linear", module: "mlp.gate_up_proj", rows: { begin: size, length: size, stride: size } },
      targets: ["mlp.down_proj"],
      ...plain,
    },
  ]
}
