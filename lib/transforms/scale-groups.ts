// What transforms share that scale channels: the scale groups of a block, the error of a candidate scale, and folding it.
//
// For every scale group the inverse of s is folded into what produces the input (a norm's weight or the rows of a linear) and
// s into the columns of the linears that read it; the function stays the same, the rounding error does not. A candidate is tried
// by rounding the group's linears to nearest and running the block from there on; groups are searched from the last to the first, so
// that everything in front of a group still holds what the original weights computed.
import { isIntegerScheme, type Scheme } from "../core/scheme.ts"
import { sharedFloats, Tensor } from "../core/tensor.ts"
import { dequantizeAsync } from "../kernels/dequantize.ts"
import { type Activations, PackedWeight, prepack, prepackDense } from "../kernels/packed-weight.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { ScaleGroup, Section } from "../models/program.ts"
import type { BoundSection, Observer } from "../models/runner.ts"
import { dividedVector, rowDivisors } from "../models/scale-source.ts"
import { native } from "../native.ts"
import { gridOf } from "../rounding/arrays.ts"
import { nearest } from "../rounding/nearest.ts"
import type { TransformInput, TransformReport } from "./transform.ts"

export interface PlacedGroup {
  group: ScaleGroup
  /** First op that reads the scaled input, and its slot. */
  op: number
  slot: number
  /** Columns of the linears. */
  k: number
  /** Of an expert's own linears, whose input is grouped by routes: their slot, and which expert. */
  own?: { routes: number; expert: number }
}

/** What a search made of a group. */
export interface FoundScale {
  group: ScaleGroup
  /** [width of the source]; null: left alone. */
  scale: Float32Array | null
  report: TransformReport["groups"][number]
}

export const sectionOf = ({ program, layer }: TransformInput): Section => program.sections[program.blocks[layer]!]!

/** Scale groups of the block of which something will be rounded, from the last to the first. */
export function placedGroups(input: TransformInput): PlacedGroup[] {
  const section = sectionOf(input)
  return input.program
    .scaleGroups(input.layer)
    .filter(group => group.targets.some(target => input.schemeOf(target) !== null))
    .map(group => {
      const op = section.ops.findIndex(({ weights }) =>
        weights.some(weight => {
          const slot = section.weights[weight]
          return slot?.kind === "linear" && group.targets.includes(slot.module)
        }),
      )
      const [slot = 0, routes = 0] = section.ops[op]!.in
      const k = input.weights.shape(group.targets[0]!)[1]
      return { group, op, slot, k, ...(group.expert !== undefined && { own: { routes, expert: group.expert } }) }
    })
    .sort((a, b) => b.op - a.op)
}

export const sourceName = ({ source }: ScaleGroup): string => (source.kind === "vector" ? source.tensor : source.module)

/** Runs the block over the sample and returns its output. Leaves every slot filled. */
export async function runBlock(input: TransformInput, observers: readonly Observer[] = []): Promise<Float32Array> {
  const { program, runner, sample, bound, cache } = input
  const out = sharedFloats(sample.rows * program.slots[0]!)
  await runner.step({
    runs: [{ section: bound, layer: 0 }],
    rows: sample.rows,
    sequences: sample.sequences,
    cache,
    hidden: sample.hidden,
    observers: [...observers, { run: 0, op: sectionOf(input).ops.length - 1, slot: 0, reduction: "copy", out }],
    signal: input.signal,
  })
  return out
}

/** Squared error of the block's output, relative to the output's own square, with the group's linears rounded under `scale`. */
export async function candidateError(
  input: TransformInput,
  { group, op }: PlacedGroup,
  scale: Float32Array | null,
  reference: Float32Array,
): Promise<number> {
  const { program, runner, sample, cache } = input
  const ops = sectionOf(input).ops.length
  const owned: { dispose(): void }[] = []
  const error = new Accumulator("squaredError", program.slots[0]!)
  owned.push(error)
  try {
    const { bound, begin, activations } = await candidate(input, group, op, scale, owned)
    await runner.step({
      runs: [{ section: bound, layer: 0, opBegin: begin, opEnd: ops }],
      rows: sample.rows,
      sequences: sample.sequences,
      cache,
      hidden: sample.hidden,
      observers: [{ run: 0, op: ops - 1, slot: 0, reduction: "squaredError", accumulator: error.handle, reference }],
      activations,
      signal: input.signal,
    })
    const [difference, square] = error.read(2)
    return difference! / Math.max(square!, Number.MIN_VALUE)
  } finally {
    for (const object of owned) object.dispose()
  }
}

