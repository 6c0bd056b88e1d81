// This library as one side of the comparison: loaded and used as an application does.
import type { Generate, Generated, Loaded, LoadTsq } from "./model-messages.ts"

export async function startTsq(request: LoadTsq): Promise<{
  loaded: Loaded
  generate(request: Generate): Promise<Generated>
}> {
  const start = performance.now()
  const { loadModel } = await import("../index.ts")
  const importMs = performance.now() - start
  const { path, threads, context, cache, cacheDir, kvCache } = request
  const model = await loadModel(path, {
    threads,
    maxContext: context,
    ...(cache !== false && { cache, cacheDir }),
    ...(kvCache !== undefined && { kvCache }),
  })
  const loadMs = performance.now() - start - importMs
  const { native } = await import("../native.ts")
  const { kvFormatText } = await import("../models/kv-cache.ts")
  // A token reads one row of the embedding, but all of it where it is the head as well.
  const embedding = model.runs(false, 1)[0]!.section
  const rows = model.config.tiedEmbeddings
    ? 0
    : embedding.weights.reduce((sum, handle) => sum + native.handleBytes(handle), 0)
  return {
    loaded: {
      importMs,
      loadMs,
      weightBytes: model.weights.bytes - rows,
      bitsPerWeight: model.bitsPerWeight,
      kvCache: kvFormatText(model.kvFormat),
      isa: native.cpu().kernels,
    },
    async generate({ prompt, newTokens, activations }) {
      const begin = performance.now()
      const generation = model.generate(prompt, {
        ...{ maxTokens: newTokens, temperature: 0, repetitionPenalty: 1, ignoreEos: true, activations },
      })
      let first = 0
      let tokens = 0
      for await (const _ of generation) if (++tokens === 1) first = performance.now()
      return { firstMs: first - begin, restMs: performance.now() - first, tokens }
    },
  }
}
