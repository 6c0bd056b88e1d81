// Interrupted runs: aborted at every stage or killed, then resumed, they write the same bytes as a run that was left alone.
import { spawn } from "node:child_process"
import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, utimesSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import { fileURLToPath } from "node:url"
import t, { type Test } from "tap"
import { setThreads } from "../../../lib/core/machine.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { random } from "../models/support/tiny-checkpoint.ts"
import { beside, folder, hashes, smallCalibration, smallCheckpoint, tokens } from "./support.ts"

const recipe: QuantizeModelOptions = {
  preset: "awq-gptq",
  groupSize: 32,
  // An untied head: its statistics need every block before it.
  overrides: [{ pattern: "lm_head", scheme: "w8a16" }],
  format: "compressed-tensors",
  ...smallCalibration,
}

const isStage = (name: string) => !name.endsWith(".json")

t.test("two runs and any number of threads write the same bytes", async t => {
  const source = smallCheckpoint(t, { tie_word_embeddings: false })
  const directory = folder(t)
  t.teardown(() => setThreads(2))
  for (const preset of ["awq-gptq", "awq"] as const) {
    const all: string[] = []
    for (const threads of [1, 2, 3, 3]) {
      setThreads(threads)
      const out = join(directory, `${preset}-${all.length}`)
      await quantizeModel(source, out, { preset, groupSize: 32, ...smallCalibration })
      all.push(JSON.stringify(hashes(out)))
    }
    t.equal(new Set(all).size, 1, preset)
  }
})

t.test("abort at every stage, then resume", async t => {
  const source = smallCheckpoint(t, { tie_word_embeddings: false })
  const directory = folder(t)
  let events = 0
  await quantizeModel(source, join(directory, "whole"), { ...recipe, onProgress: () => events++ })
  const whole = hashes(join(directory, "whole"))
  t.ok(events > 60, `${events} progress reports`)
  const points = [...Array.from({ length: Math.ceil(events / 7) }, (_, i) => i * 7), events - 2]
  const stages = new Set<string>()
  for (const point of points) {
    const out = join(directory, `out-${point}`)
    const controller = new AbortController()
    const reason = new Error("enough")
    let count = 0
    const onProgress: QuantizeModelOptions["onProgress"] = ({ stage }) => {
      if (count++ !== point) return
      stages.add(stage)
      controller.abort(reason)
    }
    await t.rejects(
      quantizeModel(source, out, { ...recipe, signal: controller.signal, onProgress }),
      { code: "ERR_ABORTED", name: "AbortError", cause: reason },
      `abort at ${point}`,
    )
    const left = readdirSync(directory).filter(name => name.startsWith(`out-${point}`))
    t.strictSame(
      left.filter(name => name !== `out-${point}.tsq-resume`),
      [],
      "nothing but finished blocks is left",
    )
    const resumed = new Set<string>()
    await quantizeModel(source, out, { ...recipe, resume: true, onProgress: ({ stage }) => resumed.add(stage) })
    t.strictSame(hashes(out), whole, `resumed after ${point}`)
    if (point > events / 2) t.ok(resumed.has("resume"), "finished blocks were not done again")
  }
  t.strictSame([...stages], ["check", "quantize", "write", "verify"])
  t.notOk(readdirSync(directory).some(name => name.includes(".tsq-")))
})

t.test("an abort before the start does nothing", async t => {
  const out = join(folder(t), "out")
  const options = { ...recipe, signal: AbortSignal.abort("no") }
  await t.rejects(quantizeModel(smallCheckpoint(t), out, options), { code: "ERR_ABORTED", cause: "no" })
  t.strictSame(beside(out), [])
})

