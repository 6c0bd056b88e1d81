import { rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t, { type Test } from "tap"
import type { Progress } from "../../../lib/core/progress.ts"
import { type LoadOptions, loadModel } from "../../../lib/engine/load-model.ts"
import { native } from "../../../lib/native.ts"
import { randomWeights, tinyConfig, writeCheckpoint } from "../models/support/tiny-checkpoint.ts"

function checkpoint(
  t: Test,
  changes: Record<string, unknown> = {},
  edit?: (weights: ReturnType<typeof randomWeights>) => void,
): string {
  const directory = t.testdir()
  const config = { ...tinyConfig, ...changes }
  const weights = randomWeights(config, 1)
  edit?.(weights)
  writeCheckpoint(directory, config, weights)
  return directory
}

t.test("what a loaded model says about itself", async t => {
  const stages: Progress[] = []
  const directory = checkpoint(t, { eos_token_id: [4, 5] })
  const model = await loadModel(directory, { onProgress: progress => stages.push(progress), threads: 2, device: "cpu" })
  t.teardown(() => model.dispose())
  t.equal(model.path, directory)
  t.equal(model.bitsPerWeight, 32)
  t.same(model.weights.quantizedModules, [])
  t.same(model.weights.referenceModules, [])
  t.ok(model.weights.bytes > 0)
  t.equal(model.maxContext, 128)
  t.same(model.eosTokenIds, [4, 5])
  t.same(
    stages.map(({ stage, done, total }) => [stage, done, total]),
    [1, 2, 3, 4, 5].map(done => ["load", done, 5]),
  )
})

t.test("generation_config.json decides what ends a text", async t => {
  const directory = checkpoint(t, { eos_token_id: 4 })
  writeFileSync(join(directory, "generation_config.json"), JSON.stringify({ eos_token_id: [7, 9] }))
  const model = await loadModel(directory)
  t.same(model.eosTokenIds, [7, 9])
  model.dispose()
})

t.test("a tied head is packed once", async t => {
  const before = native.handleCount()
  const model = await loadModel(checkpoint(t, { tie_word_embeddings: true }))
  const untied = await loadModel(checkpoint(t))
  t.ok(model.weights.bytes < untied.weights.bytes)
  model.dispose()
  untied.dispose()
  t.equal(native.handleCount(), before)
})

t.test("the files may go once the model is loaded", async t => {
  const directory = checkpoint(t)
  const model = await loadModel(directory)
  const expected = await model.forward([1, 2, 3])
  rmSync(join(directory, "model.safetensors"))
  t.same((await model.forward([1, 2, 3])).data, expected.data)
  model.dispose()
})

t.test("options", async t => {
  const directory = checkpoint(t)
  const refuses = (options: object, code: string, message: RegExp) =>
    t.rejects(loadModel(directory, options as LoadOptions), { code, message })
  await refuses({ device: "cuda" }, "ERR_UNSUPPORTED", /device "cuda" is not available in this version/)
  await refuses({ kvCache: "fp9" }, "ERR_OPTION", /"kvCache" is "fp9", expected "f32", "f16"/)
  await refuses({ kvCache: "checkpoint" }, "ERR_OPTION", /holds neither a kv_cache_scheme nor scales/)
  await refuses({ device: 1 }, "ERR_OPTION", /"device" is 1/)
  await refuses({ threads: 0 }, "ERR_OPTION", /"threads" is 0/)
  await refuses({ maxContext: 129 }, "ERR_OPTION", /maxContext is 129, expected at most the model's context of 128/)
  await refuses({ maxContex: 12 }, "ERR_OPTION", /did you mean "maxContext"/)
  await refuses({ onWarning: true }, "ERR_OPTION", /"onWarning" is true, expected a function/)
  await t.rejects(loadModel(undefined as never), { code: "ERR_OPTION", message: /path is undefined/ })
  await t.rejects(loadModel(directory, { signal: AbortSignal.abort() }), { code: "ERR_ABORTED" })
})

t.test("checkpoints that do not fit their configuration", async t => {
  const before = native.handleCount()
  const refuses = async (t: Test, code: string, message: RegExp, directory: string) => {
    await t.rejects(loadModel(directory), { code, message })
    t.equal(native.handleCount(), before, "nothing native is left behind")
  }
  await t.test("no directory", t => refuses(t, "ERR_IO", /no such folder/, join(t.testdir(), "none")))
  await t.test("a missing tensor", t => {
    const directory = checkpoint(t, {}, weights => Reflect.deleteProperty(weights, "model.layers.1.mlp.up_proj.weight"))
    return refuses(t, "ERR_FORMAT", /tensor model.layers.1.mlp.up_proj.weight is missing/, directory)
  })
  await t.test("a linear of another shape", t => {
    const directory = checkpoint(t)
    writeFileSync(join(directory, "config.json"), JSON.stringify({ ...tinyConfig, intermediate_size: 20 }))
    return refuses(
      t,
      "ERR_SHAPE",
      /mlp.gate_proj.weight is \[40, 24\], expected \[20, 24\] from config.json/,
      directory,
    )
  })
  await t.test("a norm of another length", t => {
    const directory = checkpoint(t, {}, weights => {
      weights["model.norm.weight"] = { shape: [3], values: new Float64Array(3) }
    })
    return refuses(t, "ERR_SHAPE", /model.norm.weight is \[3\], expected \[24\]/, directory)
  })
  await t.test("another architecture", t =>
    refuses(t, "ERR_UNSUPPORTED", /model_type is "bloom"/, checkpoint(t, { model_type: "bloom" })),
  )
  await t.test("an unknown quantization method", t =>
    refuses(
      t,
      "ERR_UNSUPPORTED",
      /quant_method is .*"mystery"/,
      checkpoint(t, { quantization_config: { quant_method: "mystery" } }),
    ),
  )
})

t.test("routers of experts are not rounded as they are loaded", async t => {
  const directory = checkpoint(t, { model_type: "mixtral", num_local_experts: 3, num_experts_per_tok: 2 })
  const model = await loadModel(directory, { quantize: "w8a16" })
  const { quantizedModules } = model.weights
  model.dispose()
  // q, k, v, o and three linears of three experts in three layers.
  t.equal(quantizedModules.length, 3 * (4 + 3 * 3))
  t.notOk(quantizedModules.some(module => module.endsWith(".gate")))
})

t.test("scales of an fp8 KV cache are used where they are asked for", async t => {
  const scaled = (values: readonly number[]) =>
    checkpoint(t, {}, weights => {
      for (let layer = 0; layer < 3; layer++)
        for (const kind of ["k", "v"])
          weights[`model.layers.${layer}.self_attn.${kind}_scale`] = {
            shape: [values.length],
            values: Float64Array.from(values),
          }
    })
  const ids = Array.from({ length: 60 }, (_, i) => (i * 7) % 37)
  const logits = async (directory: string, options?: LoadOptions) => {
    const model = await loadModel(directory, options)
    const { data } = await model.forward(ids)
    model.dispose()
    return Float32Array.from(data as Float32Array)
  }
  const directory = scaled([0.05])
  const exact = await logits(directory)
  const damage = async (path: string, kvCache: LoadOptions["kvCache"] & {}) => {
    const found = await logits(path, { kvCache })
    return Math.sqrt(found.reduce((sum, x, i) => sum + (x - exact[i]!) ** 2, 0) / found.length)
  }
  const own = await damage(directory, { keys: "fp8", values: "fp8", sinks: 0, window: 0 })
  const stored = await damage(directory, "checkpoint")
  t.ok(stored > own / 3 && stored < own * 3, `${stored} beside ${own} with scales of every token`)
  // Far too small: everything is the largest number.
  t.ok((await damage(scaled([1e-6]), "checkpoint")) > 3 * stored)
  await t.rejects(loadModel(scaled([1, 1]), { kvCache: "checkpoint" }), {
    code: "ERR_UNSUPPORTED",
    message: /2 scales/,
  })
  await t.rejects(loadModel(scaled([-1]), { kvCache: "checkpoint" }), { code: "ERR_NUMERIC", message: /k_scale is -1/ })
})
