// Interleaving: who runs when, how often, and what a unit costs.
import t from "tap"
import { type Contender, timeRounds } from "../../../lib/bench/rounds.ts"

/** Sleeps without giving the thread away. */
function spin(ms: number): void {
  const end = performance.now() + ms
  while (performance.now() < end);
}

t.test("contenders take turns, round after round", async t => {
  const calls: string[] = []
  const contender = (name: string): Contender => ({
    units: 1,
    run(count) {
      calls.push(name)
      spin(count * 0.2)
    },
  })
  const seen: number[] = []
  const timings = await timeRounds([contender("a"), contender("b")], {
    ...{ rounds: 4, seconds: 0.004, pauseMs: 0 },
    beforeRound: round => seen.push(round),
  })
  t.strictSame(seen, [0, 1, 2, 3])
  t.equal(timings.length, 2)
  for (const { samples, summary, runs } of timings) {
    t.equal(samples.length, 4)
    t.equal(summary.count, 4)
    t.ok(runs >= 1)
    t.ok(summary.min >= 0.15, `${summary.min} ms for a run of 0.2`)
  }
  // Of each round the timed call is the second of a pair: one to warm up, one that counts.
  t.equal(calls.slice(-16).join(""), "aabbaabbaabbaabb")
})

t.test("units divide a run's time; promises are waited for", async t => {
  const contender: Contender = {
    units: 4,
    async run(count) {
      for (let i = 0; i < count; i++) {
        await Promise.resolve()
        spin(0.8)
      }
    },
  }
  const [timing] = await timeRounds([contender], { rounds: 3, seconds: 0.003 })
  t.ok(timing!.summary.min >= 0.19 && timing!.summary.min < 0.8, `${timing!.summary.min} ms for a unit of 0.2`)
})

t.test("quick runs are made many times", async t => {
  let most = 0
  const contender: Contender = {
    units: 1,
    run(count) {
      most = Math.max(most, count)
    },
  }
  await timeRounds([contender], { rounds: 2, seconds: 0.01 })
  t.ok(most > 100, `${most} runs`)
})

t.test("a signal ends it", async t => {
  const controller = new AbortController()
  const contender: Contender = {
    units: 1,
    run() {
      controller.abort(new Error("enough"))
    },
  }
  await t.rejects(timeRounds([contender], { rounds: 2, seconds: 0.01, signal: controller.signal }), {
    code: "ERR_ABORTED",
    name: "AbortError",
  })
})
