// AWQ's search for the scales between an expert's up and down projections: every candidate is tried by all experts at the same time, and each
// keeps the one that is best for it.
import { throwIfAborted } from "../core/errors.ts"
import type { Accumulator } from "../models/accumulator.ts"
import { type Best, Candidates, firstSteps, foundScale, neighbours } from "./awq-candidates.ts"
import { expertErrors, type FoundScale, type PlacedGroup } from "./scale-groups.ts"
import type { TransformInput } from "./transform.ts"

interface Expert {
  placed: PlacedGroup
  candidates: Candidates
  before: number
  best: Best
}

/** `reference`: see expertErrors. Experts without rows in the sample are left alone. */
export async function searchExperts(
  input: TransformInput,
  groups: readonly { placed: PlacedGroup; squares: Accumulator }[],
  reference: Float32Array,
): Promise<FoundScale[]> {
  const experts: Expert[] = []
  for (const { placed, squares } of groups) {
    if (squares.rows === 0) continue
    const candidates = await Candidates.of(input, placed.group, squares)
    experts.push({ placed, candidates, before: 0, best: { error: 0, scale: null, step: 0, duo: true } })
  }
  if (experts.length === 0) return []
  const { op } = experts[0]!.placed
  const before = await expertErrors(
    input,
    op,
    experts.map(({ placed }) => ({ placed, scale: null })),
    reference,
  )
  experts.forEach((expert, i) => {
    expert.before = before[i]!
    expert.best.error = before[i]!
  })
  const attempt = async (tries: readonly { expert: Expert; step: number; duo: boolean }[]) => {
    throwIfAborted(input.signal)
    if (tries.length === 0) return
    const scaled = tries.map(({ expert, step, duo }) => ({
      placed: expert.placed,
      scale: expert.candidates.scale(step, duo),
    }))
    const errors = await expertErrors(input, op, scaled, reference)
    tries.forEach(({ expert, step, duo }, i) => {
      if (errors[i]! < expert.best.error) expert.best = { error: errors[i]!, scale: scaled[i]!.scale, step, duo }
    })
  }
  for (const [step, duo] of firstSteps) await attempt(experts.map(expert => ({ expert, step, duo })))
  const middles = experts.filter(({ best }) => best.scale).map(expert => ({ expert, ...expert.best }))
  for (const side of [-1, 1])
    await attempt(
      middles.flatMap(({ expert, step, duo }) =>
        neighbours(step).includes(step + side) ? [{ expert, step: step + side, duo }] : [],
      ),
    )
  return experts.map(({ placed, best, before }) => foundScale(placed.group, best, before))
}
