// Products as a weight's scheme says: activations rounded as the engines of such checkpoints round them, bit for bit where a vector says so.
import { readFileSync } from "node:fs"
import t from "tap"
import { codebook } from "../../../lib/core/codebooks.ts"
import { QuantizedTensor, type QuantizedTensorInit } from "../../../lib/core/quantized-tensor.ts"
import type { ActivationScheme, Scheme } from "../../../lib/core/scheme.ts"
import { Tensor } from "../../../lib/core/tensor.ts"
import { matmul } from "../../../lib/kernels/matmul.ts"
import { matmulW4A16 } from "../../../lib/kernels/matmul-w4a16.ts"
import { prepack } from "../../../lib/kernels/packed-weight.ts"
import { quantize } from "../../../lib/quantize/quantize.ts"
import { random } from "./support.ts"

const vectors: { id: string; x: number[][]; scale_f32: number[]; q: number[][] }[] = JSON.parse(
  readFileSync(new URL("../../fixtures/vectors.json", import.meta.url), "utf8"),
).vectors

const perToken: ActivationScheme = { type: "int8", symmetric: true, dynamic: true, granularity: "token" }

/** The identity of k columns, so that a product shows the activations. */
function identity(k: number, activations: ActivationScheme, extra: Partial<QuantizedTensorInit> = {}): QuantizedTensor {
  const codes = new Uint8Array(k * k).fill(128)
  for (let i = 0; i < k; i++) codes[i * k + i] = 129
  const scheme: Scheme = {
    bits: 8,
    symmetric: true,
    granularity: "channel",
    groupSize: k,
    scaleType: "f32",
    activations,
  }
  return new QuantizedTensor({
    scheme,
    shape: [k, k],
    codes,
    scales: new Float32Array(k).fill(1),
    zeros: null,
    ...extra,
  })
}

const floats = (x: Tensor): number[] => [...(x.data as Float32Array)]

t.test("vector: int8 by token", async t => {
  const { x, scale_f32, q } = vectors.find(({ id }) => id === "int8-per-token")!
  const weight = identity(4, perToken)
  const y = matmul(Tensor.from(Float32Array.from(x.flat()), [2, 4]), weight)
  t.same(
    floats(y),
    q.flatMap((row, i) => row.map(code => Math.fround(code * scale_f32[i]!))),
  )
  t.same(floats(await matmul.async(Tensor.from(Float32Array.from(x.flat()), [2, 4]), await prepack(weight))), floats(y))
})

t.test("static scales saturate, zero points shift", async t => {
  const x = Tensor.from(Float32Array.of(-100, -1, -0.25, 0, 0.25, 0.75, 1, 100), [1, 8])
  const stored = { ...perToken, dynamic: false, granularity: "tensor" } as const
  const symmetric = identity(8, stored, { activation: { scale: Float32Array.of(0.5), zero: null } })
  t.same(
    floats(matmul(x, symmetric)),
    [-64, -1, -0, 0, 0, 1, 1, 63.5].map(v => v + 0),
  )
  const shifted = identity(
    8,
    { ...stored, symmetric: false },
    {
      activation: { scale: Float32Array.of(0.5), zero: Int32Array.of(-28) },
    },
  )
  t.same(
    floats(matmul(x, shifted)).map(v => v + 0),
    [-50, -1, 0, 0, 0, 1, 1, 77.5],
  )
  // scale = (max - min) / 255, zero = round(-128 - min / scale)
  const dynamic = identity(4, { ...perToken, symmetric: false })
  const y = floats(matmul(Tensor.from(Float32Array.of(0, 51, 102, 255), [4]), dynamic))
  t.same(y, [0, 51, 102, 255])
})

t.test("LLM.int8() keeps columns with outliers, for all rows of a call", async t => {
  const llm = identity(4, { ...perToken, threshold: 6 })
  const quiet = [1.27, 0.014, -0.5, 0.004]
  const loud = [0.5, 50.123, 0.25, 1.27]
  const [a, b] = [Math.fround(Math.fround(1.27) / 127), Math.fround(Math.fround(1.27) / 127)]
  const alone = floats(matmul(Tensor.from(Float32Array.from(quiet), [1, 4]), llm))
  t.same(
    alone,
    [127, 1, -50, 0].map(code => Math.fround(code * a)),
    "no outlier: all columns are rounded",
  )
  const both = floats(matmul(Tensor.from(Float32Array.from([...quiet, ...loud]), [2, 4]), llm))
  t.same(both.slice(0, 4), [Math.fround(127 * a), Math.fround(0.014), Math.fround(-50 * a), 0])
  t.same(
    both.slice(4),
    [50, null, 25, 127].map(code => (code === null ? Math.fround(50.123) : Math.fround(code * b))),
  )
})

