// What takes longer than a change should wait for: thread sanitizer, every recorded perplexity, more kills, longer fuzzing.
import { execFileSync } from "node:child_process"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const run = (command: string, args: string[]) => {
  console.log(`\n== ${command} ${args.join(" ")}`)
  execFileSync(command, args, { cwd: root, stdio: "inherit", env: { ...process.env, TSQ_LONG_TESTS: "1" } })
}

run("npm", ["run", "test:native", "--silent", "--", "--sanitize", "thread"])
run("npm", ["run", "build:native", "--silent"])
run("npx", ["tap", "--timeout=3600"])
for (const seed of ["101", "102", "103"]) run("node", ["test/lib/native/hostile-arguments.mjs", seed, "3000"])
run("npx", ["tsx", "bench/kill-resume.ts"])
