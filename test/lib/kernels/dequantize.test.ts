import t from "tap"
import { Tensor } from "../../../lib/core/tensor.ts"
import { dequantize, dequantizeAsync } from "../../../lib/kernels/dequantize.ts"
import { random, randomQuantized, weightOf } from "./support.ts"

t.test("dequantize is the definition, rounded to f32", async t => {
  const next = random(1)
  for (const bits of [2, 3, 4, 5, 6, 7, 8] as const)
    for (const symmetric of [true, false])
      for (const extra of [{}, { groupIndex: true }, { inputScale: true }, { groupIndex: true, inputScale: true }]) {
        const q = randomQuantized(next, { n: 9, k: 45, groupSize: 16, bits, symmetric }, extra)
        const expected = weightOf(q)
        const out = dequantize(q)
        t.equal(out.dtype, "f32")
        t.same(out.shape, [9, 45])
        // One rounding for the scale, one more for the input scale.
        const roundings = q.inputScale ? 2 : 1
        t.ok(
          out.data.every((value, i) => Math.abs(value - expected[i]!) <= roundings * 2 ** -24 * Math.abs(expected[i]!)),
          `${bits} bits ${symmetric ? "symmetric" : "asymmetric"} ${Object.keys(extra).join(" ")}`,
        )
        const later = await dequantizeAsync(q)
        t.ok(later.buffer instanceof SharedArrayBuffer)
        t.same(later, out.data)
      }
})

t.test("refuses anything else", async t => {
  for (const value of [null, Tensor.empty([2, 2]), {}]) {
    const refusal = { code: "ERR_DTYPE", message: /^dequantize: the argument is .*, expected a QuantizedTensor$/ }
    t.throws(() => dequantize(value as never), refusal)
    await t.rejects(dequantizeAsync(value as never), refusal)
  }
})