t.test("FP8 by token, and by groups of columns", async t => {
  const e4m3 = codebook("e4m3")
  const codeOf = (value: number) => e4m3.indexOf(value)
  const weight = (activations: ActivationScheme, k: number, groupSize: number) => {
    const codes = new Uint8Array(k * k)
    for (let i = 0; i < k; i++) codes[i * k + i] = codeOf(1)
    return new QuantizedTensor({
      scheme: {
        ...{ bits: 8, symmetric: true, groupSize, scaleType: "f32", codebook: "e4m3", activations },
        granularity: groupSize === k ? "channel" : "group",
      },
      shape: [k, k],
      codes,
      scales: new Float32Array((k * k) / groupSize).fill(1),
      zeros: null,
    })
  }
  const token = { ...perToken, type: "e4m3" } as const
  const x = Tensor.from(Float32Array.of(448, 17, -3.3, 0.001, 19, 0.0009), [1, 6])
  // 17 lies between 16 and 18: to the even code; 0.001 is half of the least number, 2^-9, and more.
  t.same(floats(matmul(x, weight(token, 6, 6))), [448, 16, -3.25, 2 ** -9, 20, 0])
  const wide = new Float32Array(256)
  for (let i = 0; i < 128; i++) wide[i] = i + 1
  wide[128] = 2 ** -20 * 448
  wide[129] = 2 ** -20 * 17
  const grouped = weight({ ...token, granularity: "group", groupSize: 128 }, 256, 128)
  const y = floats(matmul(Tensor.from(wide, [1, 256]), grouped))
  t.same(y.slice(128, 131), [2 ** -20 * 448, 2 ** -20 * 16, 0])
  t.equal(y[127], Math.fround(448 * Math.fround(128 / 448)))
})

t.test("who asks for what", async t => {
  const next = random(5)
  const weight = Tensor.from(
    new Float32Array(24 * 64).map(() => next() - 0.5),
    [24, 64],
  )
  const x = Tensor.from(
    new Float32Array(3 * 64).map(() => next() - 0.5),
    [3, 64],
  )
  const q = await quantize(weight, { scheme: "w8a8" })
  const exact = floats(matmul(x, q, { activations: "exact" }))
  const rounded = floats(matmul(x, q))
  t.same(rounded, floats(matmul(x, q, { activations: "scheme" })))
  t.notSame(rounded, exact)
  const distance = Math.hypot(...rounded.map((v, i) => v - exact[i]!)) / Math.hypot(...exact)
  t.ok(distance > 1e-4 && distance < 0.02, `relative distance ${distance}`)
  const packed = await prepack(q)
  t.equal(packed.activations, "int8")
  t.same(floats(matmul(x, packed)), rounded)
  const plain = await quantize(weight, { scheme: "w8a16", groupSize: 64 })
  t.equal((await prepack(plain)).activations, "exact")
  t.same(floats(matmul(x, plain)), floats(matmul(x, plain, { activations: "exact" })))
  // Asked for by the scheme or not, this one never rounds silently.
  const four = await quantize(weight, { scheme: "w4a16", groupSize: 32 })
  const w4a8 = new QuantizedTensor({ ...four, codebook: null, scheme: { ...four.scheme, activations: perToken } })
  t.same(floats(matmulW4A16(x, w4a8)), floats(matmulW4A16(x, four)))
  t.notSame(floats(matmulW4A16(x, w4a8, { activations: "scheme" })), floats(matmulW4A16(x, four)))
  t.throws(() => matmul(x, q, { activations: "int4" as never }), {
    code: "ERR_OPTION",
    message: /"activations" is "int4", expected "exact", "int8" or "scheme"/,
  })
})

t.test("activations that no product rounds", async t => {
  const e2m1: ActivationScheme = { type: "e2m1", symmetric: true, dynamic: true, granularity: "group", groupSize: 2 }
  t.equal((await prepack(identity(4, e2m1))).activations, "exact")
  t.equal((await prepack(identity(4, { ...perToken, dynamic: false, granularity: "tensor" }))).activations, "exact")
  for (const threshold of [0, -1, Number.NaN, "6"])
    t.throws(() => identity(4, { ...perToken, threshold: threshold as number }), {
      code: "ERR_OPTION",
      message: /activations.threshold .*expected a positive number/,
    })
  t.throws(() => identity(4, { ...perToken, symmetric: false, threshold: 6 }), {
    message: /only symmetric int8 has it/,
  })
  t.throws(() => identity(4, { ...perToken, granularity: "group", groupSize: 2, threshold: 6 }), {
    code: "ERR_OPTION",
    message: /activations.threshold is 6, expected no value beside granularity "group"/,
  })
})
