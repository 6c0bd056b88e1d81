// Widths, granularities, ends and ragged groups, on a small checkpoint and on stories260K, whose k = 172 fits neither GPTQ nor AWQ.
import { join } from "node:path"
import t, { type Test } from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { formatByName } from "../../../lib/formats/registry.ts"
import { inspectModel } from "../../../lib/quantize/inspect-model.ts"
import { planQuantization, type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { folder, logits, relativeDistance, sharedModel, smallCalibration, smallCheckpoint, tokens } from "./support.ts"

const stories = sharedModel("stories260K")
const skipStories = stories === null ? "shared/models/stories260K does not lie beside the repository" : false

async function quantized(t: Test, source: string, options: QuantizeModelOptions): Promise<string> {
  const out = join(folder(t), "out")
  await quantizeModel(source, out, options)
  return out
}

t.test("error falls with every bit, symmetric and asymmetric, with every rounding", async t => {
  const source = smallCheckpoint(t, {}, "F32")
  const ids = tokens(24, 64, 9)
  const original = await logits(source, ids)
  for (const symmetric of [true, false])
    for (const rounding of ["nearest", "gptq"] as const) {
      let last = 0
      for (const scheme of ["w8a16", "w6a16", "w5a16", "w4a16", "w3a16", "w2a16"] as const) {
        const options = {
          scheme,
          symmetric,
          rounding,
          groupSize: 32,
          format: "compressed-tensors",
          ...(rounding === "gptq" && smallCalibration),
        } as const
        const out = await quantized(t, source, options)
        const distance = relativeDistance(await logits(out, ids), original)
        t.ok(distance > last, `${scheme} ${rounding} ${symmetric ? "" : "a"}symmetric: ${distance.toFixed(4)}`)
        t.equal((await inspectModel(out)).scheme, `${scheme} g32 ${symmetric ? "symmetric" : "asymmetric"}`)
        last = distance
      }
    }
})

t.test("per channel, per tensor, and groups that do not divide k", async t => {
  const source = smallCheckpoint(t)
  const ids = tokens(24, 64, 9)
  const original = await logits(source, ids)
  for (const [groupSize, formats] of [
    ["channel", ["gptq", "awq", "compressed-tensors"]],
    ["tensor", ["compressed-tensors"]],
    [20, ["compressed-tensors"]],
    [64, ["compressed-tensors"]],
    [1, ["compressed-tensors"]],
  ] as const)
    for (const format of formats)
      for (const preset of ["rtn", "gptq", "awq"] as const) {
        const out = await quantized(t, source, {
          preset,
          scheme: "w4a16",
          groupSize,
          format,
          ...(preset !== "rtn" && smallCalibration),
        })
        const distance = relativeDistance(await logits(out, ids), original)
        t.ok(
          distance < (groupSize === "tensor" ? 0.6 : 0.4),
          `${preset} ${groupSize} ${format}: ${distance.toFixed(3)}`,
        )
      }
  const { recipe } = await planQuantization(source, { groupSize: "tensor" })
  t.equal(recipe.format, "compressed-tensors", "the default format is one that holds the scheme")
})

t.test("asymmetric GPTQ v1 has no zero point of 0, v2 may", async t => {
  // Rows of positive weights want a zero point of 0.
  const source = smallCheckpoint(t, {}, "BF16", weights => {
    for (const [name, { values }] of Object.entries(weights))
      if (name.includes("_proj"))
        values.forEach((x, i) => {
          values[i] = Math.abs(x)
        })
  })
  const least = async (gptqVersion: "v1" | "v2", rounding: "nearest" | "mse" | "gptq") => {
    const options = {
      symmetric: false,
      format: "gptq",
      groupSize: 32,
      gptqVersion,
      rounding,
      ...(rounding === "gptq" && smallCalibration),
    } as const
    const out = await quantized(t, source, options)
    const checkpoint = await Checkpoint.open(out)
    try {
      const reader = formatByName("gptq").reader(checkpoint, checkpoint.quantizationConfig!, text => t.fail(text))
      const { zeros } = await reader.read("model.layers.0.mlp.up_proj")
      return Math.min(...zeros!)
    } finally {
      checkpoint.dispose()
    }
  }
  for (const rounding of ["nearest", "mse", "gptq"] as const) {
    t.equal(await least("v1", rounding), 1, `v1 ${rounding}`)
    t.equal(await least("v2", rounding), 0, `v2 ${rounding}`)
  }
})

t.test("embedding and head where asked for", async t => {
  const ids = tokens(24, 64, 9)
  for (const tie_word_embeddings of [true, false]) {
    const source = smallCheckpoint(t, { tie_word_embeddings })
    const original = await logits(source, ids)
    const overrides = [
      { pattern: "model.embed_tokens", scheme: "w8a16" },
      ...(tie_word_embeddings ? [] : [{ pattern: "lm_head", scheme: "w8a16" } as const]),
    ] as const
    const out = await quantized(t, source, {
      scheme: "w8a16",
      format: "compressed-tensors",
      groupSize: 32,
      overrides,
      ...smallCalibration,
    })
    const found = await inspectModel(out)
    t.notOk(
      found.tensors.some(tensor => tensor.dtype !== null && tensor.shape.length === 2),
      "no dense matrix is left",
    )
    t.ok(relativeDistance(await logits(out, ids), original) < 0.02)
  }
  const source = smallCheckpoint(t, { tie_word_embeddings: false })
  const out = await quantized(t, source, {
    format: "gptq",
    groupSize: 32,
    overrides: [{ pattern: "lm_head", scheme: "w4a16" }],
    ...smallCalibration,
  })
  t.ok(
    (await inspectModel(out)).tensors.some(
      ({ name, scheme }) => name === "lm_head" && scheme === "w4a16 g32 symmetric",
    ),
  )
})

t.test("a linear that the format cannot hold takes those that engines fuse with it along", async t => {
  // k_proj and v_proj have 16 rows: too few for GPTQ's packed zero points.
  const source = smallCheckpoint(t, { num_key_value_heads: 1 })
  const warnings: string[] = []
  const out = join(folder(t), "out")
  const report = await quantizeModel(source, out, {
    groupSize: 32,
    format: "gptq",
    onWarning: text => warnings.push(text),
  })
  const left = new Map(report.unquantized.map(({ name, reason }) => [name, reason]))
  t.match(left.get("model.layers.0.self_attn.k_proj"), /n = 16 is not a multiple of 32/)
  t.match(left.get("model.layers.0.self_attn.q_proj"), /engines fuse it with model\.layers\.0\.self_attn\.k_proj/)
  t.notOk(left.has("model.layers.0.self_attn.o_proj"))
  t.match(warnings[0], /9 of 22 linears stay unquantized: model\.layers\.0\.self_attn\.k_proj: n = 16/)
  t.match(warnings[1], /bits per weight, not the nominal 4\.50/)
  t.strictSame(report.warnings, warnings)
  t.ok((await logits(out, [1, 2, 3])).every(Number.isFinite))
  await t.rejects(quantizeModel(source, `${out}-2`, { groupSize: 32, format: "gptq", strict: true }), {
    code: "ERR_UNSUPPORTED",
    message: /strict: nothing may be left unquantized/,
  })
  // What is asked for is not refused, only pointed out.
  const mixed: string[] = []
  await quantizeModel(smallCheckpoint(t), `${out}-3`, {
    groupSize: 32,
    format: "compressed-tensors",
    overrides: [{ pattern: "q_proj", scheme: "w8a16" }],
    strict: true,
    onWarning: text => mixed.push(text),
  })
  t.equal(mixed.length, 3)
  t.match(mixed[0], /q_proj, .*k_proj, .*v_proj differ in bits; engines that fuse them will refuse the file/)
})

t.test("stories260K: k = 172", { skip: skipStories }, async t => {
  const source = stories!
  const ids = tokens(100, 512, 2)
  for (const [format, options] of [
    ["gptq", { format: "gptq", groupSize: 4 }],
    ["awq", { format: "awq", symmetric: false, groupSize: 32 }],
  ] as const) {
    const out = join(folder(t), "out")
    await t.rejects(quantizeModel(source, out, { ...options, strict: true }), {
      code: "ERR_UNSUPPORTED",
      message: /down_proj: k = 172 is not a multiple of .*strict: nothing/,
    })
    const warnings: string[] = []
    const report = await quantizeModel(source, out, { ...options, onWarning: text => warnings.push(text) })
    const left = report.unquantized.filter(({ name }) => name.endsWith("down_proj"))
    t.equal(left.length, 5, format)
    t.match(left[0]!.reason, /k = 172/)
    t.match(warnings[0], /15 of 36 .*gate_proj: n = 172 .*down_proj: k = 172/)
  }
  const original = await logits(source, ids)
  for (const preset of ["rtn", "gptq", "awq-gptq"] as const)
    for (const groupSize of [32, 64] as const) {
      const out = await quantized(t, source, {
        preset,
        scheme: "w8a16",
        groupSize,
        format: "compressed-tensors",
        ...(preset !== "rtn" && { calibration: tokens(4096, 512), sequenceLength: 256 }),
      })
      t.ok(relativeDistance(await logits(out, ids), original) < 0.02, `${preset} with ragged groups of ${groupSize}`)
    }
})
