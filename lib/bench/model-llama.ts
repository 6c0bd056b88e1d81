// node-llama-cpp as one side of the comparison: its prebuilt llama.cpp on the CPU, everything else as it is by default.
import { statSync } from "node:fs"
import type { Generate, Generated, Loaded, LoadLlama } from "./model-messages.ts"

/** The part of node-llama-cpp that is used. */
interface LlamaModule {
  getLlama(options: {
    gpu: false
    build: "never"
    skipDownload: boolean
    progressLogs: boolean
    logLevel: string
    maxThreads: number
  }): Promise<{ loadModel(options: { modelPath: string }): Promise<LlamaModel> }>
}
interface LlamaModel {
  readonly fileInfo: { readonly fullTensorInfo?: readonly TensorInfo[] }
  createContext(options: {
    contextSize: number
    threads: { ideal: number; min: number }
  }): Promise<{ getSequence(): LlamaSequence }>
}
interface LlamaSequence {
  clearHistory(): Promise<void>
  evaluate(
    tokens: readonly number[],
    options: { temperature: number; yieldEogToken: boolean },
  ): AsyncGenerator<number, void, void>
}
export interface TensorInfo {
  readonly name: string
  readonly fileOffset: number | bigint
  readonly filePart: number
}

export async function startLlama(request: LoadLlama): Promise<{
  loaded: Loaded
  generate(request: Generate): Promise<Generated>
}> {
  const { path, threads, context, entry } = request
  const start = performance.now()
  const { getLlama } = (await import(entry)) as LlamaModule
  const importMs = performance.now() - start
  const llama = await getLlama({
    ...{ gpu: false, build: "never", skipDownload: true, progressLogs: false, logLevel: "error", maxThreads: threads },
  })
  const model = await llama.loadModel({ modelPath: path })
  const sequence = (
    await model.createContext({ contextSize: context, threads: { ideal: threads, min: threads } })
  ).getSequence()
  const loadMs = performance.now() - start - importMs
  return {
    loaded: {
      importMs,
      loadMs,
      weightBytes: bytesOfStep(model.fileInfo.fullTensorInfo ?? [], statSync(path).size),
      bitsPerWeight: null,
      // llama.cpp's default (llama_context_default_params: type_k, type_v), which is left as it is.
      kvCache: "f16",
      isa: null,
    },
    async generate({ prompt, newTokens }) {
      await sequence.clearHistory()
      const begin = performance.now()
      let first = 0
      let tokens = 0
      // Greedy, as ours.
      for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
        if (++tokens === 1) first = performance.now()
        if (tokens === newTokens) break
      }
      return { firstMs: first - begin, restMs: performance.now() - first, tokens }
    },
  }
}

/** Bytes of all tensors but an embedding that is not the head as well; null for a model in several files. */
export function bytesOfStep(tensors: readonly TensorInfo[], fileBytes: number): number | null {
  if (tensors.length === 0 || tensors.some(({ filePart }) => filePart > 1)) return null
  const sorted = [...tensors].sort((a, b) => Number(a.fileOffset) - Number(b.fileOffset))
  const own = tensors.some(({ name }) => name === "output.weight")
  let bytes = 0
  for (const [index, { name, fileOffset }] of sorted.entries()) {
    const end = Number(sorted[index + 1]?.fileOffset ?? fileBytes)
    if (!(own && name === "token_embd.weight")) bytes += end - Number(fileOffset)
  }
  return bytes
}
