import t from "tap"
import { mse } from "../../../lib/rounding/mse.ts"
import { nearest } from "../../../lib/rounding/nearest.ts"
import { randomInputs, randomWeight, roundingInput, scheme, statisticsOf, weightedError } from "./support.ts"

const n = 24
const k = 100
const weight = randomWeight(n, k, 3)

t.test("never worse than nearest by the error it minimises", async t => {
  const statistics = await statisticsOf(t, randomInputs(300, k, 4), k)
  for (const bits of [8, 4, 3, 2] as const)
    for (const symmetric of [true, false])
      for (const [granularity, groupSize] of [
        ["group", 32],
        ["channel", k],
        ["tensor", k],
      ] as const)
        for (const calibrated of [true, false]) {
          const input = roundingInput(weight, n, k, {
            scheme: scheme({ bits, symmetric, granularity, groupSize }),
            ...(calibrated ? { statistics } : {}),
          })
          const importance = calibrated ? statistics.meanSquare : null
          const norm = calibrated ? 2 : 2.4
          const plain = weightedError(weight, (await nearest.round(input)).tensor, importance, norm)
          const { tensor, report } = await mse.round(input)
          const searched = weightedError(weight, tensor, importance, norm)
          const what = `${bits} bits ${symmetric ? "symmetric" : "asymmetric"} ${granularity} ${calibrated ? "calibrated" : ""}`
          t.ok(searched <= plain * (1 + 1e-5), `${what}: ${searched} <= ${plain}`)
          t.equal(report.rounding, "mse")
          if (bits === 2 && granularity !== "tensor") t.ok(searched < 0.9 * plain, `${what}: clearly better at 2 bits`)
        }
})

t.test("aborts", async t => {
  await t.rejects(mse.round(roundingInput(weight, n, k, { signal: AbortSignal.abort() })), { code: "ERR_ABORTED" })
})