/**
 * Likewise the error of each expert's output on its own rows, all experts tried at the same time: what one computes does not depend on the
 * others. `reference`: what op `op` writes with the original weights, laid out as its slot, whose inputs a run of the block has left.
 */
export async function expertErrors(
  input: TransformInput,
  op: number,
  tries: readonly { placed: PlacedGroup; scale: Float32Array | null }[],
  reference: Float32Array,
): Promise<number[]> {
  const { out } = sectionOf(input).ops[op]!
  const owned: { dispose(): void }[] = []
  const errors: Accumulator[] = []
  let tried = input
  let activations: Activations = "exact"
  try {
    for (const { placed, scale } of tries) {
      // A source divided by the scale would have to run again, and with it all that feeds the experts.
      const made = await candidate(tried, placed.group, op, scale, owned, true)
      tried = { ...input, bound: made.bound }
      activations = made.activations
      errors.push(new Accumulator("squaredError", input.weights.shape(placed.group.targets[0]!)[0]))
    }
    await input.runner.step({
      runs: [{ section: tried.bound, layer: 0, opBegin: op, opEnd: op + 1 }],
      rows: input.sample.rows,
      sequences: input.sample.sequences,
      cache: input.cache,
      observers: tries.map(({ placed }, i) => ({
        ...{
          run: 0,
          op,
          slot: out,
          reduction: "squaredError",
          accumulator: errors[i]!.handle,
          reference,
          ...placed.own,
        },
      })),
      activations,
      signal: input.signal,
    })
    return errors.map(error => {
      const [difference, square] = error.read(2)
      return difference! / Math.max(square!, Number.MIN_VALUE)
    })
  } finally {
    for (const object of [...owned, ...errors]) object.dispose()
  }
}

interface Candidate {
  bound: BoundSection
  /** The op to run from. */
  begin: number
  activations: Activations
}

/** The block with the group's linears rounded; `inPlace`: as if activations were not. What is made for it is added to `owned`. */
async function candidate(
  input: TransformInput,
  group: ScaleGroup,
  op: number,
  scale: Float32Array | null,
  owned: { dispose(): void }[],
  inPlace = false,
): Promise<Candidate> {
  const own = <T extends { dispose(): void }>(object: T): T => {
    owned.push(object)
    return object
  }
  const columns = scale && expand(scale, group)
  const targets = group.targets.flatMap(module => {
    const scheme = input.schemeOf(module)
    return scheme ? [{ module, scheme }] : []
  })
  let bound = input.bound
  if (inPlace || targets.every(({ scheme }) => isIntegerScheme(scheme) && !scheme.activations)) {
    // Rounded as W·s and divided by s again in one pass: what feeds the linears runs as it is.
    for (const { module, scheme } of targets) {
      bound = own(bound.set(module, own(await roundedInPlace(input, module, scheme, columns))))
    }
    return { bound, begin: op, activations: "exact" }
  }
  for (const module of group.targets) {
    const [n, k] = input.weights.shape(module)
    const scheme = input.schemeOf(module)
    if (!scheme && !columns) continue
    const weight = await scaled(await input.weights.linear(module), n, k, null, columns)
    const packed = scheme
      ? await roundedWeight(input, module, weight, n, k, scheme)
      : await prepackDense(Tensor.from(weight, [n, k]))
    bound = own(bound.set(module, own(packed)))
  }
  const activations = "scheme"
  if (!scale) return { bound, begin: op, activations }
  return { ...(await dividedSource(input, group, scale, bound, own)), activations }
}

