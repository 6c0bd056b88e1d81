// The engines by name.
import { TsqError } from "../../core/errors.ts"
import { describe, listChoices } from "../../core/options.ts"
import { type Engine, type EngineFinding, type EngineName, findingsOf, type StoredModel } from "./engine.ts"
import { llamaCpp } from "./llama-cpp.ts"
import { onnxruntime } from "./onnxruntime.ts"
import { sglang } from "./sglang.ts"
import { transformers } from "./transformers.ts"
import { vllm } from "./vllm.ts"

const engines: readonly Engine[] = [vllm, sglang, transformers, llamaCpp, onnxruntime]

export const engineNames: readonly EngineName[] = engines.map(({ name }) => name)

/** Names in the order given, each once. ERR_OPTION for anything else. */
export function checkEngines(names: unknown, caller: string): EngineName[] {
  if (!Array.isArray(names) || names.length === 0 || !names.every(name => engineNames.includes(name)))
    throw new TsqError(
      "ERR_OPTION",
      `${caller}: for is ${Array.isArray(names) ? JSON.stringify(names) : describe(names)}, expected engines among ${listChoices(engineNames)}`,
    )
  return [...new Set(names as EngineName[])]
}

/** What each engine would refuse, run slowly or ignore; nothing where it loads the model as it is. */
export const judge = (names: readonly EngineName[], model: StoredModel): EngineFinding[] =>
  names.flatMap(name => findingsOf(engines.find(engine => engine.name === name) as Engine, model))
