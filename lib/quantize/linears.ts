// The linears of a model's blocks.
import type { ModelProgram, WeightSlot } from "../models/program.ts"

export type LinearSlot = Extract<WeightSlot, { kind: "linear" }>

export const linearsOf = (program: ModelProgram, layer: number): LinearSlot[] =>
  program.sections[program.blocks[layer]!]!.weights.filter((slot): slot is LinearSlot => slot.kind === "linear")
