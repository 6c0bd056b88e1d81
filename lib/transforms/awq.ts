// AWQ (arXiv 2306.00978): per-channel scales that protect the columns whose inputs are large.
//
// s is searched on the block's own output: candidates s = x^r / w^(1-r) ("duo scaling", x the root mean square of the input, w the mean
// relative magnitude of the column) and s = x^r, r in steps of 1/20, normalised to a geometric middle of 1.
import { throwIfAborted } from "../core/errors.ts"
import { sharedFloats } from "../core/tensor.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { ScaleGroup } from "../models/program.ts"
import { native } from "../native.ts"
import {
  candidateError,
  type FoundScale,
  foldAll,
  type PlacedGroup,
  placedGroups,
  runBlock,
  sourceChannel,
  sourceName,
} from "./scale-groups.ts"
import type { Transform, TransformInput } from "./transform.ts"

const steps = 20

export const awq: Transform = {
  name: "awq",
  async apply(input) {
    const groups = placedGroups(input).map(placed => ({
      placed,
      squares: new Accumulator("sumSquares", input.program.slots[placed.slot]!),
    }))
    try {
      const reference = await runBlock(
        input,
        groups.map(({ placed: { op, slot }, squares }) => ({
          ...{ run: 0, op: op - 1, slot, reduction: "sumSquares", accumulator: squares.handle },
        })),
      )
      const found: FoundScale[] = []
      for (const { placed, squares } of groups) found.push(await searchGroup(input, placed, squares, reference))
      await foldAll(input, found)
      return { transform: "awq", groups: found.map(entry => entry.report).reverse() }
    } finally {
      for (const { squares } of groups) squares.dispose()
    }
  },
}

async function searchGroup(
  input: TransformInput,
  placed: PlacedGroup,
  squares: Accumulator,
  reference: Float32Array,
): Promise<FoundScale> {
  const { group } = placed
  const activations = rootMeanSquare(squares, group)
  const magnitudes = await columnMagnitude(input, group, activations.length)
  const errorBefore = await candidateError(input, placed, null, reference)
  let best = { error: errorBefore, scale: null as Float32Array | null, step: 0, duo: true }
  const attempt = async (step: number, duo: boolean) => {
    throwIfAborted(input.signal)
    const scale = candidateScale(activations, magnitudes, step / steps, duo)
    const error = await candidateError(input, placed, scale, reference)
    if (error < best.error) best = { error, scale, step, duo }
  }
  // The error is a smooth function of the ratio: every second step first, then the neighbours of the best.
  for (const duo of [true, false]) for (let step = duo ? 0 : 2; step < steps; step += 2) await attempt(step, duo)
  const { step: middle, duo, scale } = best
  if (scale) for (const step of [middle - 1, middle + 1]) if (step > 0 && step < steps) await attempt(step, duo)
  return {
    group,
    scale: best.scale,
    report: {
      source: sourceName(group),
      targets: [...group.targets],
      ratio: best.step / steps,
      error: best.error,
      errorBefore,
    },
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
