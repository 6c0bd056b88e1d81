// The linears of a model's blocks, and which of them engines fuse.
import type { ModelProgram, WeightSlot } from "../models/program.ts"

export type LinearSlot = Extract<WeightSlot, { kind: "linear" }>

export const linearsOf = (program: ModelProgram, layer: number): LinearSlot[] =>
  program.sections[program.blocks[layer]!]!.weights.filter((slot): slot is LinearSlot => slot.kind === "linear")

/**
 * Linears of a block that read the same input, by their names within the block, in the order of the program: engines fuse them (q, k, v;
 * gate, up) into one matrix, which has one scheme. A linear that shares its input with none is a group of one.
 */
export function fusedGroups(program: ModelProgram, layer: number): string[][] {
  const section = program.sections[program.blocks[layer]!]!
  const byInput = new Map<number, string[]>()
  for (const op of section.ops) {
    const slot = op.kind === "linear" ? section.weights[op.weights[0]!] : undefined
    if (slot?.kind === "linear") byInput.set(op.in[0]!, [...(byInput.get(op.in[0]!) ?? []), slot.module])
  }
  return [...byInput.values()]
}
