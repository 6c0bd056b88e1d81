// Runs `tsq`: in a process of its own, or in this one where only its words and its exit code matter.
import { type ChildProcess, spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { run } from "../../../lib/cli/run.ts"

const main = fileURLToPath(new URL("../../../lib/cli/main.ts", import.meta.url))

export interface Finished {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

/** Starts the command line; `finished` holds everything that it wrote. */
export function start(
  args: readonly string[],
  prefix: readonly string[] = [],
): { child: ChildProcess; finished: Promise<Finished> } {
  const [program, ...rest] = [...prefix, process.execPath, "--import", "tsx", main, ...args] as [string, ...string[]]
  const child = spawn(program, rest, { stdio: ["ignore", "pipe", "pipe"] })
  let [stdout, stderr] = ["", ""]
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text
  })
  const finished = new Promise<Finished>((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
  return { child, finished }
}

export const tsq = (...args: string[]): Promise<Finished> => start(args).finished

/** Exactly one JSON object and a line end. */
export function onlyJson({ stdout }: Finished): Record<string, unknown> {
  if (!stdout.endsWith("}\n")) throw new Error(`not one JSON object: ${stdout}`)
  return JSON.parse(stdout)
}

/** The same without a process: what it would print is caught. */
export async function inProcess(...args: string[]): Promise<Omit<Finished, "signal">> {
  const written = { stdout: "", stderr: "" }
  const originals = { stdout: process.stdout.write, stderr: process.stderr.write }
  for (const name of ["stdout", "stderr"] as const)
    process[name].write = ((text: string) => {
      written[name] += text
      return true
    }) as typeof process.stdout.write
  try {
    const code = await run(args)
    return { code, ...written }
  } finally {
    for (const name of ["stdout", "stderr"] as const) process[name].write = originals[name]
  }
}
