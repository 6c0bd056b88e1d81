// The command line: parses it and hands over to one file a command. Commands load the library only when they run, so that help
// needs no addon.
import { Command, CommanderError } from "commander"
import { packageVersion } from "../core/version.ts"
import { addBench } from "./bench.ts"
import { addConvert } from "./convert.ts"
import { addDevices } from "./devices.ts"
import { addEvaluate } from "./evaluate.ts"
import { addGenerate } from "./generate.ts"
import { addInspect } from "./inspect.ts"
import { addLater } from "./later.ts"
import { printError } from "./output.ts"
import { addQuantize } from "./quantize.ts"

const usageExit = 2

/** Runs one command line without the program's own name. Returns the exit code: 0 done, 1 failed, 2 usage. */
export async function run(argv: readonly string[]): Promise<number> {
  const program = new Command("tsq")
    .description("Quantize Hugging Face LLM checkpoints and run them with fused low-bit kernels.")
    .version(packageVersion)
    .showSuggestionAfterError()
    .exitOverride()
    .configureHelp({ showGlobalOptions: false })
  for (const add of [addQuantize, addEvaluate, addGenerate, addConvert, addInspect, addBench, addDevices, addLater])
    add(program)
  for (const command of program.commands) command.exitOverride().showSuggestionAfterError()
  try {
    await program.parseAsync(argv, { from: "user" })
    return 0
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : usageExit
    printError(error)
    return 1
  }
}
