// The architectures that can be run, by model_type.
import { TsqError } from "../core/errors.ts"
import { describe, listChoices } from "../core/options.ts"
import { llama } from "./llama.ts"
import { mistral } from "./mistral.ts"
import { mixtral } from "./mixtral.ts"
import type { ModelProgram } from "./program.ts"
import { qwen2 } from "./qwen2.ts"
import { qwen3 } from "./qwen3.ts"
import { qwen3Moe } from "./qwen3-moe.ts"

const architectures = new Map<string, (config: Record<string, unknown>) => ModelProgram>([
  ["llama", llama],
  ["mistral", mistral],
  ["mixtral", mixtral],
  ["qwen2", qwen2],
  ["qwen3", qwen3],
  ["qwen3_moe", qwen3Moe],
])

export const supportedArchitectures: readonly string[] = [...architectures.keys()]

/** The program of a parsed config.json. ERR_UNSUPPORTED for another architecture, ERR_FORMAT for a key that does not fit. */
export function describeModel(config: Record<string, unknown>): ModelProgram {
  const type = config.model_type
  const build = typeof type === "string" ? architectures.get(type) : undefined
  if (build) return build(config)
  throw new TsqError(
    "ERR_UNSUPPORTED",
    `config.json: model_type is ${type === undefined ? "missing" : describe(type)}; supported architectures are ${listChoices(supportedArchitectures)}`,
  )
}
