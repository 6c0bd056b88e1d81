import t from "tap"
import { Tensor } from "../../../lib/core/tensor.ts"
import { dequantize, dequantizeAsync } from "../../../lib/kernels/dequantize.ts"
import { random, randomQuantized, randomValued, weightOf } from "./support.ts"

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

t.test("code books and offsets are the definition, each operation rounded to f32", async t => {
  const next = random(2)
  const custom = new Float32Array(8).map(() => next() - 0.5)
  for (const of of ["nf4", "fp4", "e2m1", "iq4_nl", "e4m3", "e5m2", { custom }, { bits: 4 }, { bits: 8 }] as const)
    for (const extra of [{}, { groupIndex: true }, { inputScale: true }]) {
      const q = randomValued(next, { n: 19, k: 45, groupSize: 16 }, of, extra)
      const { codes, scales, offsets, codebook, groupIndex, inputScale } = q
      const expected = Float32Array.from(codes, (code, i) => {
        const column = i % 45
        const at = Math.floor(i / 45) * 3 + (groupIndex?.[column] ?? Math.floor(column / 16))
        const scaled = Math.fround(scales[at]! * (codebook ? codebook[code]! : code))
        return Math.fround(scaled + (offsets?.[at] ?? 0)) * (inputScale?.[column] ?? 1)
      })
      const name = `${JSON.stringify(of)} ${Object.keys(extra)}`
      t.same(dequantize(q).data, expected, name)
      t.same(await dequantizeAsync(q), expected, name)
      const exact = weightOf(q)
      t.ok(
        expected.every((value, i) => Math.abs(value - exact[i]!) <= 2 ** -20 * (Math.abs(exact[i]!) + scales.length)),
      )
    }
})

t.test("codes beyond a code book are refused", async t => {
  const q = randomValued(random(3), { n: 20, k: 45, groupSize: 16 }, { custom: new Float32Array(8) })
  q.codes[17 * 45 + 4] = 8
  const refusal = { code: "ERR_FORMAT", message: /code at \[17, 4\] is 8, expected 0 to 7 for 3-bit codes/ }
  t.throws(() => dequantize(q), refusal)
  await t.rejects(dequantizeAsync(q), refusal)
})

t.test("refuses anything else", async t => {
  for (const value of [null, Tensor.empty([2, 2]), {}]) {
    const refusal = { code: "ERR_DTYPE", message: /^dequantize: the argument is .*, expected a QuantizedTensor$/ }
    t.throws(() => dequantize(value as never), refusal)
    await t.rejects(dequantizeAsync(value as never), refusal)
  }
})
