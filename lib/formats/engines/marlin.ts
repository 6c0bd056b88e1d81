// What the Marlin kernels of vLLM and SGLang take. Source: vllm-project/vllm, vllm/model_executor/layers/quantization/utils/marlin_utils.py
// (GPTQ_MARLIN_MIN_THREAD_N, GPTQ_MARLIN_MIN_THREAD_K, MARLIN_SUPPORTED_GROUP_SIZES); SGLang's copy has the same numbers.
import { groupOf, on, refused, type StoredModel, type StoredModule, slow } from "./engine.ts"

export const marlinGroups: readonly number[] = [-1, 32, 64, 128]

/** Why Marlin does not take a module's shape. */
export function notMarlin(module: StoredModule): ReturnType<typeof slow> | null {
  const [n, k] = module.shape
  const group = groupOf(module)
  if (n % 64 !== 0)
    return slow(
      `n = ${n} is not a multiple of 64, as the Marlin kernels need; another kernel runs it where there is one`,
    )
  if (k % 128 !== 0)
    return slow(
      `k = ${k} is not a multiple of 128, as the Marlin kernels need; another kernel runs it where there is one`,
    )
  if (!marlinGroups.includes(group))
    return slow(`groups of ${group} columns are none of ${marlinGroups.join(", ")}, as the Marlin kernels need`)
  return null
}

/** AWQ's own kernels. Source: vllm-project/vllm, vllm/model_executor/layers/quantization/awq.py, create_weights. */
export function awqShape(module: StoredModule): ReturnType<typeof refused> | null {
  const [n, k] = module.shape
  const group = groupOf(module)
  if (group > 0 && k % group !== 0) return refused(`k = ${k} is not a multiple of the group size ${group}`)
  if (n % 8 !== 0) return refused(`n = ${n} is not a multiple of 8, the codes of a word`)
  return null
}

/** What an AWQ module has to be. */
export const awqModule = (module: StoredModule) => [
  module.scheme.bits === 4 ? null : refused(`${module.scheme.bits} bits: AWQ files have 4`),
  awqShape(module) ?? notMarlin(module),
]

/** AWQ's layouts have the same names, and an engine that reads one of them takes every file for it. `who` begins the reason. */
export const awqLayout = ({ settings }: StoredModel, who: string) =>
  on(
    "quantization_config.version",
    /^gemv/i.test(String(settings?.version ?? "gemm"))
      ? refused(`${who} for the GEMM layout: this one would give garbage`)
      : null,
  )
