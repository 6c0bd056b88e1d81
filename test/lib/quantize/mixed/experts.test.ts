// Schemes chosen by measured damage on mixtures of experts: budgets obeyed, one scheme for all experts of a block, routers left alone.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { inspectModel } from "../../../../lib/quantize/inspect-model.ts"
import { measureSensitivity } from "../../../../lib/quantize/measure-sensitivity.ts"
import { planQuantization, type QuantizeModelOptions, quantizeModel } from "../../../../lib/quantize/quantize-model.ts"
import { sensitivityPage, sensitivityTable } from "../../../../lib/report/sensitivity.ts"
import { beside, folder, hashes, logits, smallCalibration, smallCheckpoint, tokens } from "../support.ts"

const mixtral = { model_type: "mixtral", num_local_experts: 4, num_experts_per_tok: 2, num_hidden_layers: 2 }
const qwen = {
  ...{ model_type: "qwen3_moe", num_experts: 11, num_experts_per_tok: 3, moe_intermediate_size: 32, head_dim: 16 },
  ...{ norm_topk_prob: true, num_hidden_layers: 3, mlp_only_layers: [1] },
}
const base = { groupSize: 32, expertFloor: 16, ...smallCalibration } as const
const mixture = async (t: Parameters<typeof folder>[0], source: string, options: QuantizeModelOptions) => {
  const out = join(folder(t), "out")
  const report = await quantizeModel(source, out, { ...base, ...options })
  return { out, report, mix: report.mix! }
}

for (const [change, blocks, count] of [
  [mixtral, 2, 4],
  [qwen, 2, 11],
] as const)
  t.test(`${change.model_type}: bits, bytes and divergence`, async t => {
    const source = smallCheckpoint(t, change)
    const { out, report, mix } = await mixture(t, source, { targetBits: 4.5, candidates: ["w3a16", "w4a16", "w6a16"] })
    t.ok(mix.bitsPerWeight <= 4.5 && mix.bitsPerWeight > 4, `${mix.bitsPerWeight}`)
    t.equal(mix.optimalityGap, 0)
    t.ok(mix.measuredKl > 0 && mix.predictedKl > 0)
    const schemes = new Map(report.tensors.map(({ name, scheme }) => [name, JSON.stringify(scheme)]))
    const experts = mix.groups.filter(({ modules }) => modules[0]!.includes(".experts."))
    t.equal(experts.length, blocks)
    for (const { modules, candidates } of experts) {
      t.equal(modules.length, 3 * count)
      t.equal(new Set(modules.map(name => schemes.get(name))).size, 1, "one scheme for all experts of a block")
      const damages = candidates.map(({ damage }) => damage)
      t.ok(damages[0]! > damages[1]! && damages[1]! > damages[2]!, `${damages}`)
      const errors = candidates.map(({ layerError }) => layerError)
      t.ok(errors[0]! > errors[1]! && errors[1]! > errors[2]!, `${errors}`)
    }
    t.notOk(mix.groups.some(({ modules }) => modules.some(name => /(moe|mlp)\.gate$/.test(name))))
    const routers = report.unquantized.filter(({ reason }) => reason.startsWith("router, kept"))
    t.equal(routers.length, blocks)
    t.ok((await logits(out, tokens(40))).every(Number.isFinite))
    t.equal((await inspectModel(out)).scheme, "mixed")

    const whole = report.outputBytes
    const sized = await mixture(t, source, { targetSize: whole, sensitivity: "layer", format: "gptq" })
    t.ok(sized.report.outputBytes <= whole && sized.report.outputBytes > 0.9 * whole, `${sized.report.outputBytes}`)
    const close = await mixture(t, source, { targetKl: mix.measuredKl / 2, sensitivity: "layer" })
    t.ok(close.mix.measuredKl <= mix.measuredKl / 2)
    t.ok(close.mix.bitsPerWeight > mix.bitsPerWeight)
  })

t.test("the same bytes again, after an interruption, with a rotation and as preset best", async t => {
  const source = smallCheckpoint(t, mixtral)
  const options: QuantizeModelOptions = {
    ...{ ...base, targetBits: 4.5, sensitivity: "layer", preset: "best", steps: 5 },
    candidates: ["w3a16", "w4a16", "w6a16"],
  }
  const { out, report } = await mixture(t, source, options)
  t.equal(report.contests!.length, 2)
  const again = join(folder(t), "out")
  const controller = new AbortController()
  await t.rejects(
    quantizeModel(source, again, {
      ...options,
      signal: controller.signal,
      onProgress: ({ stage, done }) => {
        if (stage === "measure" && done === 3) controller.abort()
      },
    }),
    { code: "ERR_ABORTED" },
  )
  await quantizeModel(source, again, { ...options, resume: true })
  t.strictSame(hashes(again), hashes(out))
  t.strictSame(beside(again), ["out"])
  const turned = await mixture(t, source, { targetBits: 5, sensitivity: "layer", transforms: ["hadamard"] })
  t.equal(turned.report.rotation!.block, 64)
  t.ok(turned.mix.bitsPerWeight <= 5)
})

