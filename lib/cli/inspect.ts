import { writeFile } from "node:fs/promises"
import type { Command } from "commander"
import { TsqError } from "../core/errors.ts"
import { byteSize, groupSize, interruptible, parseCandidates, positive } from "./arguments.ts"
import { bytesText, note, print, printJson, warn } from "./output.ts"
import { showProgress } from "./progress.ts"
import { readText } from "./text-file.ts"

interface Flags {
  context?: number
  batch?: number
  memory?: number
  for?: string
  sensitivity?: boolean
  calibration?: string
  samples?: number
  sequenceLength?: number
  groupSize?: number | "channel" | "tensor"
  candidates?: string
  html?: string
  json?: boolean
}

export function addInspect(program: Command): void {
  program
    .command("inspect")
    .description("what a checkpoint holds, and what it takes")
    .argument("<model>", "Hugging Face folder, .safetensors or .gguf file")
    .option("--context <n>", "tokens of context for the size of the KV cache", positive)
    .option("--batch <n>", "sequences at once", positive)
    .option("--memory <size>", "what context fits so much memory (16GB), by how keys and values are cached", byteSize)
    .option("--for <engines>", "what engines would refuse, and why: vllm,sglang,transformers,llama.cpp,onnxruntime")
    .option("--sensitivity", "measure what each scheme does to each tensor; needs --calibration")
    .option("--calibration <file>", "UTF-8 text of the kind the model will see")
    .option("--samples <n>", "windows of calibration (default: up to 128)", positive)
    .option("--sequence-length <n>", "tokens of a window (default 512)", positive)
    .option("--group-size <n|channel|tensor>", "columns that share a scale (default 128)", groupSize)
    .option("--candidates <list>", "schemes to measure, e.g. w3a16,w4a16,w4a16:64")
    .option("--html <file>", "write the sensitivity as a page with plots")
    .option("--json", "one JSON object on stdout")
    .action(async (model: string, flags: Flags) => {
      if (flags.sensitivity) return inspectSensitivity(model, flags)
      const engines = flags.for?.split(",").map(name => name.trim())
      const { inspectModel } = await import("../quantize/inspect-model.ts")
      const found = await inspectModel(model, {
        ...(flags.context !== undefined && { context: flags.context }),
        ...(flags.batch !== undefined && { batch: flags.batch }),
        ...(flags.memory !== undefined && { memory: flags.memory }),
        ...(engines && { for: engines as never }),
        onWarning: warn,
      })
      if (flags.json) return printJson(found)
      const { findingText, metadataTable, tensorTable } = await import("../report/tables.ts")
      print(
        `${found.architecture}, ${(found.parameters / 1e6).toFixed(1)} million parameters${found.activeParameters === undefined ? "" : ` (${(found.activeParameters / 1e6).toFixed(1)} a token)`}, ${bytesText(found.weightBytes)}`,
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
      if (found.kvBytesPerToken) {
        const each = Object.entries(found.kvBytesPerToken).map(([kind, bytes]) => `${bytesText(bytes)} in ${kind}`)
        print(`keys and values of a token: ${each.join(", ")}`)
      }
      if (found.fit) {
        const { memory, batch, weightBytes, workBytes, contexts } = found.fit
        const each = Object.entries(contexts).map(([kind, tokens]) => `${tokens} in ${kind}`)
        print(
          `${bytesText(memory)} hold the weights (${bytesText(weightBytes)}), working memory (${bytesText(workBytes)}) and, for ${batch === 1 ? "one sequence" : `each of ${batch} sequences`}, tokens: ${each.join(", ")}`,
        )
      }
      if (found.metadata) print(metadataTable(found.metadata))
      print(tensorTable(found.tensors))
      if (found.findings) print(findingText(found.findings, engines!))
    })
}

async function inspectSensitivity(model: string, flags: Flags): Promise<void> {
  const { measureSensitivity } = await import("../quantize/measure-sensitivity.ts")
  if (flags.calibration === undefined)
    throw new TsqError("ERR_OPTION", "--sensitivity needs --calibration FILE, text of the kind the model will see")
  const candidates = parseCandidates(flags.candidates)
  const calibration = await readText(flags.calibration, "--calibration")
  const progress = showProgress()
  const interrupt = interruptible()
  try {
    const report = await measureSensitivity(model, {
      calibration,
      ...(flags.samples !== undefined && { samples: flags.samples }),
      ...(flags.sequenceLength !== undefined && { sequenceLength: flags.sequenceLength }),
      ...(flags.groupSize !== undefined && { groupSize: flags.groupSize }),
      ...(candidates && { candidates: candidates as never }),
      signal: interrupt.signal,
      onProgress: progress.onProgress,
      onWarning: text => progress.note(`warning: ${text}`),
    })
    progress.stop()
    const { sensitivityPage, sensitivityTable } = await import("../report/sensitivity.ts")
    if (flags.html !== undefined) {
      await writeFile(flags.html, sensitivityPage(report))
      note(`${flags.html} has the plots`)
    }
    if (flags.json) return printJson(report)
    print(`KL divergence in nats per token over ${report.tokens} tokens, with one group of linears quantized`)
    print(sensitivityTable(report))
  } finally {
    progress.stop()
    interrupt.done()
  }
}
