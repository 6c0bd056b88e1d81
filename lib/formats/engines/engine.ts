// What is asked about a stored model before an engine is tried on it, and the shape of the answers.
import type { GgufMetadata } from "../../containers/gguf-types.ts"
import type { Scheme } from "../../core/scheme.ts"

export type EngineName = "vllm" | "sglang" | "transformers" | "llama.cpp" | "onnxruntime"

export interface EngineFinding {
  engine: EngineName
  /** A module or tensor by its name, or null. */
  tensor: string | null
  /** A key of the configuration or of the metadata, "format", or null. */
  setting: string | null
  reason: string
  /** "refused": it does not load, or computes something else. "slow": it runs after a detour, or not on the fast kernels. "ignored": without effect there. */
  severity: "refused" | "slow" | "ignored"
}

/** A quantized module as a format reads it. */
export interface StoredModule {
  name: string
  shape: readonly [number, number]
  scheme: Scheme
  groupIndex: boolean
}

export interface StoredModel {
  /** A checkpoint format's name, "dense" or "gguf". */
  format: string
  /** model_type, or general.architecture. */
  architecture: string
  /** config.json as text; null for a GGUF file. */
  configText: string | null
  /** quantization_config. */
  settings: Record<string, unknown> | null
  modules: readonly StoredModule[]
  /** What is not quantized (of a GGUF file: all tensors). */
  tensors: readonly { name: string; shape: readonly number[]; type: string }[]
  metadata: GgufMetadata | null
}

type Answer = Omit<EngineFinding, "engine" | "tensor" | "setting">
export const refused = (reason: string): Answer => ({ reason, severity: "refused" })
export const slow = (reason: string): Answer => ({ reason, severity: "slow" })
export const ignored = (reason: string): Answer => ({ reason, severity: "ignored" })

/** Rules for one format: of every module, and of the model as a whole. null: nothing to say. */
export interface FormatRules {
  module?: (module: StoredModule, model: StoredModel) => (Answer | null)[]
  model?: (model: StoredModel) => (Named | null)[]
}
type Named = Answer & { setting?: string; tensor?: string }

export const on = (setting: string, answer: Answer | null): Named | null => answer && { ...answer, setting }
export const of = (tensor: string, answer: Answer): Named => ({ ...answer, tensor })

export interface Engine {
  name: EngineName
  /** By format; a format without rules is loaded as it is. */
  formats: Readonly<Record<string, FormatRules>>
  /** Of every format. */
  always?: FormatRules
  /** Of formats that are not named. */
  otherwise?: FormatRules
}

export function findingsOf({ name, formats, always, otherwise }: Engine, model: StoredModel): EngineFinding[] {
  const own = Object.hasOwn(formats, model.format) ? formats[model.format]! : (otherwise ?? {})
  const found: EngineFinding[] = []
  for (const rules of [own, always ?? {}]) {
    for (const answer of rules.model?.(model) ?? [])
      if (answer) found.push({ engine: name, tensor: null, setting: null, ...answer })
    for (const module of model.modules)
      for (const answer of rules.module?.(module, model) ?? [])
        if (answer) found.push({ engine: name, tensor: module.name, setting: null, ...answer })
  }
  return found
}

/** Columns of a group as files say it: -1 for one a row. */
export const groupOf = ({ scheme }: StoredModule): number => (scheme.granularity === "group" ? scheme.groupSize : -1)

const fusions = [
  ["self_attn.", ["q_proj", "k_proj", "v_proj"]],
  ["mlp.", ["gate_proj", "up_proj"]],
] as const

/** For engines that merge q, k and v, gate and up, and all experts of a block: all parts need the same numbers, or none. */
export function unequalParts(model: StoredModel): Named[] {
  const modules = new Map(model.modules.map(module => [module.name, module]))
  const linears = new Set([...modules.keys(), ...model.tensors.map(({ name }) => name.replace(/\.weight$/, ""))])
  const found: Named[] = []
  for (const [parent, parts] of fusions)
    for (const first of linears) {
      if (!first.endsWith(`${parent}${parts[0]}`)) continue
      const prefix = first.slice(0, -parts[0].length)
      const kinds = parts.map(part => kindOf(modules.get(prefix + part)))
      if (new Set(kinds).size > 1)
        found.push(
          of(
            prefix + parts.join("|"),
            refused(
              `they are merged into one layer and differ: ${kinds.map((kind, i) => `${parts[i]} ${kind}`).join(", ")}`,
            ),
          ),
        )
    }
  return [...found, ...unequalExperts(modules, linears)]
}

/** vLLM: get_moe_method of quantization/compressed_tensors/compressed_tensors_moe/compressed_tensors_moe.py, which asks for expert 0 alone. */
function unequalExperts(modules: ReadonlyMap<string, StoredModule>, linears: ReadonlySet<string>): Named[] {
  const kinds = new Map<string, Map<string, string>>()
  for (const name of linears) {
    const [, experts] = /^(.*\.experts)\.\d+\./.exec(name) ?? []
    if (!experts) continue
    const found = kinds.get(experts) ?? new Map<string, string>()
    kinds.set(experts, found)
    const kind = kindOf(modules.get(name))
    if (!found.has(kind)) found.set(kind, name.slice(experts.length + 1))
  }
  return [...kinds].flatMap(([experts, found]) =>
    found.size < 2
      ? []
      : [
          of(
            experts,
            refused(
              `all experts are merged into one layer and differ: ${[...found].map(([kind, part]) => `${part} ${kind}`).join(", ")}`,
            ),
          ),
        ],
  )
}

function kindOf(module: StoredModule | undefined): string {
  if (!module) return "not quantized"
  const { bits, symmetric, codebook } = module.scheme
  return `${codebook ?? `${bits} bits`} group ${groupOf(module)} ${symmetric ? "symmetric" : "asymmetric"}`
}
