// Two runs must not write the same output at a time: they would share the folder of finished blocks.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import t from "tap"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { RunLock } from "../../../lib/quantize/run-lock.ts"

const fable = fileURLToPath(new URL("../../../models/fable-5m", import.meta.url))

t.test("the second of two runs on one output is refused and harms nothing", async t => {
  const work = mkdtempSync(join(tmpdir(), "tsq-lock-"))
  t.teardown(() => rmSync(work, { recursive: true, force: true }))
  const out = join(work, "out")
  let second: Promise<unknown> | undefined
  await quantizeModel(fable, out, {
    preset: "rtn",
    onProgress: ({ stage }) => {
      if (stage === "quantize" && !second)
        second = t.rejects(quantizeModel(fable, out, { preset: "rtn", scheme: "w3a16", force: true }), {
          code: "ERR_OPTION",
          message: /another run .* is writing/,
        })
    },
  })
  t.ok(second)
  await second
  t.ok(existsSync(join(out, "model.safetensors")))
  t.notOk(existsSync(`${out}.tsq-lock`))
})

t.test("a lock whose process is gone is taken over", async t => {
  const work = mkdtempSync(join(tmpdir(), "tsq-lock-"))
  t.teardown(() => rmSync(work, { recursive: true, force: true }))
  const out = join(work, "out")
  for (const left of ["4194303\n", `${process.pid}\n`, ""]) {
    writeFileSync(`${out}.tsq-lock`, left)
    const lock = await RunLock.acquire(out)
    await t.rejects(RunLock.acquire(out), { code: "ERR_OPTION" })
    await lock.release()
    t.notOk(existsSync(`${out}.tsq-lock`))
  }
  writeFileSync(`${out}.tsq-lock`, `${process.ppid}\n`)
  await t.rejects(RunLock.acquire(out), { code: "ERR_OPTION", message: new RegExp(`process ${process.ppid}`) })
})
