import type { Command } from "commander"
import {
  addRunFlags,
  integer,
  interruptible,
  loadOptions,
  positive,
  real,
  refuseLater,
  type SharedFlags,
} from "./arguments.ts"
import { note, print, printJson } from "./output.ts"
import { showProgress } from "./progress.ts"

interface Flags extends SharedFlags {
  prompt: string
  maxTokens?: number
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
  repetitionPenalty?: number
  seed?: number
  stop?: string[]
  adapter?: string
}

export function addGenerate(program: Command): void {
  addRunFlags(
    program
      .command("generate")
      .description("continue a text")
      .argument("<model>", "Hugging Face folder or .gguf file")
      .requiredOption("--prompt <text>", "text to continue")
      .option("--max-tokens <n>", "new tokens at most", positive)
      .option("--temperature <t>", "0: greedy", real)
      .option("--top-k <n>", "only the k most likely tokens", integer)
      .option("--top-p <p>", "only the most likely tokens that together reach p", real)
      .option("--min-p <p>", "only tokens at least p times as likely as the most likely one", real)
      .option("--repetition-penalty <r>", "1: off", real)
      .option("--seed <n>", "same seed, same text", integer)
      .option("--stop <text...>", "end before this text")
      .option("--adapter <folder>", "LoRA adapter as PEFT saves it, run beside the weights")
      .option("--json", "one JSON object on stdout"),
  ).action(async (path: string, flags: Flags) => {
    refuseLater(flags)
    const { loadModel } = await import("../engine/load-model.ts")
    const { setThreads } = await import("../core/machine.ts")
    if (flags.threads !== undefined) setThreads(flags.threads)
    const progress = showProgress()
    const interrupt = interruptible()
    try {
      const model = await loadModel(path, {
        ...loadOptions(flags),
        ...(flags.adapter !== undefined && { adapters: { adapter: flags.adapter } }),
        signal: interrupt.signal,
        onProgress: progress.onProgress,
        onWarning: text => progress.note(`warning: ${text}`),
      })
      progress.stop()
      try {
        const { prompt, maxTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop, activations } = flags
        const adapter = flags.adapter === undefined ? undefined : "adapter"
        const chosen = { maxTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop, activations, adapter }
        const options = Object.fromEntries(Object.entries(chosen).filter(([, value]) => value !== undefined))
        const stream = model.generate(prompt, { ...options, signal: interrupt.signal })
        for (;;) {
          const next = await stream.next()
          if (next.done) {
            const { text, tokens, promptTokens, newTokens, prefillTokensPerSecond, decodeTokensPerSecond } = next.value
            if (flags.json)
              printJson({
                text,
                tokens,
                promptTokens,
                newTokens,
                prefillTokensPerSecond,
                decodeTokensPerSecond,
                activations: activations ?? model.activations,
              })
            else {
              print("")
              note(
                `${promptTokens} prompt tokens at ${prefillTokensPerSecond.toFixed(1)}/s, ${newTokens} new at ${decodeTokensPerSecond.toFixed(1)}/s`,
              )
            }
            break
          }
          if (!flags.json) process.stdout.write(next.value.text)
        }
      } finally {
        model.dispose()
      }
    } finally {
      progress.stop()
      interrupt.done()
    }
  })
}
