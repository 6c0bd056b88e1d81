// A config.json as the metadata of a GGUF file of the same model, without the tokenizer's keys.
// Source of keys: ggml-org/llama.cpp, convert_hf_to_gguf.py and src/llama-model.cpp.
import { f32, string, u32 } from "../containers/gguf-fields.ts"
import type { GgufValue } from "../containers/gguf-types.ts"
import { TsqError } from "../core/errors.ts"
import { parseDecoderConfig } from "./config.ts"
import { ggufArchitectures } from "./gguf-config.ts"
import type { ModelProgram, Op } from "./program.ts"
import { describeModel } from "./registry.ts"
import { describeRope, type Rope, yarnMagnitude } from "./rope.ts"

export interface GgufConfigOptions {
  /** general.name. */
  name: string
  /** general.file_type: what most tensors are stored as (0 F32, 1 F16, 32 BF16, others quantized). */
  fileType: number
}

export interface GgufConfig {
  metadata: Map<string, GgufValue>
  /** f32 [headDim / 2], to be stored as a tensor "rope_freqs.weight"; null where the model has none. */
  ropeFactors: Float32Array | null
}

/** Types that file_type has for files without quantized tensors. */
const plainTypes: readonly number[] = [0, 1, 32]

/** ERR_UNSUPPORTED, with the reason, for what llama.cpp cannot compute from a GGUF file; otherwise as describeModel. */
export function ggufOfConfig(config: Record<string, unknown>, { name, fileType }: GgufConfigOptions): GgufConfig {
  const program = describeModel(config)
  const { config: model } = program
  // Mistral's tensors are a llama's.
  const architecture = model.architecture === "mistral" ? "llama" : model.architecture
  if (!ggufArchitectures.includes(architecture)) refuse(`the architecture ${JSON.stringify(model.architecture)}`)
  checkProgram(program, architecture)
  const { keys } = parseDecoderConfig(config, { headDim: model.headDim, normEps: 0, maxPositions: model.maxContext })
  const context = keys.max_position_embeddings ?? model.maxContext
  const rope = describeRope(keys, model.headDim, context)
  const scaling = keys.rope_parameters ?? keys.rope_scaling ?? {}
  if (rope.factors && architecture !== "llama")
    refuse(`rope type ${JSON.stringify(scaling.rope_type)}, for which only architecture "llama" has a tensor in GGUF`)
  const values: Record<string, GgufValue> = {
    context_length: u32(context),
    embedding_length: u32(model.hiddenSize),
    block_count: u32(model.layers),
    feed_forward_length: u32(model.intermediateSize),
    "attention.head_count": u32(model.heads),
    "attention.head_count_kv": u32(model.kvHeads),
    "attention.key_length": u32(model.headDim),
    "attention.value_length": u32(model.headDim),
    "attention.layer_norm_rms_epsilon": f32(model.normEps),
    "rope.dimension_count": u32(model.headDim),
    "rope.freq_base": f32(Number(scaling.rope_theta ?? keys.rope_theta ?? 10000)),
    ...ropeFields(scaling, rope, context),
    vocab_size: u32(model.vocabularySize),
  }
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", string(architecture)],
    ["general.type", string("model")],
    ["general.name", string(name)],
    ["general.file_type", u32(fileType)],
    ...Object.entries(values).map(([key, value]): [string, GgufValue] => [`${architecture}.${key}`, value]),
  ])
  if (!plainTypes.includes(fileType)) metadata.set("general.quantization_version", u32(2))
  return { metadata, ropeFactors: rope.factors }
}

function refuse(what: string): never {
  throw new TsqError("ERR_UNSUPPORTED", `config.json: the model has ${what}; it cannot be written as GGUF`)
}

const opsOf = (program: ModelProgram, kind: Op["kind"]) =>
  program.sections.flatMap(({ ops }) => ops.filter(op => op.kind === kind))

/** What GGUF has no key or tensor for. The numbers are those of native/program/program.h. */
function checkProgram(program: ModelProgram, architecture: string): void {
  const { maxContext, headDim } = program.config
  for (const { p } of opsOf(program, "attention")) {
    const window = p[4]!
    if (window > 0 && window < maxContext)
      refuse(
        `a sliding window of ${window}, which llama.cpp ignores in this architecture: set "sliding_window" to null in config.json to have it ignored`,
      )
  }
  for (const { p } of opsOf(program, "rope"))
    if (p[2] !== headDim)
      refuse(`a rotary embedding of ${p[2]} of ${headDim} elements, and llama.cpp turns whole heads`)
  for (const { p } of opsOf(program, "gated"))
    if (p[0] !== 0) refuse("an activation that is not SiLU, which is the only one of this architecture in llama.cpp")
  if (architecture === "llama") return
  const mayHave = architecture === "qwen2" ? /self_attn\.[qkv]_proj/ : /^$/
  for (const { weights } of program.sections)
    for (const slot of weights)
      if (slot.kind === "linear" && slot.bias !== null && !mayHave.test(slot.module))
        refuse(`a bias of ${slot.module}, for which architecture "${architecture}" has no tensor in llama.cpp`)
}

/** Scaling that is not frequency factors. */
function ropeFields(scaling: Record<string, unknown>, rope: Rope, context: number): Record<string, GgufValue> {
  const type = scaling.rope_type ?? scaling.type ?? "default"
  // describeRope has checked the numbers.
  const number = (key: string) => (typeof scaling[key] === "number" ? (scaling[key] as number) : null)
  if (type === "linear") return { "rope.scaling.type": string("linear"), "rope.scaling.factor": f32(number("factor")!) }
  if (type !== "yarn") return {}
  if (scaling.truncate === false) refuse("yarn scaling with truncate false, for which GGUF has no key")
  for (const [key, only] of [["beta_fast", 32] as const, ["beta_slow", 1] as const])
    if ((number(key) ?? only) !== only)
      refuse(`yarn scaling with ${key} ${number(key)}, and llama.cpp takes ${only} in this architecture`)
  const original = number("original_max_position_embeddings")
  const factor = number("factor") ?? context / original!
  const attention = rope.attentionFactor / yarnMagnitude(factor, 1)
  return {
    "rope.scaling.type": string("yarn"),
    "rope.scaling.factor": f32(factor),
    ...(original === null ? {} : { "rope.scaling.original_context_length": u32(original) }),
    ...(attention === 1 ? {} : { "rope.scaling.attn_factor": f32(attention) }),
  }
}
