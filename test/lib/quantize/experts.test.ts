// Mixtures of experts through the pipeline: coverage, floors, the router, every format.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { devices, setThreads } from "../../../lib/core/machine.ts"
import { convertModel } from "../../../lib/quantize/convert-model.ts"
import { inspectModel } from "../../../lib/quantize/inspect-model.ts"
import { planQuantization, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import type { QuantizeModelOptions } from "../../../lib/quantize/recipe.ts"
import type { Weights } from "../models/support/float64-forward.ts"
import { folder, hashes, logits, relativeDistance, smallCalibration, smallCheckpoint, tokens } from "./support.ts"

const mixtral = { model_type: "mixtral", num_local_experts: 4, num_experts_per_tok: 2, num_hidden_layers: 2 }
const qwen = {
  model_type: "qwen3_moe",
  num_experts: 8,
  num_experts_per_tok: 3,
  moe_intermediate_size: 32,
  norm_topk_prob: true,
  num_hidden_layers: 3,
  mlp_only_layers: [1],
  head_dim: 16,
}
const small = { ...smallCalibration, groupSize: 32, expertFloor: 16 } as const
const ids = tokens(40, 64, 9)

/** Of experts with equal scores the one of the lower index is chosen: with one expert a token, expert 2 is never. */
const withoutTokens = (weights: Weights) => {
  for (let layer = 0; layer < 2; layer++) {
    const { values, shape } = weights[`model.layers.${layer}.block_sparse_moe.gate.weight`]!
    values.copyWithin(2 * shape[1]!, shape[1]!, 2 * shape[1]!)
  }
}

t.test("AWQ within experts, in front of what is no whole number", async t => {
  const source = smallCheckpoint(t, mixtral)
  for (const scheme of ["fp8", "nf4"] as const) {
    const out = join(folder(t), "out")
    const options = { ...smallCalibration, preset: "rtn", scheme, transforms: ["awq"] } as const
    const { transforms, tensors } = await quantizeModel(source, out, options)
    const own = transforms
      .flat()
      .flatMap(({ groups }) => groups)
      .filter(({ targets }) => targets[0]!.endsWith(".w2"))
    t.equal(own.length, 2 * 4, "every expert of every block")
    t.ok(own.every(({ error, errorBefore }) => error <= errorBefore && errorBefore > 0 && errorBefore < 0.1))
    t.ok(own.some(({ error, errorBefore }) => error < errorBefore))
    t.equal(tensors.length, 2 * (4 + 3 * 4))
  }
})

for (const [name, change] of [
  ["mixtral", mixtral],
  ["qwen3_moe", qwen],
] as const)
  t.test(`${name}: GPTQ calibrates every expert on its own rows`, async t => {
    const source = smallCheckpoint(t, change)
    const out = join(folder(t), "out")
    const report = await quantizeModel(source, out, { ...small, preset: "gptq" })
    const blocks = name === "mixtral" ? 2 : 2
    t.equal(report.experts?.length, blocks, "coverage of every block with experts")
    const perToken = name === "mixtral" ? 2 : 3
    for (const { min, median, max, count, unseen } of report.experts!) {
      t.equal(count, name === "mixtral" ? 4 : 8)
      t.ok(min <= median && median <= max && max <= 16 * 32)
      t.ok(max * count >= 16 * 32 * perToken, "all pairs are counted")
      t.ok(unseen.every(({ tokens }) => tokens < 16))
    }
    const routers = report.unquantized.filter(({ reason }) => reason.startsWith("router, kept"))
    t.equal(routers.length, blocks)
    const experts = report.tensors.filter(({ name }) => name.includes(".experts."))
    t.equal(experts.length, blocks * report.experts![0]!.count * 3)
    for (const { rounding, tokens, error, name } of experts) {
      t.ok(Number.isFinite(error))
      t.equal(rounding, tokens! >= 16 ? "gptq" : "mse", `${name} after ${tokens} tokens`)
    }
    const nearest = join(folder(t), "nearest")
    await quantizeModel(source, nearest, { groupSize: 32, preset: "rtn", format: "gptq" })
    const calibrated = tokens(64, 64, 3)
    const dense = await logits(source, calibrated)
    const [ours, plain] = [await logits(out, calibrated), await logits(nearest, calibrated)]
    t.ok(
      relativeDistance(ours, dense) < relativeDistance(plain, dense),
      `${relativeDistance(ours, dense)} of GPTQ, ${relativeDistance(plain, dense)} of nearest codes`,
    )
  })

t.test("an expert that saw no tokens has finite scales and is named", async t => {
  const source = smallCheckpoint(t, { ...mixtral, num_experts_per_tok: 1 }, "BF16", withoutTokens)
  const warnings: string[] = []
  const recipes: QuantizeModelOptions[] = [
    { preset: "gptq" },
    { preset: "gptq", expertFloor: 0 },
    { rounding: "mse" },
    { preset: "awq" },
    { preset: "awq-gptq" },
  ]
  for (const recipe of recipes) {
    const out = join(folder(t), "out")
    const report = await quantizeModel(source, out, { ...small, ...recipe, onWarning: text => warnings.push(text) })
    t.equal(report.experts!.length, 2)
    for (const { block, min, unseen } of report.experts!) {
      t.equal(min, 0)
      t.match(unseen, [{ expert: 2, tokens: 0 }])
      t.ok(report.warnings.some(text => text.startsWith(`${block}: `) && text.includes("2 (0)")))
    }
    for (const { name, rounding, tokens, note, error } of report.tensors.filter(({ name }) =>
      name.includes("experts.2."),
    )) {
      t.equal(tokens, 0, name)
      t.ok(Number.isFinite(error))
      t.equal(rounding, recipe.preset === "awq" ? "nearest" : "mse")
      t.match(note, /0 tokens of calibration reached this expert/)
    }
    t.ok((await logits(out, ids)).every(Number.isFinite))
    const checkpoint = await Checkpoint.open(out)
    t.teardown(() => checkpoint.dispose())
    for (const name of checkpoint.names.filter(name => name.endsWith(".scales")))
      t.ok((await checkpoint.floats(name)).every(Number.isFinite), name)
  }
})

t.test("the same bytes for any number of threads", async t => {
  const before = devices().devices[0].threads
  t.teardown(() => setThreads(before))
  const source = smallCheckpoint(t, qwen)
  const results = []
  for (const threads of [1, 2]) {
    setThreads(threads)
    const out = join(folder(t), "out")
    await quantizeModel(source, out, { ...small, preset: "awq-gptq" })
    results.push(hashes(out))
  }
  t.same(results[0], results[1])
})

const formats: QuantizeModelOptions[] = [
  { preset: "rtn", format: "gptq" },
  { preset: "rtn", format: "compressed-tensors" },
  { preset: "rtn", symmetric: false, format: "awq" },
  { scheme: "w8a8" },
  { preset: "fp8" },
  { preset: "fp8", format: "fp8" },
  { scheme: "mxfp4" },
  { preset: "nf4" },
  { preset: "llm.int8" },
]
// Widths that formats with blocks of 128 hold whole.
const wide = { hidden_size: 128, intermediate_size: 128, head_dim: 32 }
const wideModels = [
  { ...mixtral, ...wide, num_local_experts: 3 },
  { ...qwen, ...wide, moe_intermediate_size: 128, num_experts: 3, num_experts_per_tok: 2, num_hidden_layers: 2 },
]
for (const options of formats)
  t.test(`written and read: ${JSON.stringify(options)}`, async t => {
    for (const change of options.preset === "rtn" ? wideModels : wideModels.slice(1)) {
      const source = smallCheckpoint(t, change)
      const out = join(folder(t), "out")
      const warnings: string[] = []
      const report = await quantizeModel(source, out, { ...options, onWarning: text => warnings.push(text) })
      t.ok(
        report.tensors.some(({ name }) => name.includes(".experts.")),
        warnings.join("; "),
      )
      const [dense, found] = [await logits(source, ids), await logits(out, ids)]
      t.ok(relativeDistance(found, dense) < 0.5, `logits at ${relativeDistance(found, dense)}`)
      const [stored, before] = [await inspectModel(out), await inspectModel(source)]
      t.equal(stored.activeParameters, before.activeParameters)
      t.ok(stored.activeParameters! < before.parameters)
    }
  })

t.test("files of equal codes compute the same", async t => {
  const source = smallCheckpoint(t, mixtral)
  const all = []
  const first = join(folder(t), "first")
  await quantizeModel(source, first, { preset: "rtn", groupSize: 32, format: "gptq" })
  all.push(await logits(first, ids))
  for (const format of ["compressed-tensors", "awq"] as const) {
    const out = join(folder(t), "out")
    await convertModel(first, out, { format })
    all.push(await logits(out, ids))
  }
  t.same(all[1], all[0])
  t.same(all[2], all[0])
})

t.test("experts keep one scheme, and routers are never quantized", async t => {
  const source = smallCheckpoint(t, mixtral)
  const base = { groupSize: 32, preset: "rtn", format: "compressed-tensors" } as const
  await t.rejects(
    planQuantization(source, { ...base, overrides: [{ pattern: "block_sparse_moe.gate", scheme: "w8a16" }] }),
    { code: "ERR_OPTION", message: /block_sparse_moe\.gate, which is never quantized: router, kept/ },
  )
  const { plan } = await planQuantization(source, {
    ...base,
    overrides: [{ pattern: "*experts.1.w1", scheme: "w8a16" }],
  })
  t.match(plan.warnings.join("\n"), /experts\.0\.w1, .* and 9 more differ in bits/)
  const whole = await planQuantization(source, { ...base, overrides: [{ pattern: "*experts*", scheme: "w8a16" }] })
  t.same(
    whole.plan.warnings.filter(text => text.includes("differ")),
    [],
  )
  // 40 columns make no whole groups of 32 for GPTQ files: w2 cannot be held, and so no expert is quantized.
  const narrow = smallCheckpoint(t, { ...mixtral, intermediate_size: 40 })
  const refused = await planQuantization(narrow, { groupSize: 32, preset: "rtn", format: "gptq" })
  const experts = refused.plan.modules.filter(({ module }) => module.includes("experts"))
  t.ok(experts.every(({ scheme }) => scheme === null))
  t.match(experts.find(({ module }) => module.endsWith("w1"))?.reason, /./)
  await t.rejects(planQuantization(source, { ...base, expertFloor: -1 }), { code: "ERR_OPTION" })
  await t.rejects(planQuantization(source, { ...base, expertFloor: 1.5 }), { code: "ERR_OPTION" })
})

t.test("what a checkpoint's configuration says of the router", async t => {
  const source = smallCheckpoint(t, mixtral)
  const out = join(folder(t), "out")
  await quantizeModel(source, out, { groupSize: 32, preset: "rtn", format: "compressed-tensors" })
  const config = JSON.parse(readFileSync(join(out, "config.json"), "utf8"))
  t.match(JSON.stringify(config.quantization_config.ignore), /block_sparse_moe/)
  t.equal(config.quantization_config.ignore.length, 3, "two routers and the head")
  t.same(Object.values(config.quantization_config.config_groups as object)[0].targets, ["Linear"])
  const mixed = join(folder(t), "mixed")
  await quantizeModel(source, mixed, {
    ...{ groupSize: 32, preset: "rtn", format: "compressed-tensors" },
    overrides: [{ pattern: "*experts*", scheme: "w8a16" }],
  })
  const { config_groups: groups } = JSON.parse(readFileSync(join(mixed, "config.json"), "utf8")).quantization_config
  const targets = Object.values(groups as Record<string, { targets: string[] }>).flatMap(group => group.targets)
  t.ok(
    targets.includes(
      "re:^model\\.layers\\.\\d+\\.block_sparse_moe\\.experts\\.\\d+\\.(?:down_proj|gate_proj|up_proj|w1|w2|w3)$",
    ),
    `one pattern for all experts: ${targets.join(" ")}`,
  )
  t.ok((await logits(mixed, ids)).every(Number.isFinite))
})
