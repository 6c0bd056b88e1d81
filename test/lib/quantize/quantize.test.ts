import t, { type Test } from "tap"
import type { Progress } from "../../../lib/core/progress.ts"
import type { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import { Tensor } from "../../../lib/core/tensor.ts"
import { dequantize } from "../../../lib/kernels/dequantize.ts"
import { matmulW4A16 } from "../../../lib/kernels/matmul-w4a16.ts"
import { native } from "../../../lib/native.ts"
import { type QuantizeOptions, quantize } from "../../../lib/quantize/quantize.ts"
import { vector } from "../containers/support.ts"
import { distance, norm, numbers, reference, weightOf } from "../kernels/support.ts"
import { outputError, randomInputs, randomWeight, weightedError } from "../rounding/support.ts"

const n = 48
const k = 172
const floats = randomWeight(n, k, 1)
const weight = Tensor.from(floats, [n, k])
const x = randomInputs(400, k, 2)
const calibration = Tensor.from(x, [400, k])

const rejects = (t: Test, tensor: unknown, options: unknown, code: string, message: string | RegExp) =>
  t.rejects(quantize(tensor as Tensor, options as QuantizeOptions), { name: "TsqError", code, message })

const parts = ({ codes, scales, zeros, inputScale, groupIndex }: QuantizedTensor) => ({
  codes,
  scales,
  zeros,
  inputScale,
  groupIndex,
})

t.test("every scheme, group size and symmetry", async t => {
  for (const scheme of ["w8a16", "w6a16", "w5a16", "w4a16", "w3a16", "w2a16"] as const)
    for (const symmetric of [true, false])
      for (const groupSize of [undefined, 32, 172, "channel", "tensor"] as const) {
        const q = await quantize(weight, { scheme, symmetric, ...(groupSize === undefined ? {} : { groupSize }) })
        const bits = Number(scheme[1])
        t.same(q.shape, [n, k])
        t.match(q.scheme, {
          bits,
          symmetric,
          granularity: typeof groupSize === "string" ? groupSize : "group",
          groupSize: typeof groupSize === "number" ? groupSize : groupSize === undefined ? 128 : k,
          scaleType: "f32",
        })
        t.equal(q.inputScale, null)
        // A step is at most 2·peak / (2^bits − 1), and no code is further than half a step.
        const peak = floats.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
        const furthest = weightOf(q).reduce((most, value, i) => Math.max(most, Math.abs(value - floats[i]!)), 0)
        t.ok(furthest <= (peak / (2 ** bits - 1)) * 1.001 * (symmetric ? 1 : 2), `${scheme} ${groupSize}: ${furthest}`)
      }
})

t.test("smooth leaves its scales on the result, of the paper's formula", async t => {
  const peaks = (rows: Float32Array) =>
    Array.from({ length: k }, (_, j) => {
      let peak = 0
      for (let i = j; i < rows.length; i += k) peak = Math.max(peak, Math.abs(rows[i]!))
      return peak
    })
  const [inputs, columns] = [peaks(x), peaks(floats)]
  for (const alpha of [0.5, undefined])
    for (const options of [{ scheme: "w8a8" }, { scheme: "w4a16", rounding: "gptq", groupSize: 32 }] as const) {
      const given = { ...options, transform: "smooth", calibration, ...(alpha !== undefined && { alpha }) } as const
      const q = await quantize(weight, given)
      const used = alpha ?? 0.8
      const expected = inputs.map((peak, j) => Math.fround(1 / Math.fround(peak ** used / columns[j]! ** (1 - used))))
      t.strictSame([...q.inputScale!], expected)
      const outputs = outputError(x, new Float32Array(n * k), q)
      t.ok(outputError(x, floats, q) < 0.05 * outputs, `${options.scheme}: ${outputError(x, floats, q) / outputs}`)
    }
})

t.test("the default group gives way to a smaller k, a choice does not", async t => {
  const narrow = Tensor.from(randomWeight(4, 64, 3), [4, 64])
  t.match((await quantize(narrow, { scheme: "w4a16" })).scheme, { granularity: "channel", groupSize: 64 })
  await rejects(
    t,
    narrow,
    { scheme: "w4a16", groupSize: 128 },
    "ERR_OPTION",
    'quantize: groupSize 128 is larger than k = 64; use "channel" or at most 64',
  )
})

t.test("f16 and bf16 weights, with scales of their own type unless another is asked for", async t => {
  for (const dtype of ["f16", "bf16"] as const) {
    const half = await weight.cast(dtype)
    const q = await quantize(half, { scheme: "w4a16" })
    t.equal(q.scheme.scaleType, dtype)
    const same = await quantize(await half.cast("f32"), { scheme: "w4a16", scaleType: dtype })
    t.same(parts(q), parts(same))
  }
})

t.test("more effort never does worse on the layer's output", async t => {
  for (const scheme of ["w4a16", "w3a16", "w2a16"] as const)
    for (const symmetric of [true, false])
      for (const groupSize of [32, "channel"] as const) {
        const run = async (options: Partial<QuantizeOptions>) => {
          const q = await quantize(weight, { scheme, symmetric, groupSize, calibration, ...options })
          return { q, error: outputError(x, floats, q) }
        }
        const what = `${scheme} ${symmetric ? "symmetric" : "asymmetric"} ${groupSize}`
        const nearest = await run({})
        const gptq = await run({ rounding: "gptq" })
        const awq = await run({ transform: "awq" })
        const both = await run({ rounding: "gptq", transform: "awq" })
        t.ok(gptq.error < 0.8 * nearest.error, `${what}: gptq ${gptq.error}, nearest ${nearest.error}`)
        t.ok(awq.error < nearest.error, `${what}: awq ${awq.error}, nearest ${nearest.error}`)
        t.ok(both.error <= gptq.error * 1.0001, `${what}: both ${both.error}, gptq ${gptq.error}`)
        const mse = await run({ rounding: "mse" })
        const clipped = await run({ rounding: "mse", transform: "awq" })
        t.ok(
          clipped.error <= nearest.error * 1.0001,
          `${what}: mse with awq ${clipped.error}, nearest ${nearest.error}`,
        )
        const importance = new Float32Array(k)
        for (const [i, value] of x.entries()) importance[i % k]! += value * value
        t.ok(
          weightedError(floats, mse.q, importance, 2) <= weightedError(floats, nearest.q, importance, 2) * (1 + 1e-5),
          `${what}: mse`,
        )
      }
})

t.test("gptq gives way to plain nearest where that is better", async t => {
  // With uncorrelated inputs of one size there is nothing to make up for, and searched scales may lose to the range's.
  for (let seed = 10; seed < 20; seed++) {
    const small = randomWeight(8, 16, seed)
    const rows = randomInputs(2, 16, seed + 100)
    const options = { scheme: "w2a16", groupSize: 8, calibration: Tensor.from(rows, [2, 16]) } as const
    const tensor = Tensor.from(small, [8, 16])
    const gptq = outputError(rows, small, await quantize(tensor, { ...options, rounding: "gptq" }))
    const nearest = outputError(rows, small, await quantize(tensor, options))
    t.ok(gptq <= nearest * 1.0001, `seed ${seed}: ${gptq} <= ${nearest}`)
  }
})

t.test("awq leaves an input scale that kernels and dequantize apply", async t => {
  const q = await quantize(weight, { scheme: "w4a16", groupSize: 32, symmetric: false, transform: "awq", calibration })
  t.ok(q.inputScale, "outlier columns are worth scaling")
  t.ok(q.inputScale!.every(scale => scale > 0 && Number.isFinite(scale)))
  const w = weightOf(q)
  t.ok(distance(dequantize(q).data, w) <= 1e-6 * norm(w))
  const input = x.slice(0, 5 * k)
  const { y, magnitude } = reference(input, w, 5, n, k)
  t.ok(distance(numbers(matmulW4A16(Tensor.from(input, [5, k]), q)), y) <= 1e-6 * magnitude)
})

t.test("the same input gives the same bytes, for any number of threads", async t => {
  const threads = native.threads()
  t.teardown(() => native.setThreads(threads))
  const results = []
  for (const count of [1, 2, 4]) {
    native.setThreads(count)
    results.push(
      parts(
        await quantize(weight, {
          scheme: "w3a16",
          groupSize: 32,
          rounding: "gptq",
          transform: "awq",
          calibration,
          seed: count,
        }),
      ),
    )
  }
  t.same(results[1], results[0])
  t.same(results[2], results[0])
})

t.test("calibration of more dimensions and other types is the same rows", async t => {
  const options = { scheme: "w4a16", rounding: "gptq" } as const
  const half = await calibration.cast("bf16")
  const flat = await quantize(weight, { ...options, calibration: half })
  const deep = await quantize(weight, { ...options, calibration: Tensor.from(half.data, [4, 100, k], "bf16") })
  t.same(parts(deep), parts(flat))
})

t.test("progress", async t => {
  const seen: Progress[] = []
  await quantize(weight, {
    scheme: "w4a16",
    rounding: "gptq",
    transform: "awq",
    calibration,
    onProgress: progress => seen.push(progress),
  })
  t.same([...new Set(seen.map(({ stage }) => stage))], ["calibrate", "quantize", "search"])
  const last = seen.at(-1)!
  t.match(last, { stage: "quantize", done: 1, total: 1, damp: 0.01 })
  t.ok(last.loss! > 0)
  t.ok(seen.every((progress, i) => progress.elapsedMs >= (seen[i - 1]?.elapsedMs ?? 0)))
  const failing = {
    scheme: "w4a16",
    onProgress: () => {
      throw new Error("mine")
    },
  } as const
  await t.rejects(quantize(weight, failing), { message: "mine" })
})

t.test("awq in front of an order whose groups are no neighbouring columns", async t => {
  const options = { scheme: "w4a16", groupSize: 32, rounding: "gptq", calibration, order: "dynamic" } as const
  const plain = await quantize(weight, options)
  const awq = await quantize(weight, { ...options, transform: "awq" })
  t.ok(awq.groupIndex && plain.groupIndex)
})

t.test("abort: before, and at every stage", async t => {
  const reason = new Error("enough")
  const options = { scheme: "w4a16", rounding: "gptq", transform: "awq", calibration } as const
  const refusal = { code: "ERR_ABORTED", name: "AbortError", cause: reason }
  await t.rejects(quantize(weight, { ...options, signal: AbortSignal.abort(reason) }), refusal)
  const before = native.handleCount()
  for (const stage of ["calibrate", "search", "quantize"]) {
    const controller = new AbortController()
    const onProgress = (progress: Progress) => {
      if (progress.stage === stage) controller.abort(reason)
    }
    await t.rejects(quantize(weight, { ...options, signal: controller.signal, onProgress }), refusal, stage)
  }
  t.equal(native.handleCount(), before, "nothing native is left behind")
})

t.test("refuses weights", async t => {
  const options = { scheme: "w4a16" }
  await rejects(t, floats, options, "ERR_DTYPE", "quantize: weight is a Float32Array, expected a Tensor")
  await rejects(t, undefined, options, "ERR_DTYPE", "quantize: weight is undefined, expected a Tensor")
  await rejects(
    t,
    Tensor.empty([4, 8], "i8"),
    options,
    "ERR_DTYPE",
    "quantize: the weight is i8, expected f32, f16 or bf16",
  )
  for (const shape of [[8], [2, 2, 2], [0, 8], [8, 0], []])
    await rejects(
      t,
      Tensor.empty(shape),
      options,
      "ERR_SHAPE",
      /quantize: the weight has shape \[.*\], expected \[n, k\]/,
    )
  const damaged = floats.slice()
  damaged[3 * k + 17] = Number.NaN
  damaged[5 * k] = Number.POSITIVE_INFINITY
  damaged[6 * k] = Number.NEGATIVE_INFINITY
  await rejects(
    t,
    Tensor.from(damaged, [n, k]),
    options,
    "ERR_NUMERIC",
    /quantize: weight \[48, 172\] holds 1 NaN and 2 Inf, the first at \[3, 17\], expected finite values; /,
  )
  await rejects(
    t,
    Tensor.from(Uint16Array.of(0, 0x7c00), [1, 2], "f16"),
    options,
    "ERR_NUMERIC",
    /holds 1 Inf, the first at \[0, 1\]/,
  )
  const lost = floats.slice()
  const detached = Tensor.from(lost, [n, k])
  structuredClone(lost, { transfer: [lost.buffer] })
  await rejects(t, detached, options, "ERR_SHAPE", /was transferred/)
})

t.test("code books of bitsandbytes, and LLM.int8()", async t => {
  for (const [scheme, groupSize] of [
    ["nf4", 64],
    ["fp4", 32],
    ["llm.int8", undefined],
  ] as const) {
    const q = await quantize(weight, { scheme, ...(groupSize && { groupSize }) })
    t.match(q.scheme, scheme === "llm.int8" ? { bits: 8, granularity: "channel" } : { bits: 4, codebook: scheme })
    const values = dequantize(q).data as Float32Array
    const floats = (await weight.cast("f32")).data as Float32Array
    const largest = Math.max(...floats.map(Math.abs))
    t.ok(Math.max(...values.map((x, i) => Math.abs(x - floats[i]!))) < largest * (scheme === "llm.int8" ? 0.005 : 0.2))
  }
})

t.test("refuses options", async t => {
  const refuse = (options: unknown, message: string | RegExp, code = "ERR_OPTION") =>
    rejects(t, weight, options, code, message)
  await refuse(
    undefined,
    'quantize: option "scheme" is undefined, expected "w8a16", "w6a16", "w5a16", "w4a16", "w3a16", "w2a16", "nf4", "fp4", "llm.int8", "w8a8", "fp8", "mxfp4" or "nvfp4"',
  )
  await refuse(
    { scheme: "w4a61" },
    'option "scheme" is "w4a61", expected "w8a16", "w6a16", "w5a16", "w4a16", "w3a16", "w2a16", "nf4", "fp4", "llm.int8", "w8a8", "fp8", "mxfp4" or "nvfp4" (did you mean "w4a16"?)',
  )
  await refuse({ scheme: 4 }, 'option "scheme" is 4, expected')
  await refuse({ scheme: "nf4", symmetric: false }, /option "symmetric" is false, expected true for scheme "nf4"/)
  await refuse({ scheme: "nf4", groupSize: "channel" }, /groupSize is "channel"; scheme "nf4" has blocks/)
  await refuse({ scheme: "nf4", rounding: "mse" }, /nf4 can only be rounded to by "nearest"/, "ERR_UNSUPPORTED")
  for (const groupSize of [0, -1, 1.5, Number.NaN, "row", null, "128"])
    await refuse(
      { scheme: "w4a16", groupSize },
      /option "groupSize" is .*, expected an integer of at least 1, "channel" or "tensor"/,
    )
  await refuse(
    { scheme: "w4a16", groupSize: 256 },
    'quantize: groupSize 256 is larger than k = 172; use "channel" or at most 172',
  )
  await refuse({ scheme: "w4a16", symmetric: "no" }, 'option "symmetric" is "no", expected true or false')
  await refuse(
    { scheme: "w4a16", rounding: "round" },
    'option "rounding" is "round", expected "nearest", "mse", "gptq", "hqq", "auto-round", "lsq" or "qronos"',
  )
  await refuse({ scheme: "w4a16", transform: "awk" }, 'option "transform" is "awk", expected "awq"')
  await refuse(
    { scheme: "w4a16", transform: "hadamard" },
    'transform "hadamard" rotates the residual stream of a whole model: use quantizeModel',
    "ERR_UNSUPPORTED",
  )
  await refuse({ scheme: "w4a16", alpha: 0.5 }, 'option "alpha" is 0.5, expected no value without transform "smooth"')
  await refuse({ scheme: "w8a8", transform: "smooth", calibration, alpha: 2 }, /option "alpha" is 2, expected a number/)
  await refuse({ scheme: "w8a8", transform: "smooth" }, 'transform "smooth" needs option "calibration"')
  await refuse({ scheme: "w4a16", scaleType: "f64" }, 'option "scaleType" is "f64", expected "f32", "f16" or "bf16"')
  await refuse({ scheme: "w4a16", seed: -1 }, 'option "seed" is -1, expected an integer of at least 0')
  await refuse({ scheme: "w4a16", damp: 2 }, 'option "damp" is 2, expected a number above 0 and at most 1')
  await refuse({ scheme: "w4a16", order: "best" }, /option "order" is "best"/)
  await refuse({ scheme: "w4a16", scaleSearch: 1 }, /option "scaleSearch" is 1/)
  await refuse({ scheme: "w4a16", block: 0 }, /option "block" is 0/)
  await refuse({ scheme: "w4a16", signal: {} }, 'option "signal" is an object, expected an AbortSignal')
  await refuse({ scheme: "w4a16", onProgress: 1 }, 'option "onProgress" is 1, expected a function')
  await refuse({ scheme: "w4a16", group_size: 64 }, 'unknown option "group_size"; did you mean "groupSize"?')
})

t.test("refuses calibration", async t => {
  const refuse = (options: object, message: string | RegExp, code: string) =>
    rejects(t, weight, { scheme: "w4a16", rounding: "gptq", ...options }, code, message)
  await refuse(
    {},
    'quantize: rounding "gptq" needs option "calibration", a Tensor [rows, 172] of the layer\'s inputs',
    "ERR_OPTION",
  )
  await refuse({ rounding: "nearest", transform: "awq" }, 'transform "awq" needs option "calibration"', "ERR_OPTION")
  await refuse({ calibration: x }, 'option "calibration" is a Float32Array, expected a Tensor', "ERR_OPTION")
  await refuse({ calibration: Tensor.empty([4, k], "i8") }, 'option "calibration" is i8', "ERR_DTYPE")
  await refuse(
    { calibration: Tensor.empty([4, k + 1]) },
    'option "calibration" has shape [4, 173], expected [rows, 172]',
    "ERR_SHAPE",
  )
  await refuse(
    { calibration: Tensor.empty([k]) },
    'option "calibration" has shape [172], expected [rows, 172]',
    "ERR_SHAPE",
  )
  await refuse(
    { calibration: Tensor.empty([0, k]) },
    'option "calibration" has shape [0, 172], expected at least one row',
    "ERR_SHAPE",
  )
  const damaged = x.slice(0, 2 * k)
  damaged[k + 4] = Number.NaN
  await refuse(
    { calibration: Tensor.from(damaged, [2, k]) },
    /option "calibration" \[2, 172\] holds 1 NaN, the first at \[1, 4\]/,
    "ERR_NUMERIC",
  )
})

t.test("zero calibration and zero weights still give a finite result", async t => {
  for (const [tensor, rows] of [
    [weight, Tensor.empty([3, k])],
    [Tensor.empty([n, k]), calibration],
  ] as const)
    for (const options of [
      { rounding: "gptq" },
      { rounding: "mse" },
      { rounding: "gptq", transform: "awq" },
    ] as const) {
      const q = await quantize(tensor, { scheme: "w3a16", groupSize: 32, calibration: rows, ...options })
      t.ok(dequantize(q).data.every(Number.isFinite), JSON.stringify(options))
    }
})

t.test("scales and zero points of llm-compressor's vectors", async t => {
  for (const id of ["ct-sym-scale", "ct-asym-scale"]) {
    const { weights, scale_f32, zero_point, values } = vector(id)
    const weight = Tensor.from(Float32Array.from(weights), [1, weights.length])
    const symmetric = zero_point === undefined
    const options = { scheme: "w4a16", groupSize: weights.length, symmetric, scaleType: "f32" } as const
    const { scales, zeros, codes } = await quantize(weight, options)
    t.equal(scales[0], Math.fround(scale_f32), id)
    t.equal((zeros?.[0] ?? 8) - 8, zero_point ?? 0)
    // Halves between two codes go to the even quotient here, to the even code there: as near.
    const error = (code: number, i: number) => Math.abs(weights[i] - scale_f32 * (code - (zero_point ?? 0)))
    for (const [i, value] of values.entries()) t.ok(Math.abs(error(codes[i]! - 8, i) - error(value, i)) < 1e-7)
    if (symmetric)
      t.strictSame(
        Array.from(codes, code => code - 8),
        values,
      )
  }
})
