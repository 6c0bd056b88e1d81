import t from "tap"
import { codebook } from "../../../lib/core/codebooks.ts"
import { sharedBytes, sharedFloats } from "../../../lib/core/shared-array.ts"
import type { CodebookSteps } from "../../../lib/native.ts"
import { codebookSteps, roundToCodebook } from "../../../lib/rounding/codebook.ts"
import { random, tsqError, vector } from "../containers/support.ts"

const shared = (values: ArrayLike<number>): Float32Array => {
  const out = sharedFloats(values.length)
  out.set(values)
  return out
}

async function round(values: ArrayLike<number>, steps: CodebookSteps, scale = 1): Promise<number[]> {
  const codes = sharedBytes(values.length)
  await roundToCodebook(shared(values), [1, values.length], values.length, shared([scale]), steps, codes)
  return [...codes]
}

t.test("vectors: e2m1, e4m3 and e5m2, ties to even, saturating", async t => {
  const e2m1 = vector("e2m1-rounding")
  t.same(await round(e2m1.inputs, codebookSteps(codebook("e2m1"), "even")), e2m1.codes)
  for (const [id, name] of [
    ["fp8-e4m3fn-encode", "e4m3"],
    ["fp8-e5m2-encode", "e5m2"],
  ] as const) {
    const v = vector(id)
    const bytes = await round(v.inputs, codebookSteps(codebook(name), "even"))
    t.same(
      bytes.map(byte => byte.toString(16).padStart(2, "0")),
      v.bytes_saturating,
      id,
    )
  }
})

t.test("vectors: a row divided by its scale", async t => {
  const v = vector("fp8-per-channel")
  const codes = sharedBytes(8)
  await roundToCodebook(
    shared(v.weight.flat()),
    [2, 4],
    4,
    shared(v.weight_scale_f32),
    codebookSteps(codebook("e4m3"), "even"),
    codes,
  )
  t.same(
    [0, 4].map(at => Buffer.from(codes.subarray(at, at + 4)).toString("hex")),
    v.bytes,
  )
})

t.test("the nearest value of every book, whatever the number", async t => {
  const { below } = random(5)
  for (const name of ["nf4", "fp4", "e2m1", "iq4_nl", "e4m3", "e5m2"] as const) {
    const values = codebook(name)
    const finite = [...values].filter(Number.isFinite)
    const size = Math.max(...finite.map(Math.abs))
    // Few bits, so that ties come up.
    const numbers = Array.from({ length: 4000 }, () =>
      Math.fround(((below(4097) - 2048) / 2048) * size * 2 ** -below(12)),
    )
    for (const ties of ["even", "lower"] as const) {
      const codes = await round(numbers, codebookSteps(values, ties))
      const wrong = numbers.filter((x, i) => {
        const value = values[codes[i] as number] as number
        const distance = Math.abs(value - x)
        const best = Math.min(...finite.map(other => Math.abs(other - x)))
        const tied = finite.filter(other => Math.abs(other - x) === best)
        if (distance !== best) return true
        if (new Set(tied.map(other => other + 0)).size === 1) return false
        return ties === "lower" ? value !== Math.min(...tied) : (codes[i] as number) % 2 !== 0
      })
      t.same(wrong, [], `${name}, ties ${ties}`)
    }
  }
})

t.test("zeros keep their signs, a scale of 0 gives zeros", async t => {
  const steps = codebookSteps(codebook("e4m3"), "even")
  t.same(await round([0, -0, 1e-30, -1e-30], steps), [0x00, 0x80, 0x00, 0x80])
  t.same(await round([0, 1, -1], steps, 0), [0x00, 0x00, 0x80])
  const own = codebookSteps(codebook("fp4"), "lower")
  t.same([...new Set(own.codes)].length, 15, "fp4 has one zero")
})

t.test("rows, groups and a shorter last group take their own scales, in either arithmetic", async t => {
  const [n, k, groupSize] = [70, 45, 16]
  const { below } = random(9)
  const weight = shared(Array.from({ length: n * k }, () => (below(2001) - 1000) / 300))
  const scales = shared(Array.from({ length: n * 3 }, () => (1 + below(900)) / 700))
  const values = codebook("nf4")
  for (const reciprocal of [false, true]) {
    const steps = { ...codebookSteps(values, "lower"), reciprocal }
    const codes = sharedBytes(n * k)
    await roundToCodebook(weight, [n, k], groupSize, scales, steps, codes)
    const wrong = [...codes].filter((code, i) => {
      const scale = scales[Math.floor(i / k) * 3 + Math.floor((i % k) / groupSize)] as number
      const x = Math.fround(reciprocal ? (weight[i] as number) * Math.fround(1 / scale) : (weight[i] as number) / scale)
      return code !== steps.codes[steps.limits.filter(limit => x > limit).length]
    })
    t.same(wrong, [])
  }
})

t.test("what cannot be rounded is refused", async t => {
  const steps = codebookSteps(codebook("e2m1"), "even")
  await t.rejects(round([1, Number.NaN], steps), tsqError("ERR_NUMERIC", /weight\[0, 1\] is NaN/))
  await t.rejects(
    round([1], { ...steps, limits: steps.limits.toReversed() }),
    tsqError("ERR_OPTION", /limit 1 is .*ascending/),
  )
  await t.rejects(round([1], { ...steps, limits: steps.limits.slice(1) }), tsqError("ERR_SHAPE", /15 codes|16 codes/))
})
