// Kills a quantization at random moments with SIGKILL, resumes it, and compares the output with that of a run that was left alone,
// byte for byte. Options: --rounds N (default 10), --seed N, --model DIR (default models/fable-5m), --preset NAME (default awq-gptq).
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { quantizeModel } from "../lib/quantize/quantize-model.ts"
import type { PresetName } from "../lib/quantize/recipe.ts"
import { table } from "../lib/report/tables.ts"

const path = (name: string) => fileURLToPath(new URL(`../${name}`, import.meta.url))

function digest(directory: string): string {
  const hash = createHash("sha256")
  for (const name of readdirSync(directory).sort()) hash.update(name).update(readFileSync(join(directory, name)))
  return hash.digest("hex")
}

const blocksIn = (store: string) =>
  existsSync(store) ? readdirSync(store).filter(name => name.endsWith(".safetensors")).length : 0

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "10" },
      seed: { type: "string", default: "1" },
      model: { type: "string", default: path("models/fable-5m") },
      preset: { type: "string", default: "awq-gptq" },
      child: { type: "string" },
    },
  })
  const options = {
    preset: values.preset as PresetName,
    calibration: readFileSync(path("models/text/fable-calib.txt"), "utf8"),
    samples: 8,
    force: true,
  }
  if (values.child !== undefined) {
    process.stdout.write("ready\n")
    await quantizeModel(values.model, values.child, { ...options, resume: true })
    return
  }
  const directory = await mkdtemp(join(tmpdir(), "tsq-kill-"))
  try {
    const whole = join(directory, "whole")
    const begin = performance.now()
    await quantizeModel(values.model, whole, options)
    const duration = performance.now() - begin
    const wanted = digest(whole)
    let state = Number(values.seed) * 2654435761
    const rows: string[][] = []
    let failed = false
    for (let round = 0; round < Number(values.rounds); round++) {
      const out = join(directory, `out-${round}`)
      // A linear congruential step: moments spread over the run's whole length, writing and verification included.
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      const moment = (duration * 1.05 * (round + state / 2 ** 32)) / Number(values.rounds)
      const args = [
        "--import",
        "tsx",
        fileURLToPath(import.meta.url),
        "--child",
        out,
        "--model",
        values.model,
        "--preset",
        values.preset,
      ]
      const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] })
      child.stdout.once("data", () => setTimeout(() => child.kill("SIGKILL"), moment))
      const signal = await new Promise(resolve => child.on("close", (_, signal) => resolve(signal)))
      const blocks = blocksIn(`${out}.tsq-resume`)
      const there = existsSync(out)
      if (!there) await quantizeModel(values.model, out, { ...options, resume: true })
      const same = digest(out) === wanted
      const left = readdirSync(directory).filter(name => name.startsWith(`out-${round}.`))
      failed ||= !same || left.length > 0
      rows.push([
        `${(moment / 1000).toFixed(2)} s`,
        signal === "SIGKILL" ? "killed" : "had finished",
        String(blocks),
        same ? "same bytes" : "DIFFERENT",
        left.join(" "),
      ])
      await rm(out, { recursive: true, force: true })
    }
    console.log(`uninterrupted run: ${(duration / 1000).toFixed(2)} s, sha256 ${wanted.slice(0, 16)}`)
    console.log(
      table(
        ["moment", "process", "blocks finished", "resumed output", "left behind"],
        ["right", "left", "right", "left", "left"],
        rows,
      ),
    )
    if (failed) process.exitCode = 1
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

await main()
