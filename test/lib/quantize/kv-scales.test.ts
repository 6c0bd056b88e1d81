// Scales of an FP8 KV cache in checkpoints: chosen in calibration, written in every form, read back and used.
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t, { type Test } from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { setThreads } from "../../../lib/core/machine.ts"
import { sharedFloats, sharedInts } from "../../../lib/core/tensor.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import type { KvScales } from "../../../lib/formats/kv-scales.ts"
import type { KvCacheOption } from "../../../lib/models/kv-cache.ts"
import { PageAllocator, SequenceCache } from "../../../lib/models/sequence.ts"
import { convertModel } from "../../../lib/quantize/convert-model.ts"
import { planQuantization, type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { familyWeights } from "../models/support/family-models.ts"
import { writeCheckpoint } from "../models/support/tiny-checkpoint.ts"
import {
  fable,
  fableCalibration,
  fableEvaluation,
  folder,
  hashes,
  smallCalibration,
  smallCheckpoint,
  smallConfig,
  tokens,
} from "./support.ts"

const quiet = { onWarning: () => {} }
const kv = { kvCache: "fp8", ...smallCalibration, ...quiet } as const
const json = (path: string) => JSON.parse(readFileSync(path, "utf8"))

/** Largest magnitudes of what attention of each layer caches, over the calibration windows: by running the written model. */
async function largest(directory: string, windows: readonly (readonly number[])[]): Promise<KvScales[]> {
  const model = await loadModel(directory, { activations: "exact", ...quiet })
  const cache = model.createCache(4)
  try {
    const peaks = Array.from({ length: model.config.layers }, () => ({ key: 0, value: 0 }))
    for (const window of windows) {
      const ids = sharedInts(window.length)
      ids.set(window)
      const sequence = new SequenceCache(new PageAllocator(cache.pages, cache.exact))
      const { sections, slots, blocks } = model.program
      const seen = blocks.flatMap((section, layer) => {
        const op = sections[section]!.ops.findIndex(({ kind }) => kind === "attention")
        const [, ...cached] = sections[section]!.ops[op]!.in
        return cached.map((slot, i) => ({
          layer,
          kind: i === 0 ? ("key" as const) : ("value" as const),
          observer: {
            ...{ run: layer + 1, op: op - 1, slot, reduction: "copy" as const },
            out: sharedFloats(window.length * slots[slot]!),
          },
        }))
      })
      await model.step({
        runs: model.runs(false, window.length),
        rows: window.length,
        tokens: ids,
        sequences: [sequence.next(window.length)],
        cache,
        observers: seen.map(({ observer }) => observer),
      })
      for (const { layer, kind, observer } of seen)
        peaks[layer]![kind] = observer.out.reduce((most, x) => Math.max(most, Math.abs(x)), peaks[layer]![kind])
    }
    return peaks
  } finally {
    cache.dispose()
    model.dispose()
  }
}

/** The windows that smallCalibration is cut into: the small model's configuration names no BOS. */
const windows = Array.from({ length: 16 }, (_, i) => smallCalibration.calibration.slice(32 * i, 32 * i + 32))

async function scalesOf(t: Test, directory: string, names: (layer: number) => readonly [string, string]) {
  const checkpoint = await Checkpoint.open(directory)
  t.teardown(() => checkpoint.dispose())
  const found: KvScales[] = []
  for (let layer = 0; layer < smallConfig.num_hidden_layers; layer++) {
    const [key, value] = names(layer).map(name => `model.layers.${layer}.self_attn.${name}`) as [string, string]
    t.match([checkpoint.entry(key), checkpoint.entry(value)], [{ dtype: "F32" }, { dtype: "F32" }])
    found.push({ key: (await checkpoint.floats(key))[0]!, value: (await checkpoint.floats(value))[0]! })
  }
  return { found, shape: checkpoint.entry(`model.layers.0.self_attn.${names(0)[0]}`).shape }
}

/** Arguments of llm-compressor's KV cache schemes, in full. */
const scheme = {
  num_bits: 8,
  type: "float",
  symmetric: true,
  group_size: null,
  strategy: "tensor",
  block_structure: null,
  dynamic: false,
  actorder: null,
  observer: "minmax",
  observer_kwargs: {},
}

t.test("compressed-tensors: the configuration, the tensors, and what they are of", async t => {
  const source = smallCheckpoint(t)
  const out = join(folder(t), "out")
  const report = await quantizeModel(source, out, { ...kv, preset: "rtn", groupSize: 32 })
  t.equal(report.recipe.kvCache, "fp8")
  t.strictSame(json(join(out, "config.json")).quantization_config, {
    quant_method: "compressed-tensors",
    format: "pack-quantized",
    quantization_status: "compressed",
    config_groups: {
      group_0: {
        targets: ["Linear"],
        weights: {
          ...{ num_bits: 4, type: "int", symmetric: true, group_size: 32, strategy: "group", block_structure: null },
          ...{ dynamic: false, actorder: null, observer: "minmax", observer_kwargs: {} },
        },
        input_activations: null,
        output_activations: null,
      },
    },
    ignore: ["lm_head"],
    kv_cache_scheme: scheme,
    global_compression_ratio: null,
    version: "0.17.0",
  })
  const { found, shape } = await scalesOf(t, out, () => ["k_scale", "v_scale"])
  t.strictSame([...shape], [1])
  t.strictSame(found, report.kvScales)
  for (const [layer, peak] of (await largest(out, windows)).entries()) {
    const { key, value } = found[layer]!
    t.ok(Math.abs((key * 448) / peak.key - 1) < 1e-5, `keys of layer ${layer}: ${key * 448} of ${peak.key}`)
    t.ok(Math.abs((value * 448) / peak.value - 1) < 1e-5, `values of layer ${layer}: ${value * 448} of ${peak.value}`)
  }
  await convertModel(out, `${out}-again`, { format: "compressed-tensors" })
  const [first, again] = [hashes(out), hashes(`${out}-again`)]
  t.equal(again["config.json"], first["config.json"], "a conversion keeps them")
  t.equal(again["model.safetensors"], first["model.safetensors"])
})

t.test("ModelOpt and fp8 have names of their own", async t => {
  const source = smallCheckpoint(t)
  const out = folder(t)
  const modelopt = await quantizeModel(source, join(out, "modelopt"), { ...kv, scheme: "fp8", format: "modelopt" })
  const { quantization_config } = json(join(out, "modelopt/config.json"))
  t.strictSame(quantization_config.kv_cache_scheme, { dynamic: false, num_bits: 8, type: "float" })
  t.equal(json(join(out, "modelopt/hf_quant_config.json")).quantization.kv_cache_quant_algo, "FP8")
  const projections = await scalesOf(t, join(out, "modelopt"), () => ["k_proj.k_scale", "v_proj.v_scale"])
  t.strictSame([projections.found, [...projections.shape]], [modelopt.kvScales, []])

  const fp8 = await quantizeModel(source, join(out, "fp8"), { ...kv, scheme: "fp8", format: "fp8" })
  const plain = await scalesOf(t, join(out, "fp8"), () => ["k_scale", "v_scale"])
  t.strictSame([plain.found, [...plain.shape]], [fp8.kvScales, []])
  for (const name of ["modelopt", "fp8"]) {
    const model = await loadModel(join(out, name), { kvCache: "checkpoint", ...quiet })
    const keys = [...model.kvFormat.tensorScales!].slice(0, 3)
    const { kvScales } = name === "fp8" ? fp8 : modelopt
    t.strictSame(
      keys,
      kvScales?.map(({ key }) => key),
    )
    t.equal((await model.complete([1, 2, 3], { maxTokens: 4, temperature: 0 })).newTokens, 4)
    model.dispose()
  }
  const config = json(join(out, "modelopt/config.json"))
  config.quantization_config.kv_cache_quant_algo = "NVFP4"
  writeFileSync(join(out, "modelopt/config.json"), JSON.stringify(config))
  await t.rejects(loadModel(join(out, "modelopt"), { kvCache: "checkpoint" }), {
    code: "ERR_UNSUPPORTED",
    message: /kv_cache_quant_algo is "NVFP4", expected "FP8"/,
  })
})

t.test("every scheme, transform and rounding; experts", async t => {
  const groups = { groupSize: 32 } as const
  const cases: [QuantizeModelOptions, Record<string, unknown>?][] = [
    [{ scheme: "w8a8" }],
    [{ scheme: "w8a8", activations: "static" }],
    [{ scheme: "fp8" }],
    [{ scheme: "fp8", groupSize: "tensor", activations: "static", format: "modelopt" }],
    [{ scheme: "mxfp4" }],
    [{ scheme: "nvfp4" }],
    [{ ...groups, rounding: "hqq" }],
    [{ ...groups, preset: "awq", scheme: "w3a16" }],
    [{ ...groups, preset: "gptq", order: "dynamic", transforms: ["hadamard"] }],
    [{ ...groups, rounding: "qronos", overrides: [{ pattern: "*embed_tokens", scheme: "w8a16" }] }],
    [{ ...groups, targetBits: 5, candidates: ["w4a16", "w8a16"], rounding: "mse" }],
    [{ ...groups }, { model_type: "mixtral", num_local_experts: 4, num_experts_per_tok: 2 }],
  ]
  for (const [options, change] of cases) {
    const source = smallCheckpoint(t, change)
    const out = join(folder(t), "out")
    const report = await quantizeModel(source, out, { ...kv, ...options })
    const name = JSON.stringify({ ...options, ...change })
    t.equal(report.kvScales?.length, 3, name)
    t.ok(
      report.kvScales!.every(({ key, value }) => key > 0 && value > 0 && key < 1 && value < 1),
      name,
    )
    const model = await loadModel(out, { kvCache: "checkpoint", ...quiet })
    const exact = await loadModel(out, quiet)
    const ids = tokens(24, 64, 8)
    const [a, b] = [(await model.forward(ids)).data, (await exact.forward(ids)).data] as [Float32Array, Float32Array]
    const distance = Math.hypot(...a.map((x, i) => x - b[i]!)) / Math.hypot(...b)
    t.ok(distance > 0 && distance < 0.2, `${name}: ${distance}`)
    for (const loaded of [model, exact]) loaded.dispose()
  }
})

t.test("fused projections, norms of keys and windows: what attention caches", async t => {
  const gemma = { num_hidden_layers: 2, head_dim: 16, sliding_window: 9, query_pre_attn_scalar: 12 }
  for (const change of [
    { model_type: "phi3", num_hidden_layers: 2 },
    { model_type: "gemma2", ...gemma },
    { model_type: "gemma3_text", ...gemma, sliding_window_pattern: 2 },
  ]) {
    const config = { ...smallConfig, ...change, torch_dtype: "float32" }
    const source = join(folder(t), "model")
    writeCheckpoint(source, config, familyWeights(config, 17))
    const out = `${source}-out`
    const { kvScales } = await quantizeModel(source, out, { ...kv, scheme: "w8a16" })
    for (const [layer, peak] of (await largest(out, windows)).entries())
      for (const kind of ["key", "value"] as const)
        t.ok(Math.abs((kvScales![layer]![kind] * 448) / peak[kind] - 1) < 1e-5, `${change.model_type} ${layer} ${kind}`)
  }
})

t.test("a rounding that looks at no inputs gives the same weights with and without", async t => {
  for (const change of [{}, { model_type: "mixtral", num_local_experts: 4, num_experts_per_tok: 1 }]) {
    const source = smallCheckpoint(t, change)
    const out = folder(t)
    const warnings: string[] = []
    const rtn = { preset: "rtn", groupSize: 32, format: "compressed-tensors" } as const
    const onWarning = (text: string) => warnings.push(text)
    const plain = await quantizeModel(source, join(out, "plain"), { ...rtn, onWarning })
    const before = warnings.length
    const { tensors, kvScales, experts } = await quantizeModel(source, join(out, "kv"), { ...kv, ...rtn, onWarning })
    t.strictSame(tensors, plain.tensors)
    t.equal(kvScales?.length, 3)
    t.equal(experts, undefined, "no expert sees too few tokens for what uses none")
    t.equal(warnings.length, 2 * before)
  }
})

t.test("preset best takes those of the block that was chosen", async t => {
  const source = smallCheckpoint(t, { num_hidden_layers: 1 })
  const out = join(folder(t), "out")
  const report = await quantizeModel(source, out, { ...kv, preset: "best", groupSize: 32 })
  const [peak] = await largest(out, windows)
  t.ok(Math.abs((report.kvScales![0]!.key * 448) / peak!.key - 1) < 1e-5)
  t.ok(Math.abs((report.kvScales![0]!.value * 448) / peak!.value - 1) < 1e-5)
})

t.test("interrupted and resumed, on any number of threads: the same bytes", async t => {
  const source = smallCheckpoint(t)
  const directory = folder(t)
  t.teardown(() => setThreads(2))
  const options = { ...kv, preset: "gptq", groupSize: 32 } as const
  setThreads(1)
  await quantizeModel(source, join(directory, "whole"), options)
  setThreads(3)
  const controller = new AbortController()
  const out = join(directory, "resumed")
  await t.rejects(
    quantizeModel(source, out, {
      ...options,
      signal: controller.signal,
      onProgress: ({ detail }) => detail?.startsWith("block 3") && controller.abort(),
    }),
    { code: "ERR_ABORTED" },
  )
  await t.rejects(quantizeModel(source, out, { preset: "gptq", groupSize: 32, ...smallCalibration, resume: true }), {
    code: "ERR_OPTION",
    message: /belongs to another run/,
  })
  const stages = new Set<string>()
  await quantizeModel(source, out, { ...options, resume: true, onProgress: ({ stage }) => stages.add(stage) })
  t.ok(stages.has("resume"))
  t.strictSame(hashes(out), hashes(join(directory, "whole")))
})

t.test("the plan counts them and needs calibration as the run does", async t => {
  const source = smallCheckpoint(t)
  const without = await planQuantization(source, { preset: "rtn", format: "compressed-tensors", ...quiet })
  const plan = await planQuantization(source, { ...kv, preset: "rtn" })
  t.equal(plan.recipe.format, "compressed-tensors", "the default format has a place for them")
  t.equal(plan.plan.outputBytes, without.plan.outputBytes + 3 * 2 * 4)
  t.ok(plan.plan.peakMemory > without.plan.peakMemory)
  t.equal(plan.calibration?.windows, 16)
})

t.test("what cannot be written is refused before anything is", async t => {
  const source = smallCheckpoint(t)
  const out = join(folder(t), "out")
  const refused = async (options: Record<string, unknown>, code: string, message: RegExp, from = source) =>
    t.rejects(quantizeModel(from, out, { ...kv, ...options } as QuantizeModelOptions), { code, message })
  for (const format of ["gptq", "awq", "marlin", "bitsandbytes", "fbgemm_fp8"])
    await refused({ format }, "ERR_OPTION", /no place for scales .*; "compressed-tensors", "fp8" or "modelopt" have/)
  for (const options of [{ preset: "nf4" }, { scheme: "llm.int8" }])
    await refused(options, "ERR_OPTION", /format "bitsandbytes" has no place/)
  for (const kvCache of ["int8", "int4", "f16", "checkpoint", 8, { keys: "fp8" }])
    await refused({ kvCache }, "ERR_OPTION", /expected "fp8", the only cache whose scales/)
  await refused({ calibration: undefined, preset: "rtn" }, "ERR_OPTION", /kvCache "fp8" needs calibration/)
  await refused({ ignore: ["*"] }, "ERR_UNSUPPORTED", /written beside quantized weights only/)
  const gpt2 = smallCheckpoint(t, { model_type: "gpt_neox", tie_word_embeddings: false })
  await refused({}, "ERR_UNSUPPORTED", /under self_attn, which blocks of "gpt_neox" do not have/, gpt2)
  await t.rejects(quantizeModel(source, `${out}.gguf`, { ...kv, preset: "q4_k_m" } as never), {
    code: "ERR_OPTION",
    message: /GGUF files hold no scales/,
  })
})

t.test("a real model: with its scales as close as with a scale for every token", async t => {
  const out = join(folder(t), "out")
  const calibration = readFileSync(fableCalibration, "utf8").slice(0, 60_000)
  await quantizeModel(fable, out, { scheme: "w8a8", kvCache: "fp8", calibration, samples: 16, ...quiet })
  const text = readFileSync(fableEvaluation, "utf8").slice(0, 16_000)
  const reference = await loadModel(out, quiet)
  t.teardown(() => reference.dispose())
  const kl = async (kvCache: KvCacheOption) =>
    (await evaluateModel(out, { text, window: 512, against: reference, load: { kvCache, ...quiet } })).against!.klMean
  const stored = await kl("checkpoint")
  const token = await kl({ keys: "fp8", values: "fp8", sinks: 0, window: 0 })
  t.ok(stored > 0 && stored < 1.5 * token && stored < 3e-4, `${stored} beside ${token}`)
})
