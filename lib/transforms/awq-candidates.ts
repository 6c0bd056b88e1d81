// The scales that AWQ tries, and linears as they would be rounded under them.
import { sharedFloats } from "../core/tensor.ts"
import { PackedWeight } from "../kernels/packed-weight.ts"
import type { Accumulator } from "../models/accumulator.ts"
import type { ScaleGroup } from "../models/program.ts"
import type { BoundSection } from "../models/runner.ts"
import { type Grid, native } from "../native.ts"
import type { TransformInput, TransformReport } from "./transform.ts"

const steps = 20

/** A group, the op that its search begins at, and the squares of that op's input: of one expert where the slot is grouped by routes. */
export interface Observed {
  group: ScaleGroup
  op: number
  slot: number
  squares: Accumulator
  routes?: number
  expert?: number
}

export interface Found {
  group: ScaleGroup
  /** [width of the source]; null: none beat leaving it alone. */
  scale: Float32Array | null
  report: TransformReport["groups"][number]
}

export interface Candidate {
  error: number
  scale: Float32Array | null
  step: number
  duo: boolean
}

/** The error is a smooth function of the ratio: every second step first, then the neighbours of the best. */
export const firstSteps: readonly (readonly [step: number, duo: boolean])[] = [true, false].flatMap(duo =>
  Array.from({ length: steps / 2 }, (_, i) => [2 * i, duo] as const).filter(([step]) => duo || step > 0),
)
export const neighbours = (middle: number): number[] =>
  [middle - 1, middle + 1].filter(step => step > 0 && step < steps)

export function foundFor(group: ScaleGroup, { scale, step, error }: Candidate, errorBefore: number): Found {
  const source = group.source.kind === "vector" ? group.source.tensor : group.source.module
  return { group, scale, report: { source, targets: [...group.targets], ratio: step / steps, error, errorBefore } }
}

/** The scales that a group may get. */
export class Candidates {
  readonly #activations: Float64Array
  readonly #magnitudes: Float64Array

  private constructor(activations: Float64Array, magnitudes: Float64Array) {
    this.#activations = activations
    this.#magnitudes = magnitudes
  }

  static async of(input: TransformInput, group: ScaleGroup, squares: Accumulator): Promise<Candidates> {
    const activations = rootMeanSquare(squares, group)
    return new Candidates(activations, await columnMagnitude(input, group, activations.length))
  }

  scale(step: number, duo: boolean): Float32Array {
    return candidateScale(this.#activations, this.#magnitudes, step / steps, duo)
  }
}

/** `bound` with the group's linears as they would be rounded under `scale`; adds to `packed` what has to be disposed of. */
export async function withRounded(
  { gridOf, weights }: Pick<TransformInput, "gridOf" | "weights">,
  bound: BoundSection,
  group: ScaleGroup,
  scale: Float32Array | null,
  packed: PackedWeight[],
): Promise<BoundSection> {
  const columns = scale && expand(scale, group)
  let result = bound
  for (const target of group.targets) {
    const grid: Grid | null = gridOf(target)
    if (!grid) continue
    const [n, k] = weights.shape(target)
    const weight = await weights.linear(target)
    const rounded = new PackedWeight(await native.packRounded(weight, n, k, grid, columns, null), [n, k], 32)
    packed.push(rounded)
    result = result.set(target, rounded)
  }
  return result
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

export function expand(scale: Float32Array, group: ScaleGroup): Float32Array {
  if (group.repeat === 1) return scale
  const columns = sharedFloats(scale.length * group.repeat)
  for (let column = 0; column < columns.length; column++) columns[column] = scale[sourceChannel(column, group)]!
  return columns
}
