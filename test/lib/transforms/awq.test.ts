// AWQ leaves a block's function as it is until something is rounded, and says what it found.
import t from "tap"
import type { Scheme } from "../../../lib/core/scheme.ts"
import { awq } from "../../../lib/transforms/awq.ts"
import { relativeDistance } from "../quantize/support.ts"
import { architectures, blockUnderTest } from "./support.ts"

const scheme: Scheme = { bits: 3, symmetric: false, groupSize: 32, granularity: "group", scaleType: "f16" }

for (const [name, change, dtype] of architectures)
  t.test(name, async t => {
    const { run, input, bound, fresh, output } = await blockUnderTest(t, change, dtype)
    const { sample, weights } = input
    t.equal(sample.rows, 128)
    t.strictSame(sample.hidden.subarray(0, 64), run.sample(32).hidden.subarray(0, 64))

    const before = await output(bound)
    const report = await awq.apply({ ...input, schemeOf: () => scheme })
    const after = await output(await run.rebind(bound, weights))

    t.equal(report.groups.length, 4)
    t.strictSame(
      report.groups.map(group => group.source),
      ["input_layernorm.weight", "self_attn.v_proj", "post_attention_layernorm.weight", "mlp.up_proj"],
    )
    for (const { ratio, error, errorBefore } of report.groups)
      t.ok(ratio !== null && ratio >= 0 && ratio < 1 && error > 0 && error <= errorBefore)
    t.ok(report.groups.filter(({ error, errorBefore }) => error < errorBefore).length >= 2, "scales were found")
    t.ok(weights.changedVectors.length + weights.changedLinears.length >= 4, "and folded")
    const distance = relativeDistance(after, before)
    t.ok(distance < 2e-6, `the block computes the same: ${distance.toExponential(1)}`)

    const untouched = fresh()
    await awq.apply({ ...input, weights: untouched, schemeOf: () => null })
    t.strictSame(untouched.changedLinears, [], "without anything to round nothing is scaled")

    await t.rejects(awq.apply({ ...input, schemeOf: () => scheme, signal: AbortSignal.abort("stop") }), {
      code: "ERR_ABORTED",
      cause: "stop",
    })
  })

t.test("a code book is searched by the block's error as whole numbers are", async t => {
  const { run, input, bound, output } = await blockUnderTest(t, {}, "F32")
  const before = await output(bound)
  const nf4: Scheme = {
    ...{ bits: 4, symmetric: true, codebook: "nf4", granularity: "flat", groupSize: 32, runLength: 32 },
    scaleType: "f32",
  }
  const { groups } = await awq.apply({ ...input, schemeOf: () => nf4 })
  for (const { error, errorBefore } of groups) t.ok(error > 0 && error <= errorBefore)
  t.ok(groups.some(({ error, errorBefore }) => error < errorBefore))
  t.ok(relativeDistance(await output(await run.rebind(bound, input.weights)), before) < 2e-6)
})
