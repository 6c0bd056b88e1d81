// The knapsack against brute force, and what it does where nothing fits or too many pairs are left.
import t from "tap"
import { allocate, type Choice } from "../../../../lib/quantize/mixed/allocate.ts"
import { random } from "../../models/support/tiny-checkpoint.ts"

/** Every combination. */
function bruteForce(groups: readonly (readonly Choice[])[], budget: number): number | null {
  let best: number | null = null
  const visit = (index: number, cost: number, damage: number): void => {
    if (cost > budget * (1 + 1e-12)) return
    if (index === groups.length) {
      if (best === null || damage < best) best = damage
      return
    }
    for (const choice of groups[index]!) visit(index + 1, cost + choice.cost, damage + choice.damage)
  }
  visit(0, 0, 0)
  return best
}

t.test("as brute force finds it", async t => {
  const next = random(11)
  for (let round = 0; round < 300; round++) {
    const groups = Array.from({ length: 1 + Math.floor(next() * 6) }, () =>
      Array.from({ length: 1 + Math.floor(next() * 5) }, () => ({
        cost: round % 2 === 0 ? Math.floor(next() * 20) : next(),
        damage: round % 3 === 0 ? Math.floor(next() * 10) : next() ** 4,
      })),
    )
    const budget = groups.reduce((sum, group) => sum + Math.max(...group.map(choice => choice.cost)), 0) * next()
    const wanted = bruteForce(groups, budget)
    const found = allocate(groups, budget)
    if (wanted === null) {
      t.equal(found, null)
      continue
    }
    const total = (key: keyof Choice) => found!.picks.reduce((sum, pick, i) => sum + groups[i]![pick]![key], 0)
    t.ok(Math.abs(total("damage") - wanted) <= 1e-9 * Math.max(wanted, 1), `round ${round}: least damage`)
    t.ok(total("cost") <= budget * (1 + 1e-9), "within the budget")
    t.ok(Math.abs(found!.damage - total("damage")) < 1e-12 && Math.abs(found!.cost - total("cost")) < 1e-9)
    t.equal(found!.bound, found!.damage, "known to be optimal")
  }
})

t.test("a large model in a moment, and a bound where pairs are dropped", async t => {
  const next = random(5)
  const groups = Array.from({ length: 400 }, () => {
    const weights = 1e6 + Math.floor(next() * 1e6)
    const sensitivity = next() ** 3
    return [2, 3, 4, 5, 6, 8].map(bits => ({
      cost: bits * weights,
      damage: sensitivity * 4 ** -bits * (0.8 + 0.4 * next()),
    }))
  })
  const budget = 4.125 * groups.reduce((sum, group) => sum + group[0]!.cost / 2, 0)
  const best = allocate(groups, budget)!
  t.ok(best.cost <= budget && best.cost > 0.999 * budget)
  const cut = allocate(groups, budget, 20)!
  t.ok(cut.cost <= budget)
  t.ok(cut.bound <= best.damage * (1 + 1e-9), "the bound holds")
  t.ok(cut.damage >= best.damage * (1 - 1e-9) && cut.damage <= 1.01 * best.damage, "and the result is near")
  t.strictSame(allocate(groups, budget), best, "the same again")
})
