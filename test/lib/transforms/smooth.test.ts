// SmoothQuant: its formula, that a block's function stays what it is, and that outliers stop to hurt.
import { readFileSync } from "node:fs"
import t from "tap"
import type { Scheme } from "../../../lib/core/scheme.ts"
import { smooth, smoothScale } from "../../../lib/transforms/smooth.ts"
import { families, familyWeights } from "../models/support/family-models.ts"
import { writeCheckpoint } from "../models/support/tiny-checkpoint.ts"
import { relativeDistance } from "../quantize/support.ts"
import { architectures, blockOf, blockUnderTest } from "./support.ts"

const w8a8 = (groupSize: number): Scheme => ({
  ...{ bits: 8, symmetric: true, granularity: "channel", groupSize, scaleType: "f32" },
  activations: { type: "int8", symmetric: true, dynamic: true, granularity: "token" },
})

/** Channels of the first norm 50 times as large, and its readers' columns by as much smaller: the function stays. */
function plantOutliers(weights: Record<string, { shape: number[]; values: Float64Array }>): void {
  for (const channel of [3, 17, 40]) {
    weights["model.layers.1.input_layernorm.weight"]!.values[channel]! *= 50
    for (const part of ["q", "k", "v"]) {
      const { shape, values } = weights[`model.layers.1.self_attn.${part}_proj.weight`]!
      for (let row = 0; row < shape[0]!; row++) values[row * shape[1]! + channel]! /= 50
    }
  }
}

t.test("scales are those of the paper's code", t => {
  const { vectors } = JSON.parse(readFileSync(new URL("../../fixtures/vectors.json", import.meta.url), "utf8"))
  const vector = vectors.find((entry: { id: string }) => entry.id === "smoothquant-scales")
  const { act_absmax, weight_col_absmax, alpha, s } = vector
  t.strictSame([...smoothScale(act_absmax, weight_col_absmax, alpha)], s)
  t.strictSame([...smoothScale(act_absmax, weight_col_absmax, 1)], act_absmax, "alpha 1 takes the whole range")
  t.strictSame(
    [...smoothScale(act_absmax, weight_col_absmax, 0)],
    weight_col_absmax.map((w: number) => 1 / w),
  )
  t.strictSame([...smoothScale([0, 1], [1, 0], 0.5)], [1, Math.fround(1 / Math.sqrt(1e-5))], "nothing becomes 0 or Inf")
  t.end()
})

for (const [name, change, dtype] of architectures)
  t.test(name, async t => {
    const { run, input, bound, fresh, output } = await blockUnderTest(t, change, dtype, plantOutliers)
    const before = await output(bound)
    const schemeOf = (module: string) => w8a8(input.weights.shape(module)[1])
    const { groups } = await smooth.apply({ ...input, schemeOf })
    t.strictSame(
      groups.map(({ source, ratio }) => [source, ratio]),
      [
        ["input_layernorm.weight", 0.5],
        ["post_attention_layernorm.weight", 0.5],
      ],
      "a fixed alpha scales what norms feed",
    )
    t.ok(groups[0]!.error < groups[0]!.errorBefore / 2, "outliers of activations are shared with the weights")
    const distance = relativeDistance(await output(await run.rebind(bound, input.weights)), before)
    t.ok(distance < 2e-6, `the block computes the same: ${distance.toExponential(1)}`)

    const weights = fresh()
    const searched = await smooth.apply({
      ...{ ...input, weights, schemeOf, options: { alpha: "auto" } },
    })
    t.equal(searched.groups.length, 4)
    for (const { error, errorBefore, ratio } of searched.groups) {
      t.ok(ratio === null ? error === errorBefore : error < errorBefore)
    }
    t.ok(searched.groups[0]!.error <= groups[0]!.error * 1.001, "the search finds no worse than a fixed alpha")
    t.ok(relativeDistance(await output(await run.rebind(bound, weights)), before) < 2e-6)

    const untouched = fresh()
    await smooth.apply({ ...input, weights: untouched, schemeOf: () => null })
    t.strictSame(untouched.changedLinears, [], "without anything to round nothing is scaled")
    await t.rejects(smooth.apply({ ...input, schemeOf, signal: AbortSignal.abort("stop") }), {
      code: "ERR_ABORTED",
      cause: "stop",
    })
  })

for (const [name, config] of Object.entries(families))
  t.test(`${name}: norms that add one, norms with a mean, fused and transposed projections`, async t => {
    const directory = t.testdir()
    writeCheckpoint(directory, config, familyWeights(config, 7, "F32"), "F32")
    const { run, input, bound, output } = await blockOf(t, directory, 0)
    const before = await output(bound)
    const schemeOf = (module: string) => w8a8(input.weights.shape(module)[1])
    const { groups } = await smooth.apply({ ...input, schemeOf, options: { alpha: "auto" } })
    t.ok(groups.length >= 2)
    for (const { error, errorBefore } of groups) t.ok(error <= errorBefore)
    await smooth.apply({ ...input, schemeOf, options: { alpha: 0.5 } })
    const distance = relativeDistance(await output(await run.rebind(bound, input.weights)), before)
    t.ok(distance < 2e-6, `the block computes the same: ${distance.toExponential(1)}`)
  })
