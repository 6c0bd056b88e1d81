// The linears of a model's blocks, which of them share an input, and which of them engines fuse.
import type { ModelProgram, Section, WeightSlot } from "../models/program.ts"

export type LinearSlot = Extract<WeightSlot, { kind: "linear" }>

export const linearsOf = (program: ModelProgram, layer: number): LinearSlot[] =>
  program.sections[program.blocks[layer]!]!.weights.filter((slot): slot is LinearSlot => slot.kind === "linear")

export interface Stage {
  /** First op that reads the slot. */
  op: number
  slot: number
  /** Columns of the linears. */
  k: number
  modules: string[]
  /** Where the slot is grouped by routes: their slot, and the modules of every expert. */
  experts: { routes: number; modules: ReadonlyMap<number, string[]> } | null
  /** The linear whose output the next operation adds to another slot, as a rule the residual stream; null where there is none. */
  addend: { module: string; stream: number } | null
}

/** Linears of a section grouped by the slot they read, in program order. */
export function stages(section: Section): Stage[] {
  const result: Stage[] = []
  section.ops.forEach((op, index) => {
    if (op.kind !== "linear" && op.kind !== "experts") return
    const linears = op.weights.map(weight => section.weights[weight]!).filter(slot => slot.kind === "linear")
    let stage = result.find(stage => stage.slot === op.in[0])
    if (!stage) {
      const experts = op.kind === "experts" ? { routes: op.in[1]!, modules: new Map<number, string[]>() } : null
      stage = { op: index, slot: op.in[0]!, k: linears[0]!.k, modules: [], experts, addend: null }
      result.push(stage)
    }
    const stream = op.kind === "linear" ? addedTo(section, index) : undefined
    if (stream !== undefined) stage.addend = { module: linears[0]!.module, stream }
    for (const { module, expert } of linears) {
      stage.modules.push(module)
      if (expert === undefined || !stage.experts) continue
      const own = stage.experts.modules as Map<number, string[]>
      own.set(expert, [...(own.get(expert) ?? []), module])
    }
  })
  return result
}

/** The slot that the next operation adds the output of this one to. */
function addedTo({ ops }: Section, index: number): number | undefined {
  const next = ops[index + 1]
  const { out } = ops[index]!
  return next?.kind === "add" && next.in.includes(out) ? next.in.find(slot => slot !== out) : undefined
}

/**
 * Linears of a block that engines fuse into one matrix or layer, which has one scheme, by their names within the block, in the order of the
 * program: those that read the same input (q, k, v; gate, up), and all of all experts. A linear that is fused with none is a group of one.
 */
export function fusedGroups(program: ModelProgram, layer: number): string[][] {
  const groups = new Map<string, string[]>()
  for (const { slot, modules, experts } of stages(program.sections[program.blocks[layer]!]!)) {
    const key = experts ? `experts ${experts.routes}` : `input ${slot}`
    groups.set(key, [...(groups.get(key) ?? []), ...modules])
  }
  return [...groups.values()]
}
