// Timing that does not favour whoever came first: every round runs each contender once, in turn, so that what the machine
// does meanwhile (clock, neighbours, pages) falls on all of them alike.
import { setTimeout as sleep } from "node:timers/promises"
import { throwIfAborted } from "../core/errors.ts"
import { type Summary, summarize } from "./statistics.ts"

export interface Contender {
  /** Units of work, such as products, that one run does. */
  units: number
  /** `count` runs, one after the other. */
  run(count: number): void | Promise<void>
}

export interface RoundOptions {
  rounds: number
  /** Measured time of each contender, all rounds together; at least one run a round. */
  seconds: number
  /** Untimed before each timed block: threads of the contender before come to rest. */
  pauseMs?: number | undefined
  signal?: AbortSignal | undefined
  /** Called between blocks, for other measurements of the same round. */
  beforeRound?: ((round: number) => void) | undefined
}

export interface Timing {
  /** Milliseconds of a unit, one value a round. */
  samples: number[]
  summary: Summary
  /** Runs of a round. */
  runs: number
}

/**
 * Every block begins with this much untimed work: threads wake up, and the memory controller, which slows down when idle,
 * takes some ten milliseconds to come back (measured on Granite Rapids: 7 GB/s at first, 31 at last).
 */
export const warmMs = 25

/** Times every contender in interleaved rounds. The first run of each, which finds out how long it takes, is not counted. */
export async function timeRounds(contenders: readonly Contender[], options: RoundOptions): Promise<Timing[]> {
  const { rounds, seconds, pauseMs = 2, signal } = options
  const target = (seconds * 1000) / rounds
  const plans: { contender: Contender; runMs: number; runs: number; samples: number[] }[] = []
  for (const contender of contenders) {
    throwIfAborted(signal)
    await elapsed(contender, 1)
    let runMs = await elapsed(contender, 1)
    // A short run is timed by several, until they take long enough to count.
    for (let runs = 4; runMs * runs < target / 4 && runs < 2 ** 20; runs *= 4)
      runMs = (await elapsed(contender, runs)) / runs
    plans.push({ contender, runMs, runs: Math.max(1, Math.round(target / runMs)), samples: [] })
  }
  for (let round = 0; round < rounds; round++) {
    options.beforeRound?.(round)
    for (const plan of plans) {
      throwIfAborted(signal)
      if (pauseMs > 0) await sleep(pauseMs)
      if (plan.runMs < warmMs) await plan.contender.run(Math.ceil(warmMs / plan.runMs))
      const ms = await elapsed(plan.contender, plan.runs)
      plan.samples.push(ms / (plan.runs * plan.contender.units))
    }
  }
  return plans.map(({ samples, runs }) => ({ samples, summary: summarize(samples), runs }))
}

async function elapsed(contender: Contender, count: number): Promise<number> {
  const start = performance.now()
  // A contender that returns nothing costs no turn of the event loop.
  const pending = contender.run(count)
  if (pending) await pending
  return performance.now() - start
}
