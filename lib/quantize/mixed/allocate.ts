// Which choice every group takes, so that costs together stay within a budget and damages together are least: the multiple-choice
// knapsack. Damages are taken as additive (the second-order view of HAWQ-V2, arXiv 1911.03852, and of llama.cpp's and exllamav2's
// measured mixtures): exact as long as errors of different layers are uncorrelated and small.
//
// Dynamic programming over the groups keeps every pair (cost, damage) that no other beats in both. Pairs that cannot end below the
// best solution known are dropped early by a bound: the Lagrangian relaxation min Σ (damage + λ cost) of the groups still to come.
// This stays exact, whatever the unit of the costs, and a model of hundreds of groups leaves a few thousand pairs.

export interface Choice {
  cost: number
  damage: number
}

export interface Allocation {
  /** Index of the choice of every group. */
  picks: number[]
  cost: number
  damage: number
  /** No allocation within the budget has less damage than this; equals `damage` where the search was complete. */
  bound: number
}

/** Pairs kept after a group; beyond, those with the least promise are dropped and the result may not be optimal, which `bound` tells. */
const maxPairs = 50_000

/** null where even the cheapest choices exceed the budget. Every group has at least one choice; costs and damages are finite, at least 0. */
export function allocate(groups: readonly (readonly Choice[])[], budget: number, limit = maxPairs): Allocation | null {
  // Sums of floats in different orders differ in their last digits.
  const slack = 1e-9 * Math.max(budget, Number.MIN_VALUE)
  const fronts = groups.map(front)
  const cheapest = suffixSums(fronts, choices => choices[0]!.cost)
  if (cheapest[0]! > budget + slack) return null
  const { multiplier, picks: feasible } = relax(fronts, budget + slack)
  const relaxed = suffixSums(fronts, choices => least(choices, ({ damage, cost }) => damage + multiplier * cost))
  const lowest = suffixSums(fronts, choices => choices.at(-1)!.damage)
  const best = { damage: sum(feasible, "damage"), cost: sum(feasible, "cost") }

  let pairs: Pair[] = [{ cost: 0, damage: 0, choice: null, before: null }]
  let complete = true
  let dropped = Number.POSITIVE_INFINITY
  fronts.forEach((choices, index) => {
    const promise = ({ cost, damage }: Pair) =>
      damage + Math.max(lowest[index + 1]!, relaxed[index + 1]! - multiplier * (budget + slack - cost))
    const next: Pair[] = []
    for (const before of pairs)
      for (const choice of choices) {
        const pair = { cost: before.cost + choice.cost, damage: before.damage + choice.damage, choice, before }
        if (pair.cost + cheapest[index + 1]! > budget + slack) continue
        if (promise(pair) <= best.damage * (1 + 1e-12)) next.push(pair)
      }
    pairs = undominated(next)
    if (pairs.length > limit) {
      complete = false
      pairs.sort((a, b) => promise(a) - promise(b))
      dropped = Math.min(dropped, promise(pairs[limit]!))
      pairs = pairs.slice(0, limit).sort((a, b) => a.cost - b.cost)
    }
  })
  // The last pair costs most and damages least. Where rounding dropped them all the relaxation's solution stands.
  const found = pairs.at(-1)
  const chosen = found && found.damage <= best.damage ? trace(found) : feasible
  const [cost, damage] = [sum(chosen, "cost"), sum(chosen, "damage")]
  return { picks: chosen.map(({ index }) => index), cost, damage, bound: complete ? damage : Math.min(damage, dropped) }
}

interface Indexed extends Choice {
  index: number
}

interface Pair {
  cost: number
  damage: number
  choice: Indexed | null
  before: Pair | null
}

const sum = (choices: readonly Choice[], key: keyof Choice): number =>
  choices.reduce((total, choice) => total + choice[key], 0)

const least = <T>(list: readonly T[], key: (entry: T) => number): number =>
  list.reduce((lowest, entry) => Math.min(lowest, key(entry)), Number.POSITIVE_INFINITY)

/** Choices that no other beats, by rising cost and falling damage. */
function front(choices: readonly Choice[]): Indexed[] {
  const sorted = choices
    .map((choice, index) => ({ ...choice, index }))
    .sort((a, b) => a.cost - b.cost || a.damage - b.damage || a.index - b.index)
  const kept: Indexed[] = []
  for (const choice of sorted) if (kept.length === 0 || choice.damage < kept.at(-1)!.damage) kept.push(choice)
  return kept
}

function undominated(pairs: Pair[]): Pair[] {
  pairs.sort((a, b) => a.cost - b.cost || a.damage - b.damage)
  const kept: Pair[] = []
  for (const pair of pairs) if (kept.length === 0 || pair.damage < kept.at(-1)!.damage) kept.push(pair)
  return kept
}

/** result[i]: sum over groups i and later. */
function suffixSums(fronts: readonly Indexed[][], value: (choices: Indexed[]) => number): number[] {
  const sums = new Array<number>(fronts.length + 1).fill(0)
  for (let i = fronts.length - 1; i >= 0; i--) sums[i] = sums[i + 1]! + value(fronts[i]!)
  return sums
}

/**
 * The relaxation's multiplier and a solution within the budget: steps along the convex hulls of all groups in the order of damage
 * saved per cost, as far as the budget goes; steps that do not fit are passed over for later ones that do.
 */
function relax(fronts: readonly Indexed[][], budget: number): { multiplier: number; picks: Indexed[] } {
  const hulls = fronts.map(hull)
  const steps = hulls
    .flatMap((points, group) =>
      points.slice(1).map((to, i) => {
        const from = points[i]!
        return {
          group,
          at: i + 1,
          to,
          extra: to.cost - from.cost,
          rate: (from.damage - to.damage) / (to.cost - from.cost),
        }
      }),
    )
    .sort((a, b) => b.rate - a.rate || a.group - b.group || a.at - b.at)
  const reached = hulls.map(() => 0)
  let left =
    budget -
    sum(
      hulls.map(points => points[0]!),
      "cost",
    )
  let multiplier = 0
  for (const { group, at, extra, rate } of steps) {
    if (reached[group] !== at - 1) continue
    if (extra > left) {
      multiplier = Math.max(multiplier, rate)
      continue
    }
    reached[group] = at
    left -= extra
  }
  return { multiplier, picks: hulls.map((points, group) => points[reached[group]!]!) }
}

function hull(choices: readonly Indexed[]): Indexed[] {
  const points: Indexed[] = []
  for (const choice of choices) {
    while (points.length > 1 && above(points.at(-2)!, points.at(-1)!, choice)) points.pop()
    points.push(choice)
  }
  return points
}

/** Whether b lies on or above the line from a to c. */
const above = (a: Choice, b: Choice, c: Choice): boolean =>
  (a.damage - b.damage) * (c.cost - a.cost) <= (a.damage - c.damage) * (b.cost - a.cost)

function trace(last: Pair): Indexed[] {
  const chosen: Indexed[] = []
  for (let pair: Pair | null = last; pair?.choice; pair = pair.before) chosen.push(pair.choice)
  return chosen.reverse()
}
