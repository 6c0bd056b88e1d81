// npm run fuzz [-- --files N] [--seed S] [container …]: damaged files of every container; 200,000 each unless asked otherwise.
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { containers } from "../test/lib/fuzz/containers.ts"
import { fuzz } from "../test/lib/fuzz/fuzz.ts"

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { files: { type: "string", default: "200000" }, seed: { type: "string", default: "1" } },
})
const [files, seed] = [Number(values.files), Number(values.seed)]
const chosen = containers.filter(({ name }) => positionals.length === 0 || positionals.includes(name))
let failed = 0
for (const container of chosen) {
  const directory = mkdtempSync(join(tmpdir(), "tsq-fuzz-"))
  try {
    const result = await fuzz(container, { files, seed, directory })
    const outcomes = Object.entries(result.outcomes)
      .sort(([, a], [, b]) => b - a)
      .map(([name, count]) => `${name} ${count}`)
    const megabytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MB`
    console.log(
      `${result.container}, seed ${seed}: ${files} files in ${result.seconds.toFixed(1)} s: ${outcomes.join(", ")}; ` +
        `at most ${megabytes(result.mostBeyond)} beyond a file's size, the process grew by ${megabytes(result.grownBy)}`,
    )
    for (const failure of result.failures.slice(0, 10)) console.error(`  ${failure}`)
    failed += result.failures.length
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}
if (chosen.length === 0)
  console.error(`no container of ${positionals.join(", ")}: ${containers.map(({ name }) => name).join(", ")}`)
process.exitCode = failed > 0 || chosen.length === 0 ? 1 : 0
