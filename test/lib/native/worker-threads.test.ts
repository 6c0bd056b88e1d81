import { spawn } from "node:child_process"
import { once } from "node:events"
import { setTimeout as delay } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { Worker } from "node:worker_threads"
import t from "tap"
import { native } from "../../../lib/native.ts"
import { floats, test } from "./helpers.ts"

const script = fileURLToPath(new URL("worker.mjs", import.meta.url))
const worker = (workerData: object) => new Worker(script, { workerData, execArgv: [], env: {} })

test("four workers compute beside the main thread, each with handles and errors of its own", async t => {
  const weight = native.packDenseSync(floats(new Float32Array(4096).fill(1)), 0, 64, 64, 0)
  const workers = Array.from({ length: 4 }, () => worker({ task: "compute", foreign: weight }))
  const messages = workers.map(each => once(each, "message"))
  const exits = workers.map(each => once(each, "exit"))
  for (let i = 0; i < 200; ++i) {
    const y = floats(new Float32Array(64))
    await native.matmulAsync(weight, floats(new Float32Array(64).fill(1)), 0, 1, y, 0, null, 0)
    if (!y.every(value => value === 64)) t.fail("wrong product on the main thread")
  }
  for (const [message] of await Promise.all(messages))
    t.same(message, { sum: 50 * 8 * 64 * 256, code: "WorkerError ERR_OPTION", handles: 0 })
  for (const [code] of await Promise.all(exits)) t.equal(code, 0)
  native.release(weight)
})

t.test("a worker that is terminated during work leaves the process alone", async t => {
  for (const milliseconds of [0, 20, 80]) {
    const workers = [worker({ task: "endless" }), worker({ task: "endless" })]
    await Promise.all(workers.map(each => once(each, "message")))
    await delay(milliseconds)
    await Promise.all(workers.map(each => each.terminate()))
  }
  const y = floats(new Float32Array(1))
  const weight = native.packDenseSync(floats([2]), 0, 1, 1, 0)
  await native.matmulAsync(weight, floats([3]), 0, 1, y, 0, null, 0)
  t.equal(y[0], 6, "the pool still works")
  native.release(weight)
})

t.test("process.exit() during work exits with its code", async t => {
  const { NODE_OPTIONS, ...env } = process.env
  const child = spawn(process.execPath, [script], { env, stdio: "inherit" })
  t.same(await once(child, "exit"), [7, null])
})
