// The mixture of experts that takes the place of a block's MLP: a router chooses few of many MLPs for every row.
import type { SectionBuilder, Slots } from "./builder.ts"
import type { ActivationCode } from "./config.ts"
import type { ModelConfig, ScaleGroup } from "./program.ts"

/** What tells one mixture from another. */
export interface ExpertTraits {
  count: number
  /** Experts that a row goes through. */
  perToken: number
  /** Whether the shares of the chosen ones are made to sum to 1; the softmax over all experts comes first. */
  renormalize: boolean
  intermediateSize: number
  /** By layer: whether it has experts; the others have an ordinary MLP. */
  layers: readonly boolean[]
  /** Names relative to the block. */
  router: string
  module(expert: number, part: "gate" | "up" | "down"): string
}

export function withExperts(config: ModelConfig, traits: ExpertTraits): ModelConfig {
  const { count, perToken, intermediateSize, layers } = traits
  return layers.some(Boolean) ? { ...config, experts: { count, perToken, intermediateSize } } : config
}

/** Grouped slots hold every pair of a row and one of its experts: perToken times as wide as one row. */
export function allocateExpertSlots(slots: Slots, hiddenSize: number, traits: ExpertTraits) {
  const { count, perToken, intermediateSize } = traits
  return {
    scores: slots.add(count),
    routes: slots.add(count),
    gathered: slots.add(perToken * hiddenSize),
    gate: slots.add(perToken * intermediateSize),
    up: slots.add(perToken * intermediateSize),
    activated: slots.add(perToken * intermediateSize),
    down: slots.add(perToken * hiddenSize),
    combined: slots.add(hiddenSize),
  }
}

/** Adds the operations from the normalised input to the sum of the experts' outputs, and returns that slot. */
export function addExperts(
  block: SectionBuilder,
  slot: ReturnType<typeof allocateExpertSlots>,
  hiddenSize: number,
  activation: ActivationCode,
  traits: ExpertTraits,
  input: number,
): number {
  const { count, perToken, intermediateSize, renormalize } = traits
  const modules = (part: "gate" | "up" | "down") => Array.from({ length: count }, (_, e) => traits.module(e, part))
  const kept = "router, kept: a choice of experts is not to be rounded"
  block.router(traits.router, count, hiddenSize, input, slot.scores, kept)
  block.route(perToken, renormalize, slot.scores, slot.routes)
  block.gather(perToken, input, slot.routes, slot.gathered)
  block.experts(modules("gate"), intermediateSize, hiddenSize, perToken, slot.gathered, slot.routes, slot.gate)
  block.experts(modules("up"), intermediateSize, hiddenSize, perToken, slot.gathered, slot.routes, slot.up)
  block.gated(activation, slot.gate, slot.up, slot.activated)
  block.experts(modules("down"), hiddenSize, intermediateSize, perToken, slot.activated, slot.routes, slot.down)
  block.combine(perToken, slot.down, slot.routes, slot.combined)
  return slot.combined
}

/** The router reads what the experts read, and takes the scale as they do. */
export function expertScaleGroups(traits: ExpertTraits): ScaleGroup[] {
  const experts = Array.from({ length: traits.count }, (_, e) => e)
  return [
    {
      source: { kind: "vector", tensor: "post_attention_layernorm.weight" },
      targets: [traits.router, ...experts.flatMap(e => [traits.module(e, "gate"), traits.module(e, "up")])],
      repeat: 1,
      blockWidth: 1,
    },
    ...experts.map(
      (e): ScaleGroup => ({
        source: { kind: "linear", module: traits.module(e, "up") },
        targets: [traits.module(e, "down")],
        repeat: 1,
        blockWidth: 1,
        expert: e,
      }),
    ),
  ]
}
