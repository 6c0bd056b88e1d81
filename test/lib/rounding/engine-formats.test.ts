import t from "tap"
import type { Scheme } from "../../../lib/core/scheme.ts"
import { sharedFloats } from "../../../lib/core/shared-array.ts"
import { isEngineFloat, roundToFloats } from "../../../lib/rounding/engine-formats.ts"
import { random, tsqError, vector } from "../containers/support.ts"
import { e4m3, floatValues, mxfp4, nvfp4 } from "../formats/float-support.ts"

async function round(values: number[][], scheme: Scheme) {
  const [n, k] = [values.length, values[0]!.length]
  const weight = sharedFloats(n * k)
  weight.set(values.flat())
  if (!isEngineFloat(scheme)) throw new Error("no such scheme")
  return roundToFloats(weight, [n, k], scheme)
}

t.test("vector: nvfp4", async t => {
  const v = vector("ct-nvfp4")
  const q = await round(v.weight_NxK, nvfp4)
  t.same([...q.levels!.supers], [v.weight_global_scale_f32])
  t.same([...q.levels!.codes], v.weight_scale_bytes.flat())
  t.same([...q.codes], v.codes.flat())
  t.same(floatValues(q), v.dequant_f32)
})

t.test("vector: mxfp4, and the exponents that amplitudes get", async t => {
  const v = vector("ct-mxfp4")
  const q = await round([v.weight], mxfp4)
  t.same([...q.scales], [2 ** (v.weight_scale_u8 - 127)])
  t.same([...q.codes], v.codes)
  const exponents = vector("mxfp4-scale-exponent")
  for (const [i, amax] of exponents.amax.entries()) {
    const row = new Array(32).fill(0).with(i % 32, i % 2 ? amax : -amax)
    const { scales } = await round([row], mxfp4)
    t.equal(scales[0], 2 ** (exponents.exponent_compressed_tensors[i] - 127), `${amax}`)
  }
})

t.test("vector: fp8 by channel", async t => {
  const v = vector("fp8-per-channel")
  const q = await round(v.weight, e4m3({ granularity: "channel", groupSize: 4 }))
  t.same([...q.scales], v.weight_scale_f32)
  t.equal(Buffer.from(q.codes).toString("hex"), v.bytes.join(""))
})

t.test("fp8 for the tensor, in blocks cut at the edges, in groups; scales of 16 bits", async t => {
  const { below } = random(3)
  const [n, k] = [37, 50]
  const values = Array.from({ length: n }, () => Array.from({ length: k }, () => (below(2001) - 1000) / 700))
  const peak = (rows: [number, number], columns: [number, number]) =>
    Math.max(...values.slice(...rows).flatMap(row => row.slice(...columns).map(Math.abs)))
  const tensor = await round(values, e4m3({ granularity: "tensor", groupSize: k }))
  t.ok(tensor.scales.every(scale => scale === Math.fround(Math.fround(peak([0, n], [0, k])) / 448)))
  const block = await round(values, e4m3({ granularity: "block", groupSize: 16, blockRows: 10 }))
  const expected = Array.from({ length: n * 4 }, (_, i) => {
    const [row, group] = [Math.floor(i / 4), i % 4]
    const first = row - (row % 10)
    return Math.fround(Math.fround(peak([first, first + 10], [16 * group, 16 * group + 16])) / 448)
  })
  t.same([...block.scales], expected)
  for (const scheme of [
    e4m3({ granularity: "group", groupSize: 16 }),
    e4m3({ granularity: "channel", groupSize: k, scaleType: "bf16" }),
    e4m3({ granularity: "channel", groupSize: k, scaleType: "f16" }),
    e4m3({ granularity: "block", groupSize: 50, blockRows: 128 }),
  ]) {
    const q = await round(values, scheme)
    const wrong = floatValues(q)
      .flat()
      .filter((value, i) => {
        const x = values.flat()[i]!
        // Half a step of three bits of mantissa, or of the smallest numbers; scales of 16 bits may cut the largest.
        return Math.abs(value - x) > Math.abs(x) / 16 + 1e-4
      })
    t.same(wrong, [], `${scheme.granularity} ${scheme.scaleType}`)
  }
})

t.test("zeros, and numbers that are almost", async t => {
  const zeros = Array.from({ length: 2 }, () => new Array(32).fill(0))
  for (const scheme of [nvfp4, mxfp4, e4m3({ granularity: "channel", groupSize: 32 })]) {
    const q = await round(zeros, scheme)
    t.ok(
      floatValues(q)
        .flat()
        .every(value => value === 0),
    )
    t.ok(q.scales.every(Number.isFinite))
    const tiny = await round([new Array(32).fill(1e-42), new Array(32).fill(-1e-42)], scheme)
    t.ok(
      floatValues(tiny)
        .flat()
        .every(value => Math.abs(value) < 1e-38),
    )
    const huge = await round([new Array(32).fill(1e38), new Array(32).fill(-1e38)], scheme)
    t.ok(
      floatValues(huge)
        .flat()
        .every(value => Math.abs(value) > 8e37 && Number.isFinite(value)),
    )
  }
  await t.rejects(
    round([[1, Number.NaN]], e4m3({ granularity: "channel", groupSize: 2 })),
    tsqError("ERR_NUMERIC", /NaN/),
  )
  await t.rejects(
    round([[1, 2]], e4m3({ granularity: "flat", groupSize: 1, runLength: 1 })),
    tsqError("ERR_OPTION", /runs across rows/),
  )
})
