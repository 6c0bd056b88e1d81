// Mixtures end to end on small checkpoints: budgets obeyed, fused groups equal, the same bytes again, refusals.
import { existsSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { inspectModel } from "../../../../lib/quantize/inspect-model.ts"
import { nextPrediction } from "../../../../lib/quantize/mixed/search.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../../lib/quantize/quantize-model.ts"
import { familyWeights } from "../../models/support/family-models.ts"
import { writeCheckpoint } from "../../models/support/tiny-checkpoint.ts"
import { beside, folder, hashes, smallCalibration, smallCheckpoint, tokens } from "../support.ts"

const base = { groupSize: 32, ...smallCalibration } as const
const mixture = async (t: Parameters<typeof folder>[0], source: string, options: QuantizeModelOptions) => {
  const out = join(folder(t), "out")
  const report = await quantizeModel(source, out, { ...base, ...options })
  return { out, report, mix: report.mix! }
}

t.test("bits per weight", async t => {
  const source = smallCheckpoint(t)
  for (const targetBits of [3, 4.5, 5.17]) {
    const { out, report, mix } = await mixture(t, source, { targetBits })
    const { bitsPerWeight, scheme } = await inspectModel(out)
    t.ok(
      mix.bitsPerWeight <= targetBits && mix.bitsPerWeight > targetBits - 0.3,
      `${mix.bitsPerWeight} of ${targetBits}`,
    )
    t.equal(scheme, "mixed")
    if (mix.groups.every(group => group.scheme !== "none"))
      t.ok(Math.abs(bitsPerWeight - mix.bitsPerWeight) < 1e-9, "scales included, as the file has them")
    t.equal(mix.optimalityGap, 0)
    t.ok(mix.measuredKl > 0 && mix.predictedKl > 0)
    const byName = new Map(report.tensors.map(tensor => [tensor.name, tensor.scheme]))
    for (const { modules } of mix.groups) {
      t.equal(new Set(modules.map(name => JSON.stringify(byName.get(name)))).size, 1, `${modules} are equal`)
      if (modules[0]!.endsWith("q_proj")) t.equal(modules.length, 3)
    }
  }
})

t.test("less damage than one scheme of the same size is predicted, and more bits never hurt", async t => {
  const source = smallCheckpoint(t)
  const { mix } = await mixture(t, source, { targetBits: 4.5, rounding: "nearest" })
  const uniform = mix.groups.reduce(
    (sum, group) => sum + group.candidates.find(candidate => candidate.scheme === "w4a16")!.damage,
    0,
  )
  t.ok(mix.predictedKl <= uniform)
  const finer = await mixture(t, source, { targetBits: 6, rounding: "nearest" })
  t.ok(finer.mix.predictedKl < mix.predictedKl)
  t.ok(finer.mix.measuredKl < mix.measuredKl)
})

t.test("bytes of all tensors", async t => {
  const source = smallCheckpoint(t)
  for (const format of ["compressed-tensors", "gptq"] as const)
    for (const targetSize of [52_000, "60kB"]) {
      const { report } = await mixture(t, source, { targetSize, format })
      const limit = typeof targetSize === "number" ? targetSize : 60_000
      t.ok(
        report.outputBytes <= limit && report.outputBytes > 0.93 * limit,
        `${format}: ${report.outputBytes} of ${limit}`,
      )
    }
})

t.test("divergence", async t => {
  const source = smallCheckpoint(t)
  const targetKl = 2e-5
  const { mix } = await mixture(t, source, { targetKl, sensitivity: "layer" })
  t.ok(mix.measuredKl <= targetKl, `${mix.measuredKl} in ${mix.attempts.length} attempts`)
  t.equal(mix.attempts.at(-1)!.measured, mix.measuredKl)
  const out = join(folder(t), "out")
  const options = { ...base, sensitivity: "layer", candidates: ["w2a16", "w3a16"] } as const
  await t.rejects(quantizeModel(source, out, { ...options, targetKl: 1e-9 }), {
    code: "ERR_OPTION",
    message: /no mixture of the candidates/,
  })
  const measured: number[] = []
  await quantizeModel(source, out, {
    ...options,
    ...{ targetBits: 3, resume: true },
    onProgress: step => step.stage === "measure" && measured.push(step.done),
  })
  t.strictSame(measured, [], "what was measured serves another target")
  t.equal(nextPrediction(0.1, []), 0.1)
  t.ok(nextPrediction(0.1, [{ predicted: 0.1, measured: 0.2, picks: [] }]) < 0.05)
  const between = nextPrediction(0.1, [
    { predicted: 0.1, measured: 0.2, picks: [] },
    { predicted: 0.04, measured: 0.05, picks: [] },
  ])
  t.ok(between > 0.04 && between < 0.1)
})

t.test("a divergence that what is decided already exceeds", { timeout: 60_000 }, async t => {
  const source = smallCheckpoint(t)
  const options = { ...base, targetKl: 1e-9, overrides: [{ pattern: "*.0.mlp.down_proj", scheme: "w2a16" }] } as const
  await t.rejects(quantizeModel(source, join(folder(t), "out"), { ...options, sensitivity: "layer" }), {
    code: "ERR_OPTION",
    message: /no mixture of the candidates keeps to, beside what overrides decide/,
  })
})

t.test("a mixture that was accepted is written after an interruption", async t => {
  const source = smallCheckpoint(t)
  const options = { targetKl: 2e-5, sensitivity: "layer" } as const
  const { out, mix } = await mixture(t, source, options)
  const again = join(folder(t), "out")
  const controller = new AbortController()
  const interrupted = quantizeModel(source, again, {
    ...{ ...base, ...options, signal: controller.signal },
    onProgress: ({ stage }) => stage === "write" && controller.abort(),
  })
  await t.rejects(interrupted, { code: "ERR_ABORTED" })
  const stages = new Set<string>()
  const report = await quantizeModel(source, again, {
    ...{ ...base, ...options, resume: true },
    onProgress: ({ stage }) => stages.add(stage),
  })
  t.notOk(stages.has("quantize"), "its blocks are there")
  t.strictSame(report.mix!.attempts, mix.attempts)
  t.strictSame(hashes(again), hashes(out))
})

t.test("damages of weights that are stored [in, out]", async t => {
  const config = {
    ...{ model_type: "gpt2", vocab_size: 64, n_embd: 64, n_layer: 2, n_head: 4, n_positions: 64 },
    torch_dtype: "float32",
  }
  const source = join(folder(t), "model")
  writeCheckpoint(source, config, familyWeights(config, 17))
  const { mix } = await mixture(t, source, { targetBits: 8.5, format: "gptq", candidates: ["w4a16", "w8a16"] })
  t.equal(mix.groups.length, 8)
  for (const { modules, candidates } of mix.groups)
    t.ok(candidates[1]!.damage < candidates[0]!.damage / 10, `${modules}: ${candidates.map(({ damage }) => damage)}`)
})

t.test("decided modules stay as they are", async t => {
  const source = smallCheckpoint(t)
  const { report, mix } = await mixture(t, source, {
    targetBits: 5.5,
    overrides: [{ pattern: "*.1.mlp.*", scheme: "w8a16", groupSize: 16 }],
    ignore: ["*.0.self_attn.o_proj"],
    candidates: ["w3a16", { scheme: "w4a16", groupSize: 16 }, "w8a16"],
  })
  const schemes = new Map(report.tensors.map(tensor => [tensor.name, tensor.scheme]))
  t.equal(schemes.get("model.layers.1.mlp.up_proj")!.bits, 8)
  t.equal(schemes.get("model.layers.1.mlp.up_proj")!.groupSize, 16)
  t.notOk(schemes.has("model.layers.0.self_attn.o_proj"))
  t.ok(report.bitsPerWeight <= 5.5, `${report.bitsPerWeight} with the decided ones`)
  t.notOk(mix.groups.some(group => group.modules.some(name => name.includes("1.mlp"))))
})

t.test("the same bytes again, and after an interruption", async t => {
  const source = smallCheckpoint(t)
  const options = { ...base, targetBits: 4.5, sensitivity: "layer" } as const
  const { out } = await mixture(t, source, options)
  const again = join(folder(t), "out")
  for (const [stage, done] of [
    ["measure", 4],
    ["quantize", 8],
  ] as const) {
    const controller = new AbortController()
    await t.rejects(
      quantizeModel(source, again, {
        ...options,
        resume: stage === "quantize",
        signal: controller.signal,
        onProgress: step => {
          if (step.stage === stage && step.done >= done) controller.abort()
        },
      }),
      { code: "ERR_ABORTED" },
    )
    t.ok(existsSync(`${again}.tsq-search.json`))
  }
  await t.rejects(quantizeModel(source, again, { ...options, samples: 8, resume: true }), { code: "ERR_OPTION" })
  const measured: number[] = []
  await quantizeModel(source, again, {
    ...options,
    resume: true,
    onProgress: step => step.stage === "measure" && measured.push(step.done),
  })
  t.strictSame(measured, [], "nothing is measured twice")
  t.strictSame(hashes(again), hashes(out))
  t.strictSame(beside(again), ["out"], "nothing is left beside it")
})

t.test("weights that are stored [in, out] are measured the right way round", async t => {
  const config = { model_type: "gpt2", vocab_size: 64, n_embd: 64, n_layer: 2, n_head: 4, n_positions: 64 }
  const source = join(folder(t), "gpt2")
  writeCheckpoint(source, config, familyWeights(config, 11, "F32"), "F32")
  const { mix } = await mixture(t, source, { targetBits: 5, format: "gptq", candidates: ["w4a16", "w8a16"] })
  for (const { modules, candidates } of mix.groups) {
    const [four, eight] = candidates.map(({ damage }) => damage)
    t.ok(eight! < four! / 20, `${modules}: ${four} with 4 bits, ${eight} with 8`)
  }
  t.ok(mix.measuredKl < 4 * mix.predictedKl, `${mix.measuredKl} of ${mix.predictedKl}`)
})

t.test("refusals", async t => {
  const source = smallCheckpoint(t)
  const refused = async (options: Record<string, unknown>, code: string, text: RegExp) => {
    const out = join(folder(t), "out")
    await t.rejects(quantizeModel(source, out, { ...base, ...options } as QuantizeModelOptions), {
      code,
      message: text,
    })
    t.strictSame(beside(out), [], JSON.stringify(options))
  }
  await refused({ targetBits: 2 }, "ERR_OPTION", /between 2\.267 and 16\.000/)
  const decided = [{ pattern: "*.0.*", scheme: "w8a16" }]
  const pair = { overrides: decided, candidates: ["w3a16", "w4a16"] }
  for (const targetBits of [4, 7]) await refused({ ...pair, targetBits }, "ERR_OPTION", /between 5\.\d+ and 5\.\d+/)
  await refused({ targetBits: 17 }, "ERR_OPTION", /between .* quantize with one scheme/)
  await refused({ targetSize: 1000 }, "ERR_OPTION", /targetSize is 1000/)
  await refused({ targetSize: "lots" }, "ERR_OPTION", /targetSize/)
  await refused({ targetBits: 4, targetKl: 1 }, "ERR_OPTION", /targetBits and targetKl are both given/)
  await refused({ targetBits: 4, scheme: "w4a16" }, "ERR_OPTION", /scheme/)
  await refused({ targetBits: 0 }, "ERR_OPTION", /targetBits/)
  await refused({ candidates: ["w4a16"] }, "ERR_OPTION", /candidates/)
  await refused({ targetBits: 4, candidates: ["w4"] }, "ERR_OPTION", /candidates has "w4"/)
  await refused({ targetBits: 4, candidates: ["w4a16", "w4a16"] }, "ERR_OPTION", /once/)
  await refused({ targetBits: 4, sensitivity: "x" }, "ERR_OPTION", /sensitivity/)
  await refused(
    { targetBits: 4, candidates: ["w4a16", "w3a16"], format: "awq", symmetric: false },
    "ERR_UNSUPPORTED",
    /candidate w3a16 fits no linear/,
  )
  await refused({ targetBits: 5.5, candidates: ["w4a16", "w6a16"], format: "gptq" }, "ERR_UNSUPPORTED", /w6a16.*planar/)
  await t.rejects(quantizeModel(source, join(folder(t), "out"), { groupSize: 32, targetBits: 4 }), {
    code: "ERR_OPTION",
    message: /needs calibration/,
  })
  await t.rejects(
    quantizeModel(source, join(folder(t), "out"), {
      ...base,
      calibration: tokens(16 * 32),
      targetBits: 4.2,
      ignore: ["*_proj"],
    }),
    { code: "ERR_UNSUPPORTED" },
  )
})
