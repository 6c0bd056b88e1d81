// The learned roundings through the whole pipeline: formats, transforms, the second stream of hidden states, resume.
import { existsSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { planQuantization, type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { folder, hashes, smallCalibration, smallCheckpoint } from "./support.ts"

const few = { ...smallCalibration, groupSize: 32 } as const
const steps = 5

t.test("every rounding in every kind of scheme", async t => {
  const source = smallCheckpoint(t)
  const directory = folder(t)
  const cases: QuantizeModelOptions[] = [
    { preset: "rtn", rounding: "hqq", scheme: "w4a16", groupSize: 64, symmetric: false },
    { ...few, steps, rounding: "auto-round", scheme: "w3a16", transforms: ["awq"] },
    { ...few, steps, rounding: "lsq", scheme: "w4a16", symmetric: false, format: "awq" },
    { ...few, rounding: "qronos", scheme: "w2a16", groupSize: "channel" },
    { ...few, rounding: "qronos", scheme: "w4a16", order: "dynamic" },
    { ...few, rounding: "gptq", scheme: "w4a16", errorCorrection: true },
    {
      ...few,
      steps,
      rounding: "auto-round",
      scheme: "w4a16",
      groupSize: "tensor",
      errorCorrection: true,
      transforms: ["awq"],
    },
  ]
  for (const [i, options] of cases.entries()) {
    const report = await quantizeModel(source, join(directory, String(i)), options)
    t.equal(report.tensors.length, 21, JSON.stringify(options.rounding))
    t.ok(
      report.tensors.every(({ error }) => Number.isFinite(error)),
      JSON.stringify(options.rounding),
    )
  }
})

t.test("a run with the original's hidden states resumes to the same bytes", async t => {
  const source = smallCheckpoint(t)
  const directory = folder(t)
  const recipe: QuantizeModelOptions = { ...few, rounding: "qronos", scheme: "w3a16", refine: 3, transforms: ["awq"] }
  await quantizeModel(source, join(directory, "whole"), recipe)
  const out = join(directory, "part")
  const stop = new AbortController()
  await t.rejects(
    quantizeModel(source, out, {
      ...recipe,
      signal: stop.signal,
      onProgress: ({ stage, detail }) => {
        if (stage === "quantize" && detail === "block 3/3") stop.abort()
      },
    }),
    { code: "ERR_ABORTED" },
  )
  t.ok(existsSync(`${out}.tsq-resume`))
  await quantizeModel(source, out, { ...recipe, resume: true })
  t.strictSame(hashes(out), hashes(join(directory, "whole")))
})

t.test("the plan counts the second stream", async t => {
  const source = smallCheckpoint(t)
  const memory = async (options: QuantizeModelOptions) =>
    (await planQuantization(source, { ...few, scheme: "w4a16", ...options })).plan.memoryParts
  const plain = await memory({ rounding: "gptq" })
  const both = await memory({ rounding: "qronos" })
  t.ok("hidden states of the original" in both && !("hidden states of the original" in plain))
  t.equal(both["hidden states of the original"], plain["hidden states"])
})

t.test("options that mean nothing to a rounding are refused", async t => {
  const source = smallCheckpoint(t)
  const refused: QuantizeModelOptions[] = [
    { rounding: "mse", refine: 3 },
    { rounding: "hqq", steps },
    { rounding: "gptq", steps },
    { rounding: "nearest", damp: 0.1 },
    { rounding: "lsq", order: "static" },
    { rounding: "mse", scaleSearch: true },
  ]
  for (const options of refused)
    await t.rejects(
      planQuantization(source, { ...few, ...options }),
      { code: "ERR_OPTION", message: new RegExp(`no value beside rounding "${options.rounding}"`) },
      JSON.stringify(options),
    )
  await planQuantization(source, { ...few, preset: "best", damp: 0.02, steps, refine: 3 })
})

t.test("calibration is asked for", async t => {
  const source = smallCheckpoint(t)
  for (const rounding of ["auto-round", "lsq", "qronos"] as const)
    await t.rejects(quantizeModel(source, join(folder(t), "out"), { rounding }), {
      code: "ERR_OPTION",
      message: `quantizeModel: rounding ${rounding} needs calibration (text or token ids of the kind the model will see)`,
    })
})

t.test("error correction is refused where it would do nothing", async t => {
  const source = smallCheckpoint(t)
  for (const rounding of ["nearest", "mse", "hqq"] as const)
    await t.rejects(planQuantization(source, { ...few, preset: "rtn", rounding, errorCorrection: true }), {
      code: "ERR_OPTION",
      message: /"?errorCorrection"? is true, expected false beside rounding/,
    })
  await t.rejects(planQuantization(source, { ...smallCalibration, preset: "best", errorCorrection: false }), {
    code: "ERR_OPTION",
    message: /errorCorrection.* preset "best"/,
  })
})
