// Llama, Mistral, Mixtral and the Qwen families: what their GGUF files say.
import { f32, u32 } from "../containers/gguf-fields.ts"
import type { GgufValue } from "../containers/gguf-types.ts"
import { parseDecoderConfig } from "./config.ts"
import {
  checkActivation,
  checkBiases,
  checkWholeHeads,
  type FamilyFields,
  opsOf,
  refuse,
  rmsFields,
  ropeBase,
  ropeFields,
  windowsOf,
} from "./gguf-config-writer-program.ts"
import { ropeNames } from "./gguf-names.ts"
import type { ModelProgram } from "./program.ts"
import { describeRope } from "./rope.ts"

export function llamaFields(program: ModelProgram, architecture: string): FamilyFields {
  const { config: model } = program
  checkProgram(program, architecture)
  const { keys } = parseDecoderConfig(model.raw, { headDim: model.headDim, normEps: 0, maxPositions: model.maxContext })
  const context = keys.max_position_embeddings ?? model.maxContext
  const rope = describeRope(keys, model.headDim, context)
  const scaling = keys.rope_parameters ?? keys.rope_scaling ?? {}
  if (rope.factors && architecture !== "llama")
    refuse(`rope type ${JSON.stringify(scaling.rope_type)}, for which only architecture "llama" has a tensor in GGUF`)
  const values: Record<string, GgufValue> = {
    context_length: u32(context),
    ...rmsFields(model),
    "rope.dimension_count": u32(model.headDim),
    "rope.freq_base": f32(ropeBase(keys, model.architecture === "mixtral" ? 1e6 : 10000)),
    ...ropeFields(keys, rope, context),
    ...expertFields(program, architecture),
  }
  return { values, ...(rope.factors && { computed: new Map([[ropeNames.factors, rope.factors]]) }) }
}

function expertFields(program: ModelProgram, architecture: string): Record<string, GgufValue> {
  const { experts } = program.config
  if (!experts) {
    if (architecture === "qwen3moe") refuse("no layer with experts, which this architecture has to have in llama.cpp")
    return {}
  }
  if (program.blocks.some(block => !program.sections[block]!.ops.some(op => op.kind === "experts")))
    refuse(
      "layers without experts beside those with them, and llama.cpp has experts in all layers of this architecture",
    )
  if (opsOf(program, "route").some(({ p }) => p[1] === 0))
    refuse(
      `shares of experts that do not sum to 1 (norm_topk_prob false), and llama.cpp makes them do so in this architecture`,
    )
  return {
    expert_count: u32(experts.count),
    expert_used_count: u32(experts.perToken),
    ...(architecture === "qwen3moe" && { expert_feed_forward_length: u32(experts.intermediateSize) }),
  }
}

/** What GGUF has no key or tensor for. */
function checkProgram(program: ModelProgram, architecture: string): void {
  const [window] = windowsOf(program)
  if (window !== undefined)
    refuse(
      `a sliding window of ${window}, which llama.cpp ignores in this architecture: set "sliding_window" to null in config.json to have it ignored`,
    )
  checkWholeHeads(program)
  checkActivation(program, 0, "SiLU")
  if (architecture !== "llama")
    checkBiases(program, architecture, architecture === "qwen2" ? /self_attn\.[qkv]_proj/ : /^$/)
}
