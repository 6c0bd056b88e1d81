// Attention of one new token over a long context, by how the cache stores keys and values: ratios beside f32, measured in turns.
// npx tsx bench/kv-attention.ts [--contexts 8192,32768] [--rounds 7] [--types f32,int8,…] [--json]
import { parseArgs } from "node:util"
import { Options } from "../lib/core/options.ts"
import { sharedFloats, Tensor } from "../lib/core/tensor.ts"
import { prepackDense } from "../lib/kernels/packed-weight.ts"
import { type KvCacheSettings, kvFormat, readKvCache } from "../lib/models/kv-cache.ts"
import { describeModel } from "../lib/models/registry.ts"
import { ModelRunner, type WeightSource } from "../lib/models/runner.ts"
import { PageAllocator, pagePositions, pagesFor, SequenceCache } from "../lib/models/sequence.ts"
import { native } from "../lib/native.ts"

// Heads as in Llama-3-8B; the rest of the block is small, and only attention is timed.
const config = {
  ...{ model_type: "llama", vocab_size: 64, hidden_size: 64, intermediate_size: 64, num_hidden_layers: 2 },
  ...{ num_attention_heads: 32, num_key_value_heads: 8, head_dim: 128, max_position_embeddings: 65536 },
  ...{ rms_norm_eps: 1e-5, rope_theta: 10000, tie_word_embeddings: false },
}
const layers = 2
const filled = 512 // tokens of the sequences that fill the cache

const noise = (size: number): Float32Array => {
  const values = sharedFloats(size)
  let state = size
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    values[i] = state / 2 ** 31
  }
  return values
}
const source: WeightSource = {
  linear: (_, n, k) => prepackDense(Tensor.from(noise(n * k), [n, k])),
  vector: async (_, size) => noise(size),
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      contexts: { type: "string", default: "8192,32768" },
      rounds: { type: "string", default: "7" },
      types: { type: "string", default: "f32,f16,int8,fp8,int4" },
      json: { type: "boolean", default: false },
    },
  })
  const program = describeModel(config)
  using runner = new ModelRunner(program)
  const sections = []
  for (let layer = 0; layer < layers; layer++)
    sections.push(await runner.bindSection(1, program.blockPrefix(layer), source))
  const ops = program.sections[1]!.ops
  const at = ops.findIndex(({ kind }) => kind === "attention")
  const results = []
  for (const context of values.contexts.split(",").map(Number)) {
    const contenders = []
    for (const type of values.types.split(",")) {
      const settings = readKvCache(new Options("bench", { kvCache: type }, ["kvCache"])) as KvCacheSettings
      const format = kvFormat(settings, program.config)
      const cache = runner.createCache(layers, pagesFor(context), format, 2)
      const allocator = new PageAllocator(cache.pages, cache.exact)
      // The pages of short sequences, one after another, make up the long one.
      const all: number[] = []
      for (let begin = 0; begin < context; begin += filled) {
        const sequence = new SequenceCache(allocator)
        const step = sequence.next(filled)
        await runner.step({
          runs: sections.map((section, layer) => ({ section, layer, opEnd: at + 1 })),
          rows: filled,
          sequences: [step],
          cache,
          hidden: noise(filled * config.hidden_size),
        })
        all.push(...step.pages)
        // The pages stay; only what was kept exactly is given back.
        if (cache.exact.pages > 0) for (const page of step.exact!) if (page >= 0) allocator.releaseExact(page)
      }
      const last = pagesFor(context)
      const exact = all.map((_, page) =>
        page < format.sinkPages || page > last - 1 - format.windowPages ? allocator.allocateExact() : -1,
      )
      const sequences = [
        { rows: 1, context: last * pagePositions - 1, pages: all, ...(cache.exact.pages > 0 && { exact }) },
      ]
      const runs = sections.map((section, layer) => ({ section, layer, opBegin: at, opEnd: at + 1 }))
      const step = () => runner.step({ runs, rows: 1, sequences, cache })
      await step()
      contenders.push({ type, cache, step, times: [] as number[], ratios: [] as number[] })
    }
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const contender of contenders) {
        let best = Number.POSITIVE_INFINITY
        for (let i = 0; i < 5; i++) {
          const before = performance.now()
          await contender.step()
          best = Math.min(best, performance.now() - before)
        }
        contender.times.push(best / layers)
        contender.ratios.push(contenders[0]!.times.at(-1)! / contender.times.at(-1)!)
      }
    }
    for (const { type, times, ratios, cache } of contenders) {
      results.push({
        context,
        type,
        ms: median(times),
        ratio: median(ratios),
        megabytes: native.handleBytes(cache.value) / 1e6,
      })
      cache.dispose()
    }
  }
  if (values.json)
    return console.log(JSON.stringify({ kernels: native.cpu().kernels, threads: native.threads(), results }))
  console.log(
    `${native.cpu().kernels}, ${native.threads()} threads; attention of one layer, 32 heads of 128, 8 KV heads`,
  )
  for (const { context, type, ms, ratio, megabytes } of results)
    console.log(
      `context ${context} ${type.padEnd(5)} ${ms.toFixed(3)} ms, ${ratio.toFixed(2)} times as fast as ${values.types.split(",")[0]}, ${(megabytes / layers).toFixed(0)} MB a layer`,
    )
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!

await main()
