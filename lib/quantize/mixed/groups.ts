// The groups of linears that a mixture gives one scheme each, and what each scheme would cost there.
import type { Checkpoint } from "../../containers/checkpoint.ts"
import { TsqError } from "../../core/errors.ts"
import { bitsPerWeight, type Scheme } from "../../core/scheme.ts"
import type { ModelProgram } from "../../models/program.ts"
import { fusedGroups, linearsOf } from "../linears.ts"
import { matches, type PlannedModule, planModule, scaleTypeOf } from "../plan.ts"
import type { Recipe } from "../recipe.ts"
import { candidateName, defaultCandidates, type MixCandidate } from "./request.ts"

/** A candidate on a group. */
export interface GroupChoice {
  candidate: MixCandidate
  /** Scheme of every module; null: unquantized. */
  schemes: readonly (Scheme | null)[]
  /** Of all modules together, scales and zero points included. */
  bits: number
}

export interface LinearGroup {
  layer: number
  /** Full names, and shapes [n, k]. */
  modules: readonly string[]
  /** What matches them and nothing else that has no scheme yet: of experts one pattern for all. */
  patterns: readonly string[]
  shapes: readonly (readonly [number, number])[]
  weights: number
  choices: readonly GroupChoice[]
}

/**
 * Linears that engines fuse, block by block, without those that the caller's overrides and ignores speak of, and without routers. All linears of
 * all experts of a block are one group: vLLM and SGLang run them as one layer, and refuse gate, up and down of different schemes
 * (get_moe_method of vllm/model_executor/layers/quantization/compressed_tensors/compressed_tensors_moe/compressed_tensors_moe.py; of GPTQ's
 * files get_moe_quant_method of auto_gptq.py, which looks up the layer's settings once). ERR_UNSUPPORTED where the
 * format holds none of the candidates on a group, or where one of those that the caller named fits no group at all.
 */
export function linearGroups(
  checkpoint: Checkpoint,
  program: ModelProgram,
  recipe: Recipe,
  named: readonly MixCandidate[] | null,
): LinearGroup[] {
  const scaleBits = scaleTypeOf(recipe.format, program) === "f32" ? 32 : 16
  const candidates = named ?? defaultCandidates(recipe.groupSize, scaleBits)
  const decided = [...recipe.ignore, ...recipe.overrides.map(({ pattern }) => pattern)]
  const refusals = new Map<string, string>()
  const groups: LinearGroup[] = []
  for (let layer = 0; layer < program.blocks.length; layer++) {
    const prefix = program.blockPrefix(layer)
    const slots = new Map(linearsOf(program, layer).map(slot => [slot.module, slot]))
    for (const names of fusedGroups(program, layer)) {
      const free = names.filter(
        name => !slots.get(name)!.kept && !decided.some(pattern => matches(pattern, prefix + name)),
      )
      if (free.length === 0) continue
      const modules = free.map(name => prefix + name)
      const shapes = free.map(name => [slots.get(name)!.n, slots.get(name)!.k] as const)
      const choices: GroupChoice[] = []
      for (const candidate of candidates) {
        const planned = modules.map((module, i) => planAs(candidate, module, layer, shapes[i]!, recipe, program))
        const refused = planned.find(entry => entry.refused)
        if (refused) refusals.set(candidateName(candidate), `${refused.module}: ${refused.reason}`)
        else choices.push({ candidate, schemes: planned.map(entry => entry.scheme), bits: bitsOf(planned, checkpoint) })
      }
      if (!choices.some(({ candidate }) => candidate.scheme !== "none"))
        throw new TsqError(
          "ERR_UNSUPPORTED",
          `quantizeModel: no candidate fits ${modules.join(", ")}: ${[...refusals.values()].join("; ") || "none is a scheme"}`,
        )
      const isExperts = slots.get(free[0]!)!.expert !== undefined
      groups.push({
        ...{ layer, modules, shapes, choices },
        patterns: isExperts ? [`${prefix}${commonPrefix(names)}*`] : modules,
        weights: shapes.reduce((sum, [n, k]) => sum + n * k, 0),
      })
    }
  }
  if (groups.length === 0)
    throw new TsqError("ERR_OPTION", "quantizeModel: overrides and ignore leave no linear to choose a scheme for")
  for (const candidate of named ?? []) {
    const name = candidateName(candidate)
    if (!groups.some(group => group.choices.some(choice => candidateName(choice.candidate) === name)))
      throw new TsqError("ERR_UNSUPPORTED", `quantizeModel: candidate ${name} fits no linear: ${refusals.get(name)}`)
  }
  return groups
}

function commonPrefix(names: readonly string[]): string {
  const [first = "", ...rest] = names
  let length = first.length
  for (const name of rest) while (!name.startsWith(first.slice(0, length))) length--
  return first.slice(0, length)
}

/** The module as it would be planned under a candidate. Groups longer than its rows are refused. */
function planAs(
  { scheme, groupSize = undefined }: MixCandidate,
  module: string,
  layer: number,
  shape: readonly [number, number],
  recipe: Recipe,
  program: ModelProgram,
): PlannedModule {
  const size = groupSize ?? recipe.groupSize
  if (scheme !== "none" && typeof size === "number" && size > shape[1])
    return {
      ...{ module, layer, shape, scheme: null, refused: true },
      reason: `groups of ${size} are longer than its ${shape[1]} columns`,
    }
  const override = { pattern: module, scheme, ...(groupSize !== undefined && { groupSize }) }
  return planModule(module, layer, shape, { ...recipe, ignore: [], overrides: [override] }, program)
}

/** Bits of planned modules, of unquantized ones as the checkpoint has them. */
export function bitsOf(planned: readonly PlannedModule[], checkpoint: Checkpoint): number {
  let bits = 0
  for (const { module, shape, scheme } of planned)
    bits += scheme
      ? bitsPerWeight(scheme, shape, { zeros: !scheme.symmetric }) * shape[0] * shape[1]
      : checkpoint.entry(`${module}.weight`).bytes * 8
  return bits
}
