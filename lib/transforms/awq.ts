// AWQ (arXiv 2306.00978): per-channel scales that protect the columns whose inputs are large.
//
// For every scale group the inverse of s is folded into what produces the input (a norm's weight or the rows of a linear) and
// s into the columns of the linears that read it; the function stays the same, the rounding error does not. s is searched on
// the block's own output: candidates s = x^r / w^(1-r) ("duo scaling", x the root mean square of the input, w the mean
// relative magnitude of the column) and s = x^r, r in steps of 1/20, normalised to a geometric middle of 1. A candidate is tried by running
// the block from the first rounded linear on; groups are searched from the last to the first, so that everything in front of a
// group still holds what the original weights computed.
import { throwIfAborted } from "../core/errors.ts"
import { sharedFloats } from "../core/tensor.ts"
import type { PackedWeight } from "../kernels/packed-weight.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { ScaleGroup, Section } from "../models/program.ts"
import {
  type Candidate,
  Candidates,
  expand,
  type Found,
  firstSteps,
  foundFor,
  neighbours,
  type Observed,
  withRounded,
} from "./awq-candidates.ts"
import { searchExperts } from "./awq-experts.ts"
import type { Transform, TransformInput } from "./transform.ts"

export const awq: Transform = {
  name: "awq",
  async apply(input) {
    const { program, layer } = input
    const section = program.sections[program.blocks[layer]!]!
    const groups = program
      .scaleGroups(layer)
      .filter(group => group.targets.some(target => input.gridOf(target) !== null))
      .map(group => ({ group, op: firstLinear(section, group.targets) }))
      .sort((a, b) => b.op - a.op)
    const statistics: Observed[] = groups.map(({ group, op }) => {
      const [slot = 0, routes = 0] = section.ops[op]!.in
      const squares = new Accumulator("sumSquares", input.weights.shape(group.targets[0]!)[1])
      return { group, op, slot, squares, ...(group.expert !== undefined && { routes, expert: group.expert }) }
    })
    try {
      const experts = statistics.filter(({ expert }) => expert !== undefined)
      const expertOutput = experts.length > 0 ? section.ops[experts[0]!.op]!.out : null
      const { reference, expertReference } = await runBlock(input, statistics, expertOutput)
      const found: Found[] = []
      if (expertReference) found.push(...(await searchExperts(input, experts, expertReference)))
      for (const entry of statistics)
        if (entry.expert === undefined)
          found.push(await searchGroup(input, entry.group, entry.op, entry.squares, reference))
      // Scales are found with the original weights in place everywhere; folding them all afterwards keeps the function.
      for (const { group, scale } of found) if (scale) await fold(input, group, scale)
      return { transform: "awq", groups: found.map(entry => entry.report).reverse() }
    } finally {
      for (const { squares } of statistics) squares.dispose()
    }
  },
}

/** Runs the original block over the sample: collects input statistics, returns its output and what the experts' down projections
 * wrote to slot `expertOutput`. Leaves every slot filled. */
async function runBlock(
  input: TransformInput,
  statistics: readonly Observed[],
  expertOutput: number | null,
): Promise<{ reference: Float32Array; expertReference: Float32Array | null }> {
  const { program, runner, sample, bound, cache } = input
  const section = program.sections[program.blocks[input.layer]!]!
  const reference = sharedFloats(sample.rows * program.slots[0]!)
  const last = section.ops.length - 1
  const expertReference = expertOutput === null ? null : sharedFloats(sample.rows * program.slots[expertOutput]!)
  await runner.step({
    runs: [{ section: bound, layer: 0 }],
    rows: sample.rows,
    sequences: sample.sequences,
    cache,
    hidden: sample.hidden,
    observers: [
      ...statistics.map(({ op, slot, squares, routes, expert }) => ({
        run: 0,
        op: op - 1,
        slot,
        reduction: "sumSquares" as const,
        accumulator: squares.handle,
        ...(routes !== undefined && expert !== undefined && { routes, expert }),
      })),
      ...(expertReference && expertOutput !== null
        ? [{ run: 0, op: last, slot: expertOutput, reduction: "copy" as const, out: expertReference }]
        : []),
      { run: 0, op: last, slot: 0, reduction: "copy", out: reference },
    ],
    signal: input.signal,
  })
  return { reference, expertReference }
}

async function searchGroup(
  input: TransformInput,
  group: ScaleGroup,
  op: number,
  squares: Accumulator,
  reference: Float32Array,
): Promise<Found> {
  const candidates = await Candidates.of(input, group, squares)
  const errorBefore = await candidateError(input, group, op, null, reference)
  let best: Candidate = { error: errorBefore, scale: null, step: 0, duo: true }
  const attempt = async (step: number, duo: boolean) => {
    throwIfAborted(input.signal)
    const scale = candidates.scale(step, duo)
    const error = await candidateError(input, group, op, scale, reference)
    if (error < best.error) best = { error, scale, step, duo }
  }
  for (const [step, duo] of firstSteps) await attempt(step, duo)
  const { step: middle, duo, scale } = best
  if (scale) for (const step of neighbours(middle)) await attempt(step, duo)
  return foundFor(group, best, errorBefore)
}

/** Squared error of the block's output, relative to the output's own square, with the group's linears rounded under `scale`. */
async function candidateError(
  input: TransformInput,
  group: ScaleGroup,
  op: number,
  scale: Float32Array | null,
  reference: Float32Array,
): Promise<number> {
  const { program, runner, sample, cache } = input
  const section = program.sections[program.blocks[input.layer]!]!
  const packed: PackedWeight[] = []
  const error = new Accumulator("squaredError", program.slots[0]!)
  let bound = input.bound
  try {
    bound = await withRounded(input, bound, group, scale, packed)
    await runner.step({
      runs: [{ section: bound, layer: 0, opBegin: op, opEnd: section.ops.length }],
      rows: sample.rows,
      sequences: sample.sequences,
      cache,
      hidden: sample.hidden,
      observers: [
        {
          run: 0,
          op: section.ops.length - 1,
          slot: 0,
          reduction: "squaredError",
          accumulator: error.handle,
          reference,
        },
      ],
      signal: input.signal,
    })
    const [difference, square] = error.read(2)
    return difference! / Math.max(square!, Number.MIN_VALUE)
  } finally {
    error.dispose()
    for (const weight of packed) weight.dispose()
  }
}

/** Divides the source and multiplies the targets by the scale. A norm's weight is rounded to its stored type; the targets take what it was really divided by. */
async function fold({ weights }: TransformInput, group: ScaleGroup, scale: Float32Array): Promise<void> {
  let columns = scale
  if (group.source.kind === "vector") columns = (await weights.divideVector(group.source.tensor, scale)) ?? scale
  else {
    await weights.scaleLinear(group.source.module, inverse(scale), null)
    await weights.divideVector(`${group.source.module}.bias`, scale)
  }
  for (const target of group.targets) await weights.scaleLinear(target, null, expand(columns, group))
}

function inverse(scale: Float32Array): Float32Array {
  const result = sharedFloats(scale.length)
  for (let i = 0; i < scale.length; i++) result[i] = 1 / scale[i]!
  return result
}

function firstLinear(section: Section, modules: readonly string[]): number {
  return section.ops.findIndex(op =>
    op.weights.some(weight => {
      const slot = section.weights[weight]
      return slot?.kind === "linear" && modules.includes(slot.module)
    }),
  )
}
