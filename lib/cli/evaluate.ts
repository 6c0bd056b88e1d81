import { type Command, Option } from "commander"
import { addRunFlags, cacheOptions, interruptible, positive, refuseLater, type SharedFlags } from "./arguments.ts"
import { print, printJson } from "./output.ts"
import { showProgress } from "./progress.ts"
import { readText } from "./text-file.ts"

interface Flags extends SharedFlags {
  text: string
  window?: number
  stride?: number
  protocol?: string
  against?: string
  adapter?: string
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
      .option("--adapter <folder>", "LoRA adapter as PEFT saves it, run beside the model's weights")
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
        ...(flags.adapter !== undefined && { adapter: "adapter" }),
        load: {
          ...cacheOptions(flags),
          ...(flags.adapter !== undefined && { adapters: { adapter: flags.adapter } }),
          onWarning: text => progress.note(`warning: ${text}`),
        },
        signal: interrupt.signal,
        onProgress: progress.onProgress,
      })
      progress.stop()
      if (flags.json) return printJson(result)
      print(
        `perplexity ${result.perplexity.toFixed(4)} over ${result.tokenCount} tokens (${result.protocol}, window ${result.window})`,
      )
      if (result.against) {
        const { perplexity, klMean, klP99, klMax, topAgreement } = result.against
        print(`reference  ${perplexity.toFixed(4)}`)
        print(
          `KL ${klMean.toExponential(3)} nats per token (99 % ${klP99.toExponential(2)}, max ${klMax.toExponential(2)}), same top token ${(topAgreement * 100).toFixed(2)} %`,
        )
      }
    } finally {
      progress.stop()
      interrupt.done()
    }
  })
}
