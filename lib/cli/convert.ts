import type { Command } from "commander"
import { interruptible } from "./arguments.ts"
import { bytesText, print, printJson, warn } from "./output.ts"
import { showProgress } from "./progress.ts"

interface Flags {
  format: string
  gptqVersion?: string
  force?: boolean
  json?: boolean
}

export function addConvert(program: Command): void {
  program
    .command("convert")
    .description("a quantized checkpoint into another format, exactly or not at all")
    .argument("<model>", "quantized Hugging Face folder")
    .argument("<out>", "folder to create")
    .requiredOption(
      "--format <name>",
      "gptq, awq, compressed-tensors, fp8, fbgemm_fp8, modelopt, bitsandbytes or marlin",
    )
    .option("--gptq-version <version>", "v1 (widest reach), v2 or planar (GPTQModel's, 5 to 7 bits too)")
    .option("--force", "replace an existing output")
    .option("--json", "one JSON object on stdout")
    .action(async (model: string, out: string, flags: Flags) => {
      const { convertModel } = await import("../quantize/convert-model.ts")
      const progress = showProgress()
      const interrupt = interruptible()
      try {
        const report = await convertModel(model, out, {
          format: flags.format as never,
          ...(flags.gptqVersion !== undefined && { gptqVersion: flags.gptqVersion as never }),
          force: flags.force ?? false,
          signal: interrupt.signal,
          onProgress: progress.onProgress,
          onWarning: warn,
        })
        progress.stop()
        if (flags.json) return printJson(report)
        print(`${out}: ${report.modules} modules from ${report.from} to ${report.to}, ${bytesText(report.totalBytes)}`)
      } finally {
        progress.stop()
        interrupt.done()
      }
    })
}
