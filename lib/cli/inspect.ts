import type { Command } from "commander"
import { positive } from "./arguments.ts"
import { bytesText, print, printJson, warn } from "./output.ts"

interface Flags {
  context?: number
  batch?: number
  for?: string
  json?: boolean
}

export function addInspect(program: Command): void {
  program
    .command("inspect")
    .description("what a checkpoint holds, and what it takes")
    .argument("<model>", "Hugging Face folder, .safetensors or .gguf file")
    .option("--context <n>", "tokens of context for the size of the KV cache", positive)
    .option("--batch <n>", "sequences at once", positive)
    .option("--for <engines>", "what engines would refuse, and why: vllm,sglang,transformers,llama.cpp,onnxruntime")
    .option("--json", "one JSON object on stdout")
    .action(async (model: string, flags: Flags) => {
      const engines = flags.for?.split(",").map(name => name.trim())
      const { inspectModel } = await import("../quantize/inspect-model.ts")
      const found = await inspectModel(model, {
        ...(flags.context !== undefined && { context: flags.context }),
        ...(flags.batch !== undefined && { batch: flags.batch }),
        ...(engines && { for: engines as never }),
        onWarning: warn,
      })
      if (flags.json) return printJson(found)
      const { findingText, metadataTable, tensorTable } = await import("../report/tables.ts")
      print(
        `${found.architecture}, ${(found.parameters / 1e6).toFixed(1)} million parameters, ${bytesText(found.weightBytes)}`,
      )
      print(`format ${found.format}${found.scheme ? `, ${found.scheme}` : ""}`)
      print(
        `${found.bitsPerWeight.toFixed(3)} bits per weight${found.scheme ? " in quantized linears" : ""}, ${found.fileBitsPerWeight.toFixed(3)} over the file`,
      )
      // Of a file by itself no context is known.
      if (found.context > 0) {
        const sizes = Object.entries(found.kvCacheBytesByType ?? { f32: found.kvCacheBytes })
        const text = sizes.map(([type, bytes]) => `${bytesText(bytes)} in ${type}`).join(", ")
        print(`KV cache ${text} (context ${found.context}, batch ${found.batch})`)
      }
      if (found.metadata) print(metadataTable(found.metadata))
      print(tensorTable(found.tensors))
      if (found.findings) print(findingText(found.findings, engines!))
    })
}
