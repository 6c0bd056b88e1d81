// The preset "best": the strategy with the least error wins in every block, the winner's codes are what is written, and a run goes on.
import { join } from "node:path"
import t from "tap"
import { strategies, strategyName } from "../../../../lib/quantize/best/strategies.ts"
import { planQuantization, type QuantizeModelOptions, quantizeModel } from "../../../../lib/quantize/quantize-model.ts"
import { beside, folder, hashes, smallCalibration, smallCheckpoint } from "../support.ts"

const base = { preset: "best", groupSize: 32, scheme: "w3a16", ...smallCalibration } as const

t.test("the least error wins", async t => {
  const source = smallCheckpoint(t)
  for (const sensitivity of ["kl", "layer"] as const) {
    const out = join(folder(t), "out")
    const { contests, tensors, transforms, residualPeaks } = await quantizeModel(source, out, { ...base, sensitivity })
    t.equal(contests!.length, 3)
    t.equal(residualPeaks.length, 3)
    t.ok(residualPeaks.every(peak => peak > 0))
    for (const { chosen, errors } of contests!) {
      t.strictSame(Object.keys(errors), strategies.map(strategyName))
      t.equal(errors[chosen], Math.min(...Object.values(errors)), `${sensitivity}: ${chosen}`)
      t.ok(Object.values(errors).every(error => error > 0))
    }
    contests!.forEach(({ chosen }, layer) => {
      const own = tensors.filter(({ name }) => name.startsWith(`model.layers.${layer}.`))
      t.ok(
        own.every(({ rounding }) => chosen.includes(rounding)),
        `block ${layer} is rounded by ${chosen}`,
      )
    })
    t.equal(transforms.length, contests!.filter(({ chosen }) => chosen.includes("awq")).length)
  }
})

t.test("the same bytes again, and after an interruption", async t => {
  const source = smallCheckpoint(t)
  const [out, again] = [join(folder(t), "out"), join(folder(t), "out")]
  await quantizeModel(source, out, base)
  const controller = new AbortController()
  await t.rejects(
    quantizeModel(source, again, {
      ...base,
      signal: controller.signal,
      onProgress: step => {
        if (step.detail?.startsWith("block 3")) controller.abort()
      },
    }),
    { code: "ERR_ABORTED" },
  )
  await quantizeModel(source, again, { ...base, resume: true })
  t.strictSame(hashes(again), hashes(out))
  t.strictSame(beside(again), ["out"])
})

t.test("beside a mixture", async t => {
  const { scheme: _, ...rest } = base
  const options: QuantizeModelOptions = { ...rest, targetBits: 4, candidates: ["w3a16", "w4a16"], sensitivity: "layer" }
  const { contests, mix } = await quantizeModel(smallCheckpoint(t), join(folder(t), "out"), options)
  t.equal(contests!.length, 3)
  t.ok(mix!.bitsPerWeight <= 4)
})

t.test("a residual stream that float16 does not hold is warned of", async t => {
  const source = smallCheckpoint(t, { num_hidden_layers: 2 }, "BF16", weights => {
    for (const [name, { values }] of Object.entries(weights))
      if (/embed_tokens|o_proj|down_proj/.test(name)) for (const i of values.keys()) values[i]! *= 2 ** 16
  })
  const { residualPeaks, warnings } = await quantizeModel(source, join(folder(t), "out"), { ...base, steps: 5 })
  t.ok(residualPeaks.every(peak => peak > 65504))
  t.ok(warnings.some(text => /float16 ends at 65504/.test(text)))
})

t.test("what it takes is in the plan, and what it decides itself is refused", async t => {
  const source = smallCheckpoint(t)
  const [best, gptq] = [
    await planQuantization(source, base),
    await planQuantization(source, { ...base, preset: "gptq" }),
  ]
  t.equal(best.recipe.contest!.strategies.length, strategies.length)
  t.ok(best.plan.estimatedSeconds > gptq.plan.estimatedSeconds)
  t.ok(best.plan.peakMemory > gptq.plan.peakMemory)
  const own = [{ rounding: "mse" }, { transforms: ["awq"] }, { order: "none" }, { errorCorrection: false }] as const
  for (const options of own)
    await t.rejects(planQuantization(source, { ...base, ...options }), { code: "ERR_OPTION" }, JSON.stringify(options))
  for (const scheme of ["nf4", "fp8", "w8a8", "mxfp4", "llm.int8"] as const)
    for (const options of [{ scheme }, { overrides: [{ pattern: "*.o_proj", scheme }] }])
      await t.rejects(
        planQuantization(source, { ...base, symmetric: true, ...options }),
        { code: "ERR_OPTION", message: new RegExp(`scheme "${scheme}" beside preset "best"`) },
        JSON.stringify(options),
      )
  await t.rejects(planQuantization(source, { preset: "best" }), { code: "ERR_OPTION", message: /needs calibration/ })
})
