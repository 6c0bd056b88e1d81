import type { Command } from "commander"
import { byteSize, groupSize, interruptible } from "./arguments.ts"
import { bytesText, print, printJson, warn } from "./output.ts"
import { showProgress } from "./progress.ts"

interface Flags {
  format?: string
  gptqVersion?: string
  allowRequantize?: boolean
  scheme?: string
  groupSize?: number | "channel" | "tensor"
  asymmetric?: boolean
  preset?: string
  dtype?: string
  splitSize?: number
  force?: boolean
  json?: boolean
}

export function addConvert(program: Command): void {
  program
    .command("convert")
    .description("a model into another format, exactly or not at all")
    .argument("<model>", "Hugging Face folder or .gguf file")
    .argument("<out>", "folder to create, .gguf file, or .onnx file of the quantized layers")
    .option(
      "--format <name>",
      "gptq, awq, compressed-tensors, fp8, fbgemm_fp8, modelopt, bitsandbytes, marlin or dense; a .gguf or .onnx output needs none",
    )
    .option("--gptq-version <version>", "v1 (widest reach), v2 or planar (GPTQModel's, 5 to 7 bits too)")
    .option("--allow-requantize", "round again what the target does not hold, and say what that costs")
    .option("--scheme <name>", "of what is rounded again for a folder: w4a16, w8a16 …")
    .option("--group-size <n>", "columns of a group, channel or tensor", groupSize)
    .option("--asymmetric", "with zero points")
    .option("--preset <name>", "types of a .gguf file, as for quantize: q4_k_m, q8_0, f16 …")
    .option("--dtype <type>", "of what becomes dense: f32 (exact), f16 or bf16")
    .option("--split-size <size>", "tensor bytes of a part of a .gguf file, at most", byteSize)
    .option("--force", "replace an existing output")
    .option("--json", "one JSON object on stdout")
    .action(async (model: string, out: string, flags: Flags, command: Command) => {
      if (flags.format === undefined && !/\.(gguf|onnx)$/.test(out))
        command.error("error: required option '--format <name>' not specified: only a .gguf or .onnx output needs none")
      const { convertModel } = await import("../quantize/convert-model.ts")
      const progress = showProgress()
      const interrupt = interruptible()
      try {
        const report = await convertModel(model, out, {
          ...(flags.format !== undefined && { format: flags.format as never }),
          ...(flags.gptqVersion !== undefined && { gptqVersion: flags.gptqVersion as never }),
          ...(flags.allowRequantize && { allowRequantize: true }),
          ...(flags.scheme !== undefined && { scheme: flags.scheme as never }),
          ...(flags.groupSize !== undefined && { groupSize: flags.groupSize }),
          ...(flags.asymmetric && { symmetric: false }),
          ...(flags.preset !== undefined && { preset: flags.preset as never }),
          ...(flags.dtype !== undefined && { dtype: flags.dtype as never }),
          ...(flags.splitSize !== undefined && { maxPartBytes: flags.splitSize }),
          force: flags.force ?? false,
          signal: interrupt.signal,
          onProgress: progress.onProgress,
          onWarning: warn,
        })
        progress.stop()
        if (flags.json) return printJson(report)
        print(`${out}: ${report.modules} modules from ${report.from} to ${report.to}, ${bytesText(report.totalBytes)}`)
        if (report.exact) return print("every value is the same")
        print(
          `${report.requantized} tensors were rounded again: relative error ${report.relativeError.toPrecision(3)}, at most ${report.maxError.toPrecision(3)}`,
        )
        const worst = report.tensors.filter(({ exact }) => !exact)
        for (const { name, from, to, relativeError, maxError } of worst
          .sort((a, b) => b.relativeError! - a.relativeError!)
          .slice(0, 5))
          print(`  ${name}: ${from} to ${to}, ${relativeError!.toPrecision(3)}, at most ${maxError!.toPrecision(3)}`)
      } finally {
        progress.stop()
        interrupt.done()
      }
    })
}
