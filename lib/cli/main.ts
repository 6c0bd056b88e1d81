#!/usr/bin/env node
// `tsq`, as npm installs it.
import { printError } from "./output.ts"
import { run } from "./run.ts"

// A reader that goes away (`tsq … | head`) ends the output, not the program with a stack trace.
process.stdout.on("error", error => {
  if ((error as NodeJS.ErrnoException).code === "EPIPE") process.exit(0)
  throw error
})

run(process.argv.slice(2)).then(
  code => {
    process.exitCode = code
  },
  error => {
    printError(error)
    process.exitCode = 1
  },
)
