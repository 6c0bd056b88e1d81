// AWQ's search for the scales between an expert's up and down projections.
//
// What an expert computes does not depend on the other experts, so all of them try a candidate at the same time: one run of the down
// projections gives the error of every expert on its own rows, and each keeps the candidate that is best for it.
import { throwIfAborted } from "../core/errors.ts"
import type { PackedWeight } from "../kernels/packed-weight.ts"
import { Accumulator } from "../models/accumulator.ts"
import {
  type Candidate,
  Candidates,
  type Found,
  firstSteps,
  foundFor,
  neighbours,
  type Observed,
  withRounded,
} from "./awq-candidates.ts"
import type { TransformInput } from "./transform.ts"

interface Expert {
  entry: Observed
  candidates: Candidates
  before: number
  best: Candidate
}

/** `reference`: the down projections' output with the original weights, laid out as its slot. Experts without rows in the sample are left alone. */
export async function searchExperts(
  input: TransformInput,
  entries: readonly Observed[],
  reference: Float32Array,
): Promise<Found[]> {
  const experts: Expert[] = []
  for (const entry of entries) {
    if (entry.squares.rows === 0) continue
    const best = { error: 0, scale: null, step: 0, duo: true }
    experts.push({ entry, candidates: await Candidates.of(input, entry.group, entry.squares), before: 0, best })
  }
  if (experts.length === 0) return []
  const attempt = async (tries: readonly (Candidate & { expert: Expert })[]) => {
    throwIfAborted(input.signal)
    const errors = await expertErrors(input, tries, reference)
    tries.forEach(({ expert, scale, step, duo }, i) => {
      if (errors[i]! < expert.best.error) expert.best = { error: errors[i]!, scale, step, duo }
    })
  }
  const before = await expertErrors(
    input,
    experts.map(expert => ({ expert, scale: null })),
    reference,
  )
  experts.forEach((expert, i) => {
    expert.before = before[i]!
    expert.best.error = before[i]!
  })
  const candidate = (expert: Expert, step: number, duo: boolean) => ({
    ...{ expert, step, duo, error: 0 },
    scale: expert.candidates.scale(step, duo),
  })
  for (const [step, duo] of firstSteps) await attempt(experts.map(expert => candidate(expert, step, duo)))
  const middles = experts.filter(({ best }) => best.scale).map(expert => ({ expert, ...expert.best }))
  for (const side of [0, 1]) {
    const tries = middles.flatMap(({ expert, step, duo }) => {
      const next = side === 0 ? step - 1 : step + 1
      return neighbours(step).includes(next) ? [candidate(expert, next, duo)] : []
    })
    if (tries.length > 0) await attempt(tries)
  }
  return experts.map(({ entry, best, before }) => foundFor(entry.group, best, before))
}

/** Squared error of each expert's output on its rows, relative to the output's own square. */
async function expertErrors(
  input: TransformInput,
  tries: readonly { expert: Expert; scale: Float32Array | null }[],
  reference: Float32Array,
): Promise<number[]> {
  const { program, runner, sample, cache } = input
  const { ops } = program.sections[program.blocks[input.layer]!]!
  const packed: PackedWeight[] = []
  const errors: Accumulator[] = []
  let bound = input.bound
  try {
    const { op } = tries[0]!.expert.entry
    const { out } = ops[op]!
    for (const { expert, scale } of tries) {
      bound = await withRounded(input, bound, expert.entry.group, scale, packed)
      errors.push(new Accumulator("squaredError", input.weights.shape(expert.entry.group.targets[0]!)[0]))
    }
    await runner.step({
      runs: [{ section: bound, layer: 0, opBegin: op, opEnd: op + 1 }],
      rows: sample.rows,
      sequences: sample.sequences,
      cache,
      observers: tries.map(({ expert: { entry } }, i) => ({
        ...{ run: 0, op, slot: out, reduction: "squaredError" as const, accumulator: errors[i]!.handle, reference },
        ...{ routes: entry.routes!, expert: entry.expert! },
      })),
      signal: input.signal,
    })
    return errors.map(accumulator => {
      const [difference, square] = accumulator.read(2)
      return difference! / Math.max(square!, Number.MIN_VALUE)
    })
  } finally {
    for (const accumulator of errors) accumulator.dispose()
    for (const weight of packed) weight.dispose()
  }
}
