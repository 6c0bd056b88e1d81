// Transforms in front of roundings, schemes and formats; interrupted runs with them; what they do to the figures of a model with outliers.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import { QuantizationJob } from "../../../lib/quantize/job.ts"
import { planQuantization, type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { folder, hashes, logits, relativeDistance, smallCalibration, smallCheckpoint, tokens } from "./support.ts"

const ids = tokens(48)

t.test("every combination runs, and says what it did", async t => {
  const source = smallCheckpoint(t, { tie_word_embeddings: false, attention_bias: true })
  const before = await logits(source, ids)
  const out = join(folder(t), "out")
  // Random weights are hard to round; another function would be about sqrt(2) away.
  for (const [options, limit] of [
    [{ transforms: ["hadamard"], scheme: "w8a16", rounding: "nearest" }, 0.05],
    [{ transforms: ["hadamard"], preset: "gptq" }, 0.4],
    [{ transforms: ["hadamard", "awq"], preset: "awq" }, 0.4],
    [{ transforms: ["hadamard", "smooth", "awq"], preset: "awq-gptq" }, 0.4],
    [{ transforms: ["awq", "smooth"], rounding: "mse", alpha: 0.4 }, 0.4],
    [{ preset: "smoothquant" }, 0.05],
    [{ preset: "smoothquant", rounding: "gptq", transforms: ["hadamard", "smooth"], alpha: 0.5 }, 0.05],
    [{ preset: "fp8", transforms: ["smooth"] }, 0.15],
    [{ preset: "nf4", transforms: ["hadamard", "awq"] }, 0.4],
    [{ preset: "llm.int8", transforms: ["smooth"] }, 0.05],
  ] as const satisfies [QuantizeModelOptions, number][]) {
    const group = ["nf4", "fp8", "llm.int8", "smoothquant"].includes((options as QuantizeModelOptions).preset ?? "")
      ? {}
      : { groupSize: 32 }
    const given = { ...group, ...options, ...smallCalibration, force: true } as QuantizeModelOptions
    const what = JSON.stringify(options)
    const report = await quantizeModel(source, out, given)
    const names = report.recipe.transforms
    const blockwise = names.filter(name => name !== "hadamard")
    t.strictSame(report.transforms, blockwise.length === 0 ? [] : report.transforms, what)
    for (const block of report.transforms)
      t.strictSame(
        block.map(entry => entry.transform),
        blockwise,
      )
    t.strictSame(report.rotation, names.includes("hadamard") ? { block: 64, headBlock: 16, untied: false } : null)
    const distance = relativeDistance(await logits(out, ids), before)
    t.ok(distance < limit, `${what}: ${distance.toFixed(4)}`)
  }
})

t.test("a rotation alone needs no calibration, and unties the head", async t => {
  const source = smallCheckpoint(t)
  const options = { transforms: ["hadamard"], rounding: "nearest", scheme: "w4a16", groupSize: 32 } as const
  const { plan } = await planQuantization(source, options)
  t.ok(plan.warnings.some(text => /head was tied to the embedding and becomes a matrix of its own/.test(text)))
  const out = join(folder(t), "out")
  const report = await quantizeModel(source, out, options)
  t.match(report, { rotation: { untied: true }, calibration: null })
  t.equal(report.outputBytes > plan.outputBytes * 0.9 && report.outputBytes < plan.outputBytes * 1.2, true)
  t.equal(JSON.parse(readFileSync(join(out, "config.json"), "utf8")).tie_word_embeddings, false)
  const plain = join(folder(t), "plain")
  t.equal((await quantizeModel(source, plain, { ...options, transforms: [] })).sourceBytes, report.sourceBytes)
})

t.test("what a search leaves unquantized is calibrated as it will be written", async t => {
  const job = await QuantizationJob.prepare(smallCheckpoint(t), {
    ...{ transforms: ["hadamard"], targetBits: 6, groupSize: 32 },
    ...smallCalibration,
  })
  t.teardown(() => job.dispose())
  job.rotate()
  const name = "model.layers.0.self_attn.o_proj.weight"
  t.equal((await job.checkpoint.load(name)).dtype, "f32", "to be rounded from there")
  const wide = await job.checkpoint.floats(name)
  const left = job.withOverrides([{ pattern: "model.layers.0.self_attn.o_proj", scheme: "none" }], {})
  t.equal((await left.checkpoint.load(name)).dtype, "bf16")
  const narrow = await left.checkpoint.floats(name)
  t.strictSame(narrow, (await (await left.checkpoint.load(name)).cast("f32")).data)
  t.ok(relativeDistance(narrow, wide) > 1e-4 && relativeDistance(narrow, wide) < 1e-2)
  t.same(left.rotation, job.rotation)
  job.withOverrides([{ pattern: "model.layers.0.self_attn.o_proj", scheme: "w4a16" }], {})
  t.strictSame(await job.checkpoint.floats(name), wide, "and the other way round")
})

t.test("mixtures of experts: every transform in front of roundings", async t => {
  const mixtral = { model_type: "mixtral", num_local_experts: 4, num_experts_per_tok: 2, num_hidden_layers: 2 }
  const qwen = {
    ...{ model_type: "qwen3_moe", num_experts: 5, num_experts_per_tok: 2, moe_intermediate_size: 32, head_dim: 16 },
    ...{ norm_topk_prob: true, num_hidden_layers: 2, mlp_only_layers: [1] },
  }
  for (const change of [mixtral, qwen]) {
    const source = smallCheckpoint(t, change)
    const before = await logits(source, ids)
    for (const [options, limit] of [
      [{ transforms: ["hadamard"], scheme: "w8a16", rounding: "nearest" }, 0.1],
      [{ transforms: ["hadamard", "smooth", "awq"], preset: "awq-gptq" }, 0.6],
      [{ preset: "awq" }, 0.6],
      [{ preset: "smoothquant" }, 0.2],
      [{ preset: "smoothquant", alpha: 0.5 }, 0.2],
    ] as const satisfies [QuantizeModelOptions, number][]) {
      const out = join(folder(t), "out")
      const group = "preset" in options && options.preset === "smoothquant" ? {} : { groupSize: 32 }
      const given = { ...group, ...options, ...smallCalibration, expertFloor: 16 } as QuantizeModelOptions
      const { recipe, rotation, transforms } = await quantizeModel(source, out, given)
      const what = `${change.model_type}, ${JSON.stringify(options)}`
      t.equal(rotation?.block ?? null, recipe.transforms.includes("hadamard") ? 64 : null, what)
      for (const entry of transforms.flat()) {
        const behindNorm = entry.groups.find(({ source }) => source.startsWith("post_attention_layernorm"))!
        if (behindNorm.targets.length > 2) t.match(behindNorm.targets[0], /gate$/, "the router takes the scale too")
        t.ok(entry.groups.every(({ error, errorBefore }) => Number.isFinite(error) && error <= errorBefore * 2))
      }
      const distance = relativeDistance(await logits(out, ids), before)
      t.ok(distance < limit, `${what}: ${distance.toFixed(4)}`)
    }
  }
})

t.test("an interrupted run with a rotation continues, and other seeds do not", async t => {
  const source = smallCheckpoint(t)
  const directory = folder(t)
  const recipe: QuantizeModelOptions = {
    ...{ transforms: ["hadamard", "smooth"], rounding: "gptq", groupSize: 32, scheme: "w4a16" },
    ...smallCalibration,
  }
  await quantizeModel(source, join(directory, "whole"), recipe)
  const out = join(directory, "out")
  const controller = new AbortController()
  await t.rejects(
    quantizeModel(source, out, {
      ...recipe,
      signal: controller.signal,
      onProgress: ({ stage, detail }) => {
        if (stage === "quantize" && detail === "block 2/3") controller.abort()
      },
    }),
    { code: "ERR_ABORTED" },
  )
  await t.rejects(quantizeModel(source, out, { ...recipe, seed: 1, resume: true }), {
    code: "ERR_OPTION",
    message: /belongs to another run/,
  })
  await quantizeModel(source, out, { ...recipe, resume: true })
  t.strictSame(hashes(out), hashes(join(directory, "whole")))
})

/** Some channels of every norm 64 times as large, their readers' columns by as much smaller: the function stays. */
const outliers = (weights: Record<string, { shape: number[]; values: Float64Array }>) => {
  for (const layer of [0, 1, 2])
    for (const [norm, readers] of [
      ["input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]],
      ["post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]],
    ] as const)
      for (const channel of [3, 17 + layer]) {
        weights[`model.layers.${layer}.${norm}.weight`]!.values[channel]! *= 64
        for (const reader of readers) {
          const { shape, values } = weights[`model.layers.${layer}.${reader}.weight`]!
          for (let row = 0; row < shape[0]!; row++) values[row * shape[1]! + channel]! /= 64
        }
      }
}

t.test("outliers of activations stop to hurt 8-bit products", async t => {
  const source = smallCheckpoint(t, {}, "BF16", outliers)
  const kl = async (options: QuantizeModelOptions) => {
    const out = join(folder(t), "out")
    await quantizeModel(source, out, { scheme: "w8a8", rounding: "nearest", ...smallCalibration, ...options })
    const text = { ids: tokens(16 * 32, 64, 9), window: 32, protocol: "gptq" } as const
    const { against } = await evaluateModel(out, { ...text, against: source, load: { activations: "int8" } })
    return against!.klMean
  }
  const plain = await kl({})
  for (const transforms of [["smooth"], ["hadamard"], ["hadamard", "smooth"]] as const) {
    const found = await kl({ transforms })
    t.ok(found < plain / 10, `${transforms.join(" + ")}: ${found.toExponential(1)} of ${plain.toExponential(1)}`)
  }
  const fixed = await kl({ transforms: ["smooth"], alpha: 0.8 })
  t.ok(fixed < plain / 10, `alpha 0.8: ${fixed.toExponential(1)}`)
})
