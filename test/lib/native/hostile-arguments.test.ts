import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import t from "tap"

const script = fileURLToPath(new URL("hostile-arguments.mjs", import.meta.url))

// A crash, an abort, an error of another class or an "internal error" makes the child fail.
for (const seed of [1, 2])
  t.test(`thousands of calls with random arguments, seed ${seed}`, async t => {
    const { NODE_OPTIONS, ...env } = process.env
    const { stdout } = await promisify(execFile)(process.execPath, [script, String(seed), "500"], { env })
    const outcome = JSON.parse(stdout)
    t.ok(outcome.calls > 15_000)
    t.ok(outcome.done > 2_000, "many calls get through to the work")
    t.ok(outcome.refused > 2_000, "many are refused")
    for (const code of ["ERR_OPTION", "ERR_SHAPE", "ERR_DTYPE", "ERR_FORMAT", "ERR_ABORTED"])
      t.ok(outcome.codes[code] > 0, code)
    t.equal(outcome.leaked, 0, "no handle is left")
  })
