// A config.json as the metadata of a GGUF file of the same model, without the tokenizer's keys.
// Source of keys: ggml-org/llama.cpp, conversion/*.py (convert_hf_to_gguf.py before) and src/llama-model.cpp.
import { string, u32 } from "../containers/gguf-fields.ts"
import type { GgufValue } from "../containers/gguf-types.ts"
import { ggufArchitectures } from "./gguf-config.ts"
import { gemma2Fields, gemma3Fields, gpt2Fields, neoxFields, phi3Fields } from "./gguf-config-writer-families.ts"
import { llamaFields } from "./gguf-config-writer-llama.ts"
import { type FamilyFields, refuse } from "./gguf-config-writer-program.ts"
import { ggufArchitectureOf } from "./gguf-layout.ts"
import type { ModelProgram } from "./program.ts"
import { describeModel } from "./registry.ts"

export interface GgufConfigOptions {
  /** general.name. */
  name: string
  /** general.file_type: what most tensors are stored as (0 F32, 1 F16, 32 BF16, others quantized). */
  fileType: number
  /** Whether the checkpoint holds a tensor, as describeModel takes it. */
  has?: (tensor: string) => boolean
}

export interface GgufConfig {
  metadata: Map<string, GgufValue>
  /** Tensors that no checkpoint has, by their names in the file: f32 vectors (isRopeFactors). */
  computed: ReadonlyMap<string, Float32Array>
  /** What llama.cpp does not do as the model does, one sentence each. */
  notes: string[]
}

const families: Readonly<Record<string, (program: ModelProgram, architecture: string) => FamilyFields>> = {
  llama: llamaFields,
  qwen2: llamaFields,
  qwen3: llamaFields,
  qwen3moe: llamaFields,
  gemma2: gemma2Fields,
  gemma3: gemma3Fields,
  gpt2: gpt2Fields,
  gptneox: neoxFields,
  phi3: phi3Fields,
}

/** Types that file_type has for files without quantized tensors. */
const plainTypes: readonly number[] = [0, 1, 32]

/** ERR_UNSUPPORTED, with the reason, for what llama.cpp cannot compute from a GGUF file; otherwise as describeModel. */
export function ggufOfConfig(config: Record<string, unknown>, { name, fileType, has }: GgufConfigOptions): GgufConfig {
  const program = describeModel(config, has)
  const { config: model } = program
  const architecture = ggufArchitectureOf(model.architecture)
  if (!ggufArchitectures.includes(architecture)) refuse(`the architecture ${JSON.stringify(model.architecture)}`)
  const { values, computed = new Map(), notes = [] } = families[architecture]!(program, architecture)
  const shared: Record<string, GgufValue> = {
    embedding_length: u32(model.hiddenSize),
    block_count: u32(model.layers),
    feed_forward_length: u32(model.intermediateSize),
    "attention.head_count": u32(model.heads),
    "attention.head_count_kv": u32(model.kvHeads),
    ...values,
    vocab_size: u32(model.vocabularySize),
  }
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", string(architecture)],
    ["general.type", string("model")],
    ["general.name", string(name)],
    ["general.file_type", u32(fileType)],
    ...Object.entries(shared).map(([key, value]): [string, GgufValue] => [`${architecture}.${key}`, value]),
  ])
  if (!plainTypes.includes(fileType)) metadata.set("general.quantization_version", u32(2))
  return { metadata, computed, notes: [...notes] }
}