/** W·s rounded and divided by s again. */
async function roundedInPlace(
  input: TransformInput,
  name: string,
  scheme: Scheme,
  columns: Float32Array | null,
): Promise<PackedWeight> {
  const { weights, minZero, signal } = input
  const [n, k] = weights.shape(name)
  const weight = await weights.linear(name)
  if (isIntegerScheme(scheme)) {
    const handle = await native.packRounded(weight, n, k, gridOf(scheme, minZero), columns, null)
    return new PackedWeight(handle, [n, k], 32)
  }
  const multiplied = await scaled(weight, n, k, null, columns)
  const { tensor } = await nearest.round({ name, weight: multiplied, n, k, scheme, minZero, options: {}, signal })
  const back = columns && inverse(columns)
  return prepackDense(Tensor.from(await scaled(await dequantizeAsync(tensor), n, k, null, back), [n, k]))
}

async function roundedWeight(
  { minZero, signal }: TransformInput,
  name: string,
  weight: Float32Array,
  n: number,
  k: number,
  scheme: Scheme,
): Promise<PackedWeight> {
  const { tensor } = await nearest.round({ name, weight, n, k, scheme, minZero, options: {}, signal })
  return prepack(tensor)
}

/** `bound` with the group's source divided by `scale`, and the op that the source belongs to. */
async function dividedSource(
  input: TransformInput,
  { source }: ScaleGroup,
  scale: Float32Array,
  bound: BoundSection,
  own: <T extends { dispose(): void }>(object: T) => T,
): Promise<Pick<Candidate, "bound" | "begin">> {
  const section = sectionOf(input)
  const begin = section.ops.findIndex(op =>
    op.weights.some(index => {
      const slot = section.weights[index]!
      return source.kind === "vector"
        ? slot.kind === "vector" && slot.tensor === source.tensor
        : slot.kind === "linear" && slot.module === source.module
    }),
  )
  const withDivided = async (from: BoundSection, tensor: string, by: Float32Array, offset?: number) => {
    const values = await input.weights.vector(tensor)
    return values ? own(from.setVector(tensor, dividedVector(values, by, offset))) : from
  }
  if (source.kind === "vector") {
    const changed = await withDivided(bound, source.tensor, scale, source.offset)
    return { bound: source.bias ? await withDivided(changed, source.bias, scale) : changed, begin }
  }
  const [n, k] = input.weights.shape(source.module)
  const divisors = rowDivisors(n, scale, source.rows)
  const weight = await scaled(await input.weights.linear(source.module), n, k, inverse(divisors), null)
  const changed = own(bound.set(source.module, own(await prepackDense(Tensor.from(weight, [n, k])))))
  return { bound: await withDivided(changed, `${source.module}.bias`, divisors), begin }
}

async function scaled(
  weight: Float32Array,
  n: number,
  k: number,
  rows: Float32Array | null,
  columns: Float32Array | null,
): Promise<Float32Array> {
  if (!rows && !columns) return weight
  const out = sharedFloats(n * k)
  await native.scaleMatrix(weight, n, k, rows, columns, out)
  return out
}

/** Folds what was found for every group: scales are found with the original weights in place everywhere. */
export async function foldAll(input: TransformInput, found: readonly FoundScale[]): Promise<void> {
  for (const { group, scale } of found) if (scale) await fold(input, group, scale)
}

/** Divides the source and multiplies the targets by the scale. A norm's weight is rounded to its stored type; the targets take what it was really divided by. */
async function fold({ weights }: TransformInput, group: ScaleGroup, scale: Float32Array): Promise<void> {
  const columns = await weights.divideSource(group.source, scale)
  for (const target of group.targets) await weights.scaleLinear(target, null, expand(columns, group))
}

/** The source channel that feeds a column of the targets: query heads of a group share their KV head's channels. */
export function sourceChannel(column: number, group: ScaleGroup): number {
  if (group.repeat === 1) return column
  const head = Math.floor(column / group.blockWidth)
  return Math.floor(head / group.repeat) * group.blockWidth + (column % group.blockWidth)
}

/** The scale of every column of the targets. */
function expand(scale: Float32Array, group: ScaleGroup): Float32Array {
  if (group.repeat === 1) return scale
  const columns = sharedFloats(scale.length * group.repeat)
  for (let column = 0; column < columns.length; column++) columns[column] = scale[sourceChannel(column, group)]!
  return columns
}

export function inverse(scale: Float32Array): Float32Array {
  const result = sharedFloats(scale.length)
  for (let i = 0; i < scale.length; i++) result[i] = 1 / scale[i]!
  return result
}
