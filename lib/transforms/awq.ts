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
import { PackedWeight } from "../kernels/packed-weight.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { ScaleGroup, Section } from "../models/program.ts"
import { type Grid, native } from "../native.ts"
import type { Transform, TransformInput, TransformReport } from "./transform.ts"

const steps = 20

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
    const statistics = groups.map(({ group, op }) => {
      const slot = section.ops[op]!.in[0]!
      return { group, op, slot, squares: new Accumulator("sumSquares", program.slots[slot]!) }
    })
    try {
      const reference = await runBlock(input, statistics)
      const found: Found[] = []
      for (const entry of statistics)
        found.push(await searchGroup(input, entry.group, entry.op, entry.squares, reference))
      // Scales are found with the original weights in place everywhere; folding them all afterwards keeps the function.
      for (const { group, scale } of found) if (scale) await fold(input, group, scale)
      return { transform: "awq", groups: found.map(entry => entry.report).reverse() }
    } finally {
      for (const { squares } of statistics) squares.dispose()
    }
  },
}

interface Found {
  group: ScaleGroup
  /** [width of the source]; null: none beat leaving it alone. */
  scale: Float32Array | null
  report: TransformReport["groups"][number]
}

/** Runs the original block over the sample: collects input statistics, returns its output. Leaves every slot filled. */
async function runBlock(
  input: TransformInput,
  statistics: { op: number; slot: number; squares: Accumulator }[],
): Promise<Float32Array> {
  const { program, runner, sample, bound, cache } = input
  const section = program.sections[program.blocks[input.layer]!]!
  const out = sharedFloats(sample.rows * program.slots[0]!)
  await runner.step({
    runs: [{ section: bound, layer: 0 }],
    rows: sample.rows,
    sequences: sample.sequences,
    cache,
    hidden: sample.hidden,
    observers: [
      ...statistics.map(({ op, slot, squares }) => ({
        run: 0,
        op: op - 1,
        slot,
        reduction: "sumSquares" as const,
        accumulator: squares.handle,
      })),
      { run: 0, op: section.ops.length - 1, slot: 0, reduction: "copy", out },
    ],
    signal: input.signal,
  })
  return out
}

async function searchGroup(
  input: TransformInput,
  group: ScaleGroup,
  op: number,
  squares: Accumulator,
  reference: Float32Array,
): Promise<Found> {
  const activations = rootMeanSquare(squares, group)
  const magnitudes = await columnMagnitude(input, group, activations.length)
  const errorBefore = await candidateError(input, group, op, null, reference)
  let best = { error: errorBefore, scale: null as Float32Array | null, step: 0, duo: true }
  const attempt = async (step: number, duo: boolean) => {
    throwIfAborted(input.signal)
    const scale = candidateScale(activations, magnitudes, step / steps, duo)
    const error = await candidateError(input, group, op, scale, reference)
    if (error < best.error) best = { error, scale, step, duo }
  }
  // The error is a smooth function of the ratio: every second step first, then the neighbours of the best.
  for (const duo of [true, false]) for (let step = duo ? 0 : 2; step < steps; step += 2) await attempt(step, duo)
  const { step: middle, duo, scale } = best
  if (scale) for (const step of [middle - 1, middle + 1]) if (step > 0 && step < steps) await attempt(step, duo)
  const source = group.source.kind === "vector" ? group.source.tensor : group.source.module
  return {
    group,
    scale: best.scale,
    report: { source, targets: [...group.targets], ratio: best.step / steps, error: best.error, errorBefore },
  }
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
    const columns = scale && expand(scale, group)
    for (const target of group.targets) {
      const grid: Grid | null = input.gridOf(target)
      if (!grid) continue
      const [n, k] = input.weights.shape(target)
      const weight = await input.weights.linear(target)
      const rounded = new PackedWeight(await native.packRounded(weight, n, k, grid, columns, null), [n, k], 32)
      packed.push(rounded)
      bound = bound.set(target, rounded)
    }
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

/** Root mean square of the input by source channel: over the heads that share a KV head where the source is v_proj. */
function rootMeanSquare(squares: Accumulator, group: ScaleGroup): Float64Array {
  const sums = squares.read(squares.width)
  const rows = Math.max(squares.rows, 1)
  const width = sums.length / group.repeat
  const result = new Float64Array(width)
  sums.forEach((sum, column) => {
    result[sourceChannel(column, group)]! += sum / rows / group.repeat
  })
  return result.map(Math.sqrt)
}

/** Mean relative magnitude of the targets' columns, by source channel, weighted by their rows as if they were one matrix. */
async function columnMagnitude(input: TransformInput, group: ScaleGroup, width: number): Promise<Float64Array> {
  const result = new Float64Array(width)
  let rows = 0
  for (const target of group.targets) {
    const [n, k] = input.weights.shape(target)
    const out = sharedFloats(k)
    await native.columnMagnitude(await input.weights.linear(target), n, k, input.gridOf(target)?.groupSize ?? k, out)
    out.forEach((value, column) => {
      result[sourceChannel(column, group)]! += (value * n) / group.repeat
    })
    rows += n
  }
  return result.map(value => value / rows)
}

function candidateScale(
  activations: Float64Array,
  magnitudes: Float64Array,
  ratio: number,
  duo: boolean,
): Float32Array {
  const raw = activations.map((x, i) => Math.max(x ** ratio / (duo ? magnitudes[i]! ** (1 - ratio) + 1e-4 : 1), 1e-4))
  let low = Number.POSITIVE_INFINITY
  let high = 0
  for (const value of raw) {
    low = Math.min(low, value)
    high = Math.max(high, value)
  }
  const middle = Math.sqrt(low * high)
  const scale = sharedFloats(raw.length)
  raw.forEach((value, i) => {
    scale[i] = value / middle
  })
  return scale
}

/** The source channel that feeds a column of the targets: query heads of a group share their KV head's channels. */
function sourceChannel(column: number, group: ScaleGroup): number {
  if (group.repeat === 1) return column
  const head = Math.floor(column / group.blockWidth)
  return Math.floor(head / group.repeat) * group.blockWidth + (column % group.blockWidth)
}

function expand(scale: Float32Array, group: ScaleGroup): Float32Array {
  if (group.repeat === 1) return scale
  const columns = sharedFloats(scale.length * group.repeat)
  for (let column = 0; column < columns.length; column++) columns[column] = scale[sourceChannel(column, group)]!
  return columns
}

/** Divides the source and multiplies the targets by the scale. A norm's weight is rounded to its stored type; the targets take what it was really divided by. */
async function fold({ weights }: TransformInput, group: ScaleGroup, scale: Float32Array): Promise<void> {
  const columns = await weights.divideSource(group.source, scale)
  for (const target of group.targets) await weights.scaleLinear(target, null, expand(columns, group))
}

function firstLinear(section: Section, modules: readonly string[]): number {
  return section.ops.findIndex(op => {
    const slot = op.kind === "linear" ? section.weights[op.weights[0]!] : undefined
    return slot?.kind === "linear" && modules.includes(slot.module)
  })
}
