// The scales that AWQ tries for a group.
import { sharedFloats } from "../core/tensor.ts"
import type { Accumulator } from "../models/accumulator.ts"
import type { ScaleGroup } from "../models/program.ts"
import { native } from "../native.ts"
import { type FoundScale, sourceChannel, sourceName } from "./scale-groups.ts"
import type { TransformInput } from "./transform.ts"

const steps = 20

export interface Best {
  error: number
  /** null: none was better than leaving the group alone. */
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

export const foundScale = (group: ScaleGroup, { scale, step, error }: Best, errorBefore: number): FoundScale => ({
  group,
  scale,
  report: { source: sourceName(group), targets: [...group.targets], ratio: step / steps, error, errorBefore },
})

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
    await native.columnMagnitude(await input.weights.linear(target), n, k, input.schemeOf(target)?.groupSize ?? k, out)
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
