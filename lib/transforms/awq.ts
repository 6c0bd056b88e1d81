// AWQ (arXiv 2306.00978): per-channel scales that protect the columns whose inputs are large.
//
// s is searched on the block's own output: candidates s = x^r / w^(1-r) ("duo scaling", x the root mean square of the input, w the mean
// relative magnitude of the column) and s = x^r, r in steps of 1/20, normalised to a geometric middle of 1.
import { throwIfAborted } from "../core/errors.ts"
import { sharedFloats } from "../core/tensor.ts"
import { Accumulator } from "../models/accumulator.ts"
import type { Observer } from "../models/runner.ts"
import { type Best, Candidates, firstSteps, foundScale, neighbours } from "./awq-candidates.ts"
import { searchExperts } from "./awq-experts.ts"
import {
  candidateError,
  type FoundScale,
  foldAll,
  type PlacedGroup,
  placedGroups,
  runBlock,
  sectionOf,
} from "./scale-groups.ts"
import type { Transform, TransformInput } from "./transform.ts"

export const awq: Transform = {
  name: "awq",
  async apply(input) {
    const groups = placedGroups(input).map(placed => ({
      placed,
      squares: new Accumulator("sumSquares", placed.k),
    }))
    try {
      const experts = groups.filter(({ placed }) => placed.own)
      const outputs = expertOutputs(input, experts[0]?.placed)
      const observers: Observer[] = groups.map(({ placed: { op, slot, own }, squares }) => ({
        ...{ run: 0, op: op - 1, slot, reduction: "sumSquares", accumulator: squares.handle, ...own },
      }))
      const reference = await runBlock(input, outputs ? [...observers, outputs.observer] : observers)
      const found: FoundScale[] = []
      // They come last in a block.
      if (outputs) found.push(...(await searchExperts(input, experts, outputs.values)))
      for (const { placed, squares } of groups)
        if (!placed.own) found.push(await searchGroup(input, placed, squares, reference))
      await foldAll(input, found)
      return { transform: "awq", groups: found.map(entry => entry.report).reverse() }
    } finally {
      for (const { squares } of groups) squares.dispose()
    }
  },
}

/** What experts' down projections compute, by a copy of their slot; null where there are none. */
function expertOutputs(input: TransformInput, placed: PlacedGroup | undefined) {
  if (!placed) return null
  const { out: slot } = sectionOf(input).ops[placed.op]!
  const values = sharedFloats(input.sample.rows * input.program.slots[slot]!)
  const observer: Observer = { run: 0, op: placed.op, slot, reduction: "copy", out: values }
  return { values, observer }
}

async function searchGroup(
  input: TransformInput,
  placed: PlacedGroup,
  squares: Accumulator,
  reference: Float32Array,
): Promise<FoundScale> {
  const { group } = placed
  const candidates = await Candidates.of(input, group, squares)
  const errorBefore = await candidateError(input, placed, null, reference)
  let best: Best = { error: errorBefore, scale: null, step: 0, duo: true }
  const attempt = async (step: number, duo: boolean) => {
    throwIfAborted(input.signal)
    const scale = candidates.scale(step, duo)
    const error = await candidateError(input, placed, scale, reference)
    if (error < best.error) best = { error, scale, step, duo }
  }
  for (const [step, duo] of firstSteps) await attempt(step, duo)
  const { step: middle, duo, scale } = best
  if (scale) for (const step of neighbours(middle)) await attempt(step, duo)
  return foundScale(group, best, errorBefore)
}
