// The error bounds of matmul and matmulW4A16 against float64, on random shapes, for every instruction set this machine can run.
import t, { type Test } from "tap"
import { Tensor } from "../../../lib/core/tensor.ts"
import { matmul } from "../../../lib/kernels/matmul.ts"
import { matmulW4A16 } from "../../../lib/kernels/matmul-w4a16.ts"
import { prepack } from "../../../lib/kernels/packed-weight.ts"
import { native } from "../../../lib/native.ts"
import {
  bitsOf,
  distance,
  exactValue,
  integer,
  norm,
  numbers,
  type Reference,
  random,
  randomQuantized,
  reference,
  type Shape,
  weightOf,
} from "./support.ts"

const { supported } = native.cpu()
t.teardown(() => native.selectKernels(null))

/** Largest error seen for each type of activations, as a share of its bound. */
class Worst {
  readonly #seen = new Map<string, { share: number; where: string }>()

  add(dtype: string, error: number, bound: number, where: string): void {
    const share = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error / bound
    if (share >= (this.#seen.get(dtype)?.share ?? 0))
      this.#seen.set(dtype, { share, where: `${where}: ${error.toExponential(2)}, bound ${bound}` })
  }

  check(t: Test): void {
    t.same([...this.#seen.keys()].sort(), ["bf16", "f16", "f32"])
    for (const [dtype, { share, where }] of this.#seen)
      t.ok(share <= 1, `${dtype}: largest share of a bound ${share.toFixed(3)} (${where})`)
  }
}

const relativeBounds = { f32: 2e-6, f16: 6e-4, bf16: 4e-3 } as const

function judge(worst: Worst, y: Tensor, expected: Reference, where: string): void {
  const error = distance(numbers(y), expected.y)
  const dtype = y.dtype as keyof typeof relativeBounds
  // A weight whose every code equals its zero point gives exact zeros.
  if (expected.magnitude === 0) {
    worst.add(dtype, error === 0 ? 0 : Number.POSITIVE_INFINITY, 1, where)
    return
  }
  if (dtype === "f32") worst.add(dtype, error / expected.magnitude, 1e-6, `${where} by magnitude`)
  if (y.size >= 64) worst.add(dtype, error / norm(expected.y), relativeBounds[dtype], where)
}

function randomShape(next: () => number, bits: Shape["bits"]): Shape & { m: number } {
  const m = integer(next, 1, 70)
  const n = integer(next, 1, 300)
  const k = integer(next, 1, 700)
  const groupSize = Math.min(k, [16, 32, 64, 128, k][integer(next, 0, 4)]!)
  return { m, n, k, groupSize, bits, symmetric: next() < 0.5 }
}

const describe = ({ m, n, k, groupSize, bits, symmetric }: Shape & { m: number }) =>
  `m ${m} n ${n} k ${k} group ${groupSize} bits ${bits} ${symmetric ? "sym" : "asym"}`

/** f32 activations of full precision, and one matrix that all three types hold exactly, with their references. */
function inputs(
  next: () => number,
  w: Float64Array,
  m: number,
  n: number,
  k: number,
): { x: Tensor; expected: Reference }[] {
  const full = new Float32Array(m * k).map(() => 2 * next() - 1)
  const exact = new Float32Array(m * k).map(() => exactValue(next))
  const expected = reference(exact, w, m, n, k)
  return [
    { x: Tensor.from(full, [m, k]), expected: reference(full, w, m, n, k) },
    ...(["f16", "bf16"] as const).map(dtype => ({
      x: Tensor.from(
        Uint16Array.from(exact, value => bitsOf(value, dtype)),
        [m, k],
        dtype,
      ),
      expected,
    })),
  ]
}

t.test("matmulW4A16 on 500 random shapes", async t => {
  const next = random(1)
  const worst = new Worst()
  for (let i = 0; i < 500; i++) {
    const shape = randomShape(next, 4)
    const { m, n, k } = shape
    const q = randomQuantized(next, shape)
    for (const { x, expected } of inputs(next, weightOf(q), m, n, k))
      for (const name of supported) {
        native.selectKernels(name)
        judge(worst, matmulW4A16(x, q), expected, `${name} ${x.dtype} ${describe(shape)}`)
      }
  }
  worst.check(t)
})

t.test("matmul with every other width, permuted groups, input scales and bias", async t => {
  const next = random(2)
  const worst = new Worst()
  for (const bits of [8, 6, 5, 3, 2] as const)
    for (let i = 0; i < 24; i++) {
      const shape = randomShape(next, bits)
      const { m, n, k } = shape
      const q = randomQuantized(next, shape, { groupIndex: i % 3 === 1, inputScale: i % 4 === 1 })
      const bias = new Float32Array(n).map(() => next() - 0.5)
      for (const { x, expected } of inputs(next, weightOf(q), m, n, k)) {
        const y = expected.y.map((value, index) => value + bias[index % n]!)
        for (const name of supported) {
          native.selectKernels(name)
          const where = `${name} ${x.dtype} ${describe(shape)}`
          judge(worst, matmul(x, q), expected, where)
          judge(worst, matmul(x, q, { bias: Tensor.from(bias, [n]) }), { ...expected, y }, `${where} with bias`)
        }
      }
    }
  worst.check(t)
})

t.test("matmul with float weights in each storage", async t => {
  const next = random(3)
  const worst = new Worst()
  for (let i = 0; i < 24; i++) {
    const { m, n, k } = randomShape(next, 4)
    const w = new Float32Array(n * k).map(() => exactValue(next))
    for (const { x, expected } of inputs(next, Float64Array.from(w), m, n, k))
      for (const dtype of ["f32", "f16", "bf16"] as const) {
        const weight =
          dtype === "f32"
            ? Tensor.from(w, [n, k])
            : Tensor.from(
                Uint16Array.from(w, value => bitsOf(value, dtype)),
                [n, k],
                dtype,
              )
        using packed = await prepack(weight)
        for (const name of supported) {
          native.selectKernels(name)
          const where = `${name} x ${x.dtype} w ${dtype} m ${m} n ${n} k ${k}`
          judge(worst, matmul(x, packed), expected, where)
          if (i < 4) judge(worst, matmul(x, weight), expected, `${where} unpacked`)
        }
      }
  }
  worst.check(t)
})
