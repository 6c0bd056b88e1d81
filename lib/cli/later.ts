// Commands of the surface that are not built yet.
import type { Command } from "commander"
import { TsqError } from "../core/errors.ts"

export function addLater(program: Command): void {
  for (const [name, description] of [["serve", "an OpenAI-compatible HTTP server over a model"]] as const)
    program
      .command(name)
      .description(`${description} (not available in this version)`)
      .allowUnknownOption()
      .allowExcessArguments()
      .action(() => {
        throw new TsqError("ERR_UNSUPPORTED", `tsq ${name} is not available in this version`)
      })
}
