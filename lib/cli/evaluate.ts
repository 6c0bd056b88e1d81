import { type Command, Option } from "commander"
import { addRunFlags, cacheOptions, interruptible, positive, refuseLater, type SharedFlags } from "./arguments.ts"
import { print, printJson, writePage } from "./output.ts"
import { showProgress } from "./progress.ts"
import { readText } from "./text-file.ts"

interface Flags extends SharedFlags {
  text: string
  window?: number
  stride?: number
  protocol?: string
  against?: string
  layers?: boolean
  html?: string
}

export function addEvaluate(program: Command): void {
  addRunFlags(
    program
      .command("evaluate")
      .description("perplexity of a model on a text, and its distance from another model")
      .argument("<model>", "Hugging Face folder")
      .requiredOption("--text <file>", "UTF-8 text")
      .option("--window <n>", "tokens of a window", positive)
      .option("--stride <n>", "score only each window's last n positions", positive)
      .addOption(
        new Option("--protocol <name>", "how windows are cut and scored")
          .choices(["gptq", "llama.cpp", "whole"])
          .default("gptq"),
      )
      .option("--against <model>", "reference model: adds KL divergence and top-token agreement")
      .option("--layers", "with --against: the error of the residual stream after every block")
      .option("--html <file>", "what was found, as a page with plots")
      .option("--json", "one JSON object on stdout"),
  ).action(async (model: string, flags: Flags) => {
    refuseLater(flags)
    const text = await readText(flags.text, "--text")
    const { evaluateModel } = await import("../evaluate/evaluate-model.ts")
    const { setThreads } = await import("../core/machine.ts")
    if (flags.threads !== undefined) setThreads(flags.threads)
    const progress = showProgress()
    const interrupt = interruptible()
    try {
      const result = await evaluateModel(model, {
        text,
        protocol: flags.protocol as never,
        ...(flags.activations && { activations: flags.activations }),
        ...(flags.window !== undefined && { window: flags.window }),
        ...(flags.stride !== undefined && { stride: flags.stride }),
        ...(flags.against !== undefined && { against: flags.against }),
        ...(flags.layers && { layers: true }),
        load: { ...cacheOptions(flags), onWarning: text => progress.note(`warning: ${text}`) },
        signal: interrupt.signal,
        onProgress: progress.onProgress,
      })
      progress.stop()
      const { evaluationParts, evaluationText } = await import("../report/evaluation.ts")
      if (flags.html !== undefined) {
        const { htmlPage } = await import("../report/html.ts")
        await writePage(flags.html, htmlPage(`tsq evaluate: ${result.model}`, evaluationParts(result)))
      }
      if (flags.json) return printJson(result)
      print(evaluationText(result))
    } finally {
      progress.stop()
      interrupt.done()
    }
  })
}
