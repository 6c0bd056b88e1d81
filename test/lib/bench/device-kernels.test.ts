// The kernel benchmark on an emulated CUDA device, with tiny shapes: every field, sound results; never how fast.
import t from "tap"
import { benchDevice } from "../../../lib/bench/device-kernels.ts"
import { devicePage, deviceText } from "../../../lib/bench/device-table.ts"
import type { Progress } from "../../../lib/core/progress.ts"
import { native } from "../../../lib/native.ts"
import { builtModule, skip } from "../cuda/support.ts"

if (!skip) process.env.TSQ_CUDA_MODULE = builtModule("emulated")

const quick = { rounds: 2, readBytes: 1 << 14, groupSize: 64 } as const

t.test("every backend, type and number of rows", { skip }, async t => {
  const handles = native.handleCount()
  const progress: Progress[] = []
  const report = await benchDevice({
    ...quick,
    ...{ device: "cuda:1", shapes: ["70x50"], m: [1, 9], dtypes: ["f16", "bf16"] },
    onProgress: step => progress.push(step),
  })
  t.strictSame(report.unavailable, [])
  t.match(report.device, { id: "cuda:1", name: "emulated 1", cacheBytes: 4096 })
  t.equal(report.results.length, 2 * 4 * 2)
  t.strictSame(
    progress.map(({ done, total }) => [done, total]),
    Array.from({ length: 8 }, (_, done) => [done, 8]),
  )
  for (const each of [report.readGBps.before, report.readGBps.after]) {
    t.equal(each.count, 2)
    t.ok(each.min > 0 && each.min <= each.median && each.median <= each.max)
  }
  for (const result of report.results) {
    const what = `${result.backend} ${result.dtype} [${result.n}, ${result.k}] m ${result.m}`
    for (const [name, value] of Object.entries(result))
      if (typeof value === "number") t.ok(Number.isFinite(value) && value > 0, `${what}, ${name}: ${value}`)
    t.ok(result.minMs <= result.medianMs && result.medianMs <= result.maxMs, what)
    t.ok(result.relL2 <= (result.dtype === "f16" ? 6e-4 : 4e-3), `${what}: error ${result.relL2}`)
    t.ok(result.products >= 16 && result.products % result.copies === 0, what)
    t.ok(result.copies >= 2 && (result.copies === 2 || result.copies * result.weightBytes >= 4 * 4096), what)
    t.equal(result.bytes, result.weightBytes + 2 * result.m * (result.n + result.k))
    t.ok(Math.abs(result.gbps * result.medianMs * 1e6 - result.bytes) < 1e-3 * result.bytes, what)
  }
  const bits = new Set(report.results.map(({ backend, bits }) => `${backend} ${bits}`))
  t.same([...bits].sort(), ["tsq-unfused 4", "tsq-w16a16 16", "tsq-w4a16 4", "tsq-w8a16 8"])
  t.equal(native.handleCount(), handles + 1, "all is freed but the device")
  const text = deviceText(report)
  t.match(text, /^emulated 1 \(cuda:1\), compute capability 8\.0, 2 multiprocessors, L2 0\.0 MiB\n/)
  t.match(text, /\n70×50\nbackend +m +µs +GB\/s +roof +TFLOP\/s +error +tokens\/s\n/)
  t.match(text, /\ntsq-unfused bf16 +9 /)
  const page = devicePage(report)
  t.match(page, /<h1>Kernel benchmark on a CUDA device<\/h1>/)
  t.match(page, /tsq-w4a16 f16, m 9/)
  t.notMatch(page, /undefined|NaN/)
})

t.test("what does not fit, or no kernel takes, is reported, and the rest goes on", { skip }, async t => {
  const notes: string[] = []
  const report = await benchDevice({
    ...{ ...quick, groupSize: 48, device: "cuda", shapes: ["96x40"], m: [1], dtypes: ["f16"] },
    onNote: text => notes.push(text),
  })
  t.same(
    report.results.map(({ backend }) => backend),
    ["tsq-w16a16"],
  )
  t.same(
    report.unavailable.map(({ backend }) => backend),
    ["tsq-w4a16 f16 on 96×40", "tsq-w8a16 f16 on 96×40", "tsq-unfused f16 on 96×40"],
  )
  for (const { reason } of report.unavailable) t.match(reason, /groups of 48: groups are 16, 32, a multiple of 64/)
  t.equal(notes.length, 3)
  t.match(deviceText(report), /tsq-unfused f16 on 96×40 was not measured: /)
  process.env.TSQ_EMULATED_MEMORY = "60000"
  t.teardown(() => delete process.env.TSQ_EMULATED_MEMORY)
  const full = await benchDevice({
    ...{ ...quick, device: "cuda", shapes: ["256x256", "64x32"], m: [1], dtypes: ["f16"], backends: ["tsq-w4a16"] },
  })
  t.match(full.unavailable, [{ backend: "tsq-w4a16 f16 on 256×256", reason: /do not fit/ }])
  t.same(
    full.results.map(({ k }) => k),
    [64],
  )
})

t.test("what cannot be asked for is refused by name", { skip }, async t => {
  const refuses = (options: object, code: string, message: RegExp) =>
    t.rejects(benchDevice({ device: "cuda", ...options } as never), { name: "TsqError", code, message })
  await refuses({ backends: ["tsq-w4a61"] }, "ERR_OPTION", /did you mean "tsq-w4a16"\?/)
  await refuses(
    { backends: ["cublas"] },
    "ERR_OPTION",
    /there are tsq-w4a16, tsq-w8a16, tsq-w16a16, tsq-unfused and all/,
  )
  await refuses({ dtypes: ["f32"] }, "ERR_OPTION", /dtype "f32", expected "f16" or "bf16" on cuda:0/)
  await refuses({ m: [0] }, "ERR_OPTION", /^benchDevice: option "m" holds 0/)
  await refuses({ bits: 4 }, "ERR_OPTION", /unknown option "bits"/)
  await refuses({ device: "cuda:5" }, "ERR_DEVICE", /"cuda:5" is not available: there is cuda:0, cuda:1$/)
  await refuses({ device: "gpu" }, "ERR_DEVICE", /device "gpu" is not available/)
  process.env.TSQ_CUDA_MODULE = "/nowhere.so"
  await refuses({}, "ERR_DEVICE", /"cuda:0" is not available: TSQ_CUDA_MODULE: .*there is no such file/)
})
