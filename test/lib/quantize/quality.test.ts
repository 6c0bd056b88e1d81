// Quality on the embedded model: what costs more than nearest is better than nearest.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { fable, fableCalibration, fableEvaluation, folder } from "./support.ts"

const calibration = readFileSync(fableCalibration, "utf8")
const text = readFileSync(fableEvaluation, "utf8").slice(0, 24_000)

t.test("KL divergence to the unquantized model", async t => {
  const reference = await loadModel(fable)
  t.teardown(() => reference.dispose())
  const directory = folder(t)
  const divergence = async (name: string, options: QuantizeModelOptions) => {
    const out = join(directory, `${name}-${options.scheme}`)
    await quantizeModel(fable, out, { format: "compressed-tensors", symmetric: true, ...options })
    const { against } = await evaluateModel(out, { text, protocol: "whole", window: 512, against: reference })
    t.comment(
      `${name} ${options.scheme}: KL ${against!.klMean.toExponential(3)} ± ${against!.klStdError.toExponential(1)}, top ${(against!.topAgreement * 100).toFixed(2)} %`,
    )
    return against!.klMean
  }
  for (const scheme of ["w4a16", "w3a16"] as const) {
    const nearest = await divergence("rtn", { preset: "rtn", scheme })
    t.ok(nearest < (scheme === "w4a16" ? 2e-3 : 1e-2), "as the float64 figures of this model have it")
    for (const [name, options] of [
      ["mse", { rounding: "mse" }],
      ["gptq", { preset: "gptq" }],
      ["awq", { preset: "awq" }],
      ["awq-gptq", { preset: "awq-gptq" }],
    ] as const) {
      const kl = await divergence(name, { ...options, scheme, calibration, samples: 8 })
      t.ok(
        kl <= nearest * (name === "mse" || name === "awq" ? 1 : 0.75),
        `${name} ${scheme}: ${kl.toExponential(3)} against ${nearest.toExponential(3)}`,
      )
    }
  }
})
