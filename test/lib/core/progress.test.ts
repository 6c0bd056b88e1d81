import { setTimeout as sleep } from "node:timers/promises"
import t from "tap"
import { type Progress, progressReporter } from "../../../lib/core/progress.ts"

t.test("times are added, and what remains is estimated within a stage", async t => {
  const seen: Progress[] = []
  const report = progressReporter(progress => seen.push(progress))
  report({ stage: "calibrate", done: 0, total: 4 })
  await sleep(20)
  report({ stage: "calibrate", done: 1, total: 4, detail: "block 1/4" })
  report({ stage: "write", done: 2, total: 4 })
  t.equal(seen[0]!.remainingMs, undefined)
  t.equal(seen[1]!.detail, "block 1/4")
  t.ok(seen[1]!.elapsedMs >= 19)
  t.ok(seen[1]!.remainingMs! >= 3 * 19, "three more like the first")
  t.equal(seen[2]!.remainingMs, undefined, "a new stage has no pace yet")
})

t.test("without a callback nothing happens; an error in it reaches the caller", async t => {
  t.doesNotThrow(() => progressReporter(undefined)({ stage: "plan", done: 0, total: 1 }))
  const failing = progressReporter(() => {
    throw new Error("mine")
  })
  t.throws(() => failing({ stage: "plan", done: 0, total: 1 }), { message: "mine" })
})
