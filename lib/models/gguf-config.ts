// The metadata of a GGUF file as the config.json of the same model.
// Source of keys and defaults: ggml-org/llama.cpp, src/llama-model.cpp and src/llama-arch.cpp.
import { GgufFields } from "../containers/gguf-fields.ts"
import type { GgufMetadata } from "../containers/gguf-types.ts"
import { TsqError } from "../core/errors.ts"
import { describe, listChoices } from "../core/options.ts"
import { gemma2OfGguf, gemma3OfGguf, gpt2OfGguf, neoxOfGguf, phi3OfGguf } from "./gguf-config-families.ts"
import { llamaOfGguf } from "./gguf-config-llama.ts"
import { type GgufShape, type GgufTensors, readShape } from "./gguf-config-shape.ts"
import { endTokenIds, specialTokenId } from "./gguf-special.ts"

export type { GgufTensors } from "./gguf-config-shape.ts"

interface Family {
  read(shape: GgufShape): Record<string, unknown>
  /** Keys that count in this architecture. */
  keys?: readonly string[]
  /** Whether sliding windows count. llama.cpp lets all layers of the others see everything. */
  windows?: boolean
}

const expertKeys = ["expert_count", "expert_used_count"]

/** Architectures by their names in GGUF files; "llama" is Mistral as well, and Mixtral where it has experts. */
const families: Readonly<Record<string, Family>> = {
  llama: { read: llamaOfGguf, keys: expertKeys },
  qwen2: { read: llamaOfGguf },
  qwen3: { read: llamaOfGguf },
  qwen3moe: { read: llamaOfGguf, keys: [...expertKeys, "expert_feed_forward_length"] },
  gemma2: { read: gemma2OfGguf, keys: ["attn_logit_softcapping", "final_logit_softcapping"], windows: true },
  gpt2: { read: gpt2OfGguf },
  gptneox: { read: neoxOfGguf, keys: ["use_parallel_residual"] },
  phi3: { read: phi3OfGguf },
  gemma3: { read: gemma3OfGguf, keys: ["final_logit_softcapping"], windows: true },
}

export const ggufArchitectures: readonly string[] = Object.keys(families)

/** Whether llama.cpp lets every layer see everything, whatever a file of this architecture says of windows. */
export const ignoresWindows = (architecture: string): boolean =>
  ggufArchitectures.includes(architecture) && !families[architecture]!.windows

/** Keys of which one value only leaves the mathematics as it is: the key behind the architecture's name, and that value. */
const neutral: ReadonlyMap<string, number | boolean> = new Map<string, number | boolean>([
  ["expert_count", 0],
  ["expert_used_count", 0],
  ["attention.causal", true],
  ["use_parallel_residual", false],
  ["attention.clamp_kqv", 0],
  ["attention.max_alibi_bias", 0],
  ["attn_logit_softcapping", 0],
  ["final_logit_softcapping", 0],
  ["rope.scaling.yarn_log_multiplier", 0],
  ["rope.scaling.yarn_ext_factor", 1],
  ["rope.scaling.yarn_attn_factor", 1],
  // llama.cpp reads these in other architectures only.
  ["rope.scaling.yarn_beta_fast", 32],
  ["rope.scaling.yarn_beta_slow", 1],
])

/** Keys that are read in all architectures, and those that say nothing about the mathematics. */
const known: ReadonlySet<string> = new Set([
  ...["attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"],
  ...["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.scale"],
  ...["rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor"],
  ...["rope.scaling.original_context_length", "rope.scaling.attn_factor", "rope.scaling.finetuned"],
  ...["attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"],
])

/** Beginnings and endings of keys that belong to other mathematics than the one described here. */
const foreign =
  /^(attention|rope|expert|ssm|wkv|altup|laurel|moe)[._]|_(scale|softcapping)$|^(swin_norm|interleave_moe)/

/**
 * The equivalent config.json of a GGUF file's metadata, for describeModel. ERR_FORMAT, naming file, key, found and expected, for what
 * does not fit; ERR_UNSUPPORTED for other architectures and for every key that would change the mathematics.
 */
export function configOfGguf(metadata: GgufMetadata, tensors: GgufTensors, path: string): Record<string, unknown> {
  const fields = new GgufFields(metadata, path)
  const architecture = architectureOf(fields)
  const family = families[architecture]!
  checkForeign(fields, architecture, family.keys ?? [])
  return {
    ...family.read(readShape(fields, architecture, tensors)),
    bos_token_id: specialTokenId(fields, "bos"),
    eos_token_id: endTokenIds(fields),
  }
}

function architectureOf(fields: GgufFields): string {
  const type = fields.string("general.type", "model")
  if (type !== "model")
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${fields.path}: metadata general.type is ${describe(type)}, expected "model"; this file holds no language model by itself`,
    )
  const architecture = fields.string("general.architecture")
  if (!ggufArchitectures.includes(architecture))
    throw new TsqError(
      "ERR_UNSUPPORTED",
      `${fields.path}: metadata general.architecture is ${describe(architecture)}; supported architectures are ${listChoices(ggufArchitectures)}`,
    )
  return architecture
}

/** ERR_UNSUPPORTED for the first key that says that the model computes something else. */
function checkForeign(fields: GgufFields, architecture: string, own: readonly string[]): void {
  for (const full of fields.keys()) {
    if (!full.startsWith(`${architecture}.`)) continue
    const key = full.slice(architecture.length + 1)
    if (known.has(key) || own.includes(key)) continue
    const only = neutral.get(key)
    if (only === undefined && foreign.test(key))
      fields.fail(full, `no such key in a model of architecture ${describe(architecture)}`, "ERR_UNSUPPORTED")
    if (only === undefined) continue
    const value =
      typeof only === "boolean"
        ? fields.flag(full)
        : key.startsWith("expert")
          ? fields.integer(full)
          : fields.number(full)
    if (value !== only) fields.fail(full, `${only}: this version does not compute anything else`, "ERR_UNSUPPORTED")
  }
}
