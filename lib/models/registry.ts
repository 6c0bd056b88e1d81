// The architectures that can be run, by model_type.
import { TsqError } from "../core/errors.ts"
import { describe, listChoices } from "../core/options.ts"
import { gemma2 } from "./gemma2.ts"
import { gemma3, gemma3Text } from "./gemma3.ts"
import { gptNeox } from "./gpt-neox.ts"
import { gpt2 } from "./gpt2.ts"
import { llama } from "./llama.ts"
import { mistral } from "./mistral.ts"
import { phi3 } from "./phi3.ts"
import type { ModelProgram } from "./program.ts"
import { qwen2 } from "./qwen2.ts"
import { qwen3 } from "./qwen3.ts"

type HasTensor = (tensor: string) => boolean

const architectures = new Map<string, (config: Record<string, unknown>, has?: HasTensor) => ModelProgram>([
  ["gemma2", gemma2],
  ["gemma3", gemma3],
  ["gemma3_text", gemma3Text],
  ["gpt2", gpt2],
  ["gpt_neox", gptNeox],
  ["llama", llama],
  ["mistral", mistral],
  ["phi3", phi3],
  ["qwen2", qwen2],
  ["qwen3", qwen3],
])

export const supportedArchitectures: readonly string[] = [...architectures.keys()]

/**
 * The program of a parsed config.json. `has` tells whether the checkpoint holds a tensor, where names depend on who wrote it; without
 * it the usual ones are taken. ERR_UNSUPPORTED for another architecture, ERR_FORMAT for a key that does not fit.
 */
export function describeModel(config: Record<string, unknown>, has?: HasTensor): ModelProgram {
  const type = config.model_type
  const build = typeof type === "string" ? architectures.get(type) : undefined
  if (build) return build(config, has)
  throw new TsqError(
    "ERR_UNSUPPORTED",
    `config.json: model_type is ${type === undefined ? "missing" : describe(type)}; supported architectures are ${listChoices(supportedArchitectures)}`,
  )
}