/** A run that stops when two blocks are finished. */
async function interrupted(t: Test): Promise<{ source: string; out: string }> {
  const source = smallCheckpoint(t, { tie_word_embeddings: false })
  const out = join(folder(t), "out")
  const controller = new AbortController()
  const onProgress: QuantizeModelOptions["onProgress"] = ({ stage, done }) => {
    if (stage === "quantize" && done === 15) controller.abort()
  }
  await t.rejects(quantizeModel(source, out, { ...recipe, signal: controller.signal, onProgress }), {
    code: "ERR_ABORTED",
  })
  return { source, out }
}
t.test("a wrong resume is refused, a damaged block noticed", async t => {
  const { source, out } = await interrupted(t)
  const store = `${out}.tsq-resume`
  t.strictSame(readdirSync(store).filter(isStage), ["block-00000.safetensors", "block-00001.safetensors"])
  for (const change of [
    { scheme: "w3a16" as const },
    { groupSize: 64 as const, ignore: ["down_proj"] },
    { damp: 0.02 },
    { calibration: tokens(16 * 32, 64, 4) },
    { rounding: "nearest" as const },
  ])
    await t.rejects(
      quantizeModel(source, out, { ...recipe, ...change, resume: true }),
      { code: "ERR_OPTION", message: /belongs to another run/ },
      `refused with other ${Object.keys(change)[0]}`,
    )
  t.strictSame(readdirSync(store).filter(isStage).length, 2, "a refused resume loses nothing")

  const block = join(store, "block-00001.safetensors")
  const bytes = readFileSync(block)
  const flipped = Buffer.from(bytes)
  flipped[flipped.length - 5]! ^= 1
  writeFileSync(block, flipped)
  await t.rejects(quantizeModel(source, out, { ...recipe, resume: true }), {
    code: "ERR_CORRUPT",
    message: /block-00001/,
  })
  writeFileSync(block, bytes)
  truncateSync(block, bytes.length - 10)
  await t.rejects(quantizeModel(source, out, { ...recipe, resume: true }), {
    code: "ERR_CORRUPT",
    message: /block-00001/,
  })
  writeFileSync(block, bytes)
  await quantizeModel(source, out, { ...recipe, resume: true })
  t.strictSame(beside(out), ["out"])
})

t.test("resume with nothing to resume starts afresh; without resume finished blocks are dropped", async t => {
  const { source, out } = await interrupted(t)
  const stages = new Set<string>()
  await quantizeModel(source, out, { preset: "rtn", groupSize: 32, onProgress: ({ stage }) => stages.add(stage) })
  t.notOk(stages.has("resume"))
  await quantizeModel(source, `${out}-2`, { preset: "rtn", groupSize: 32, resume: true })
  t.strictSame(hashes(`${out}-2`), hashes(out))
})

t.test("folders of killed runs are removed by the next run of the same output", async t => {
  const source = smallCheckpoint(t)
  const out = join(folder(t), "out")
  const gone = `${out}.tsq-partial-4194305-0123abcd`
  const earlier = `${out}.tsq-partial-${process.pid}-0123abcd`
  const foreign = `${out}.tsq-partial-1-0123abcd`
  const other = `${out}2.tsq-partial-4194305-0123abcd`
  for (const path of [gone, earlier, foreign, other]) mkdirSync(path)
  utimesSync(earlier, 1, 1)
  await quantizeModel(source, out, { preset: "rtn", groupSize: 32 })
  t.strictSame(beside(out), ["out", basename(foreign), basename(other)])
})

t.test("kill -9 and resume", async t => {
  const source = smallCheckpoint(t, { tie_word_embeddings: false })
  const directory = folder(t)
  await quantizeModel(source, join(directory, "whole"), recipe)
  const whole = hashes(join(directory, "whole"))
  const next = random(Date.now() & 0xffff)
  for (let round = 0; round < 3; round++) {
    const out = join(directory, `killed-${round}`)
    // Somewhere in a third of the run's reports, and a little later.
    const lines = Math.floor((round + next()) * 27)
    await killAfter({ source, out, options: recipe }, lines, next() * 5)
    // The last round may come too late.
    if (!existsSync(out)) await quantizeModel(source, out, { ...recipe, resume: true })
    t.strictSame(hashes(out), whole, `killed after ${lines} reports`)
  }
  t.strictSame(readdirSync(directory).sort(), ["killed-0", "killed-1", "killed-2", "whole"])
})

/** Starts a run in a process of its own and kills it `delay` milliseconds after its n-th report. */
function killAfter(job: object, lines: number, delay: number): Promise<void> {
  const script = fileURLToPath(new URL("quantize-child.ts", import.meta.url))
  const child = spawn(process.execPath, ["--import", "tsx", script, JSON.stringify(job)], {
    stdio: ["ignore", "pipe", "inherit"],
  })
  let seen = 0
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    const before = seen
    seen += text.split("\n").length - 1
    if (before < lines + 1 && seen >= lines + 1) setTimeout(() => child.kill("SIGKILL"), delay)
  })
  return new Promise((resolve, reject) => {
    child.on("error", reject)
    child.on("close", () => resolve())
  })
}