t.test("decided experts stay as they are; experts that no token reaches have no damage", async t => {
  const source = smallCheckpoint(t, { ...mixtral, num_experts_per_tok: 1 }, "BF16", weights => {
    for (const layer of [0, 1]) {
      const { values, shape } = weights[`model.layers.${layer}.block_sparse_moe.gate.weight`]!
      values.copyWithin(2 * shape[1]!, shape[1]!, 2 * shape[1]!)
    }
  })
  const overrides = [{ pattern: "model.layers.0.*experts*", scheme: "w8a16" }] as const
  const { report, mix } = await mixture(t, source, {
    ...{ targetBits: 6, overrides, expertFloor: 100, sensitivity: "layer" },
    candidates: ["w3a16", "w4a16"],
  })
  t.ok(report.tensors.every(({ name, scheme }) => !/layers\.0.*experts/.test(name) || scheme.bits === 8))
  const [experts, ...rest] = mix.groups.filter(({ modules }) => modules[0]!.includes("experts"))
  t.strictSame(rest, [])
  t.ok(experts!.candidates.every(({ layerError, damage }) => layerError > 0 && damage > 0))
  t.ok(report.experts!.every(({ unseen }) => unseen.some(({ expert, tokens }) => expert === 2 && tokens === 0)))
})

t.test("what engines look up is in the configuration", async t => {
  const source = smallCheckpoint(t, mixtral)
  const options: QuantizeModelOptions = {
    ...{ groupSize: 32, preset: "rtn" },
    overrides: [
      { pattern: "model.layers.0.*experts*", scheme: "w8a16" },
      { pattern: "model.layers.1.*experts*", scheme: "none" },
    ],
  }
  const written = async (format: "compressed-tensors" | "gptq", from = source) => {
    const out = join(folder(t), "out")
    await quantizeModel(from, out, { ...options, format })
    t.ok((await logits(out, tokens(40))).every(Number.isFinite))
    return JSON.parse(readFileSync(join(out, "config.json"), "utf8")).quantization_config
  }
  // vLLM asks for the names of Qwen's experts, whatever the model calls its own.
  const { config_groups: groups, ignore } = await written("compressed-tensors")
  const eight = Object.values(groups as Record<string, { targets: string[]; weights: { num_bits: number } }>).find(
    ({ weights }) => weights.num_bits === 8,
  )!
  const matches = (targets: string[], name: string) =>
    targets.some(target => (target.startsWith("re:") ? new RegExp(target.slice(3)).test(name) : target === name))
  for (const part of ["w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"]) {
    const name = (layer: number) => `model.layers.${layer}.block_sparse_moe.experts.0.${part}`
    t.ok(matches(eight.targets, name(0)) && !matches(eight.targets, name(1)), `${part}: ${eight.targets}`)
    t.ok(matches(ignore, name(1)) && !matches(ignore, name(0)), `${part} is ignored`)
  }
  // Of GPTQ's files it matches the name of the fused layer from its beginning.
  for (const [from, module] of [
    [source, "block_sparse_moe"],
    [smallCheckpoint(t, { ...qwen, num_hidden_layers: 2, mlp_only_layers: [] }), "mlp"],
  ] as const) {
    const { dynamic, bits } = await written("gptq", from)
    const found = (name: string) => {
      const rules = Object.entries(dynamic as Record<string, { bits?: number }>)
      const rule = rules.find(([pattern]) => new RegExp(`^(?:${pattern.slice(2)})`).test(name))
      return rule?.[0].startsWith("-:") ? null : (rule?.[1].bits ?? bits)
    }
    t.equal(found(`model.layers.0.${module}.experts`), 8)
    t.equal(found(`model.layers.1.${module}.experts`), null)
    t.equal(found(`model.layers.1.${module}.gate`), null, "the router")
    t.equal(found("model.layers.1.self_attn.q_proj"), 4)
  }
})

t.test("experts of several schemes are no layer of vLLM's", async t => {
  const source = smallCheckpoint(t, mixtral)
  const findings = async (pattern: string) => {
    const out = join(folder(t), "out")
    const overrides = [{ pattern, scheme: "w8a16" }] as const
    await quantizeModel(source, out, { groupSize: 32, preset: "rtn", format: "compressed-tensors", overrides })
    return (await inspectModel(out, { for: ["vllm", "sglang"] })).findings!.filter(({ reason }) =>
      reason.startsWith("all experts are merged into one layer and differ: "),
    )
  }
  const found = await findings("model.layers.1.*experts.2.w1")
  t.strictSame(
    found.map(({ engine, tensor }) => [engine, tensor]),
    ["vllm", "sglang"].map(engine => [engine, "model.layers.1.block_sparse_moe.experts"]),
  )
  t.strictSame(await findings("model.layers.1.*experts*"), [])
})

t.test("damages by group, and what a plan takes", async t => {
  const source = smallCheckpoint(t, qwen)
  const report = await measureSensitivity(source, {
    ...{ ...smallCalibration, groupSize: 32, candidates: ["w2a16", "w4a16", "w8a16"] },
  })
  t.equal(report.groups.length, 3 * 2 + 2 + 2, "attention, experts, and the MLP of the block without")
  const text = sensitivityTable(report)
  t.match(text, /layers\.0\.mlp\.experts \(33\)/)
  t.match(text, /layers\.1\.mlp\.gate_proj \+1/)
  t.ok(sensitivityPage(report).includes("mlp.experts (33)"))
  const plan = async (options: QuantizeModelOptions) => (await planQuantization(source, { ...base, ...options })).plan
  const [mixed, plain] = [await plan({ targetBits: 4.5 }), await plan({ preset: "gptq" })]
  t.ok(mixed.memoryParts["weights of what is tried"]! > 0)
  t.ok(mixed.peakMemory > plain.peakMemory)
})
