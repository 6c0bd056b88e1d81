// The kernel benchmark on an emulated CUDA device, with tiny shapes: every field, sound results; never how fast.
import t from "tap"
import { benchDevice } from "../../../lib/bench/device-kernels.ts"
import { devicePage, deviceText } from "../../../lib/bench/device-table.ts"
import type { Progress } from "../../../lib/core/progress.ts"
import { native } from "../../../lib/native.ts"
import { builtCublas, builtModule, skip } from "../cuda/support.ts"

if (!skip) {
  process.env.TSQ_CUDA_MODULE = builtModule("emulated")
  process.env.TSQ_CUBLAS = builtCublas()
}

const quick = { rounds: 2, readBytes: 1 << 14, peakSide: 24, groupSize: 64 } as const

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
  t.equal(report.results.length, 2 * 5 * 2)
  t.strictSame(
    progress.map(({ done, total }) => [done, total]),
    Array.from({ length: 10 }, (_, done) => [done, 10]),
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
  t.same([...bits].sort(), ["cublas 16", "tsq-unfused 4", "tsq-w16a16 16", "tsq-w4a16 4", "tsq-w8a16 8"])
  t.equal(native.handleCount(), handles + 1, "all is freed but the device")
  t.match(report.cublas, {
    library: builtCublas(),
    version: 129901,
    peak: [
      { dtype: "f16", side: 24 },
      { dtype: "bf16", side: 24 },
    ],
  })
  for (const { gflops } of report.cublas!.peak) {
    t.equal(gflops.count, 2)
    t.ok(gflops.min > 0 && gflops.min <= gflops.median && gflops.median <= gflops.max)
  }
  for (const { dtype, gflops, percentOfPeak } of report.results) {
    const peak = report.cublas!.peak.find(each => each.dtype === dtype)!.gflops.median
    t.ok(Math.abs(percentOfPeak! - (100 * gflops) / peak) < 1e-9 * percentOfPeak!)
  }
  const text = deviceText(report)
  t.match(text, /\ncuBLAS 129901 \(\/.*libtsq_cublas_emulated\.so\), 24³ at [\d.]+ TFLOP\/s in f16 \(.*in bf16 \(/)
  t.match(text, /\ncublas f16 +9 .* % +1\.00 /, "cuBLAS is as fast as itself")
  t.match(text, /^emulated 1 \(cuda:1\), compute capability 8\.0, 2 multiprocessors, L2 0\.0 MiB\n/)
  t.match(text, /\n70×50\nbackend +m +µs +GB\/s +roof +TFLOP\/s +peak +× cuBLAS +error +tokens\/s\n/)
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
    ["tsq-w16a16", "cublas"],
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

t.test("without cuBLAS the run says what is wrong with it, and goes on", { skip }, async t => {
  const handles = native.handleCount()
  const run = async (library: string | undefined, more: object = {}) => {
    const notes: string[] = []
    if (library === undefined) delete process.env.TSQ_CUBLAS
    else process.env.TSQ_CUBLAS = library
    const report = await benchDevice({
      ...{ ...quick, device: "cuda", shapes: ["64x40"], m: [2], dtypes: ["bf16"], ...more },
      ...{ backends: ["cublas", "tsq-w16a16"], onNote: text => notes.push(text) },
    })
    t.ok(
      report.results.some(({ backend }) => backend === "tsq-w16a16"),
      "ours were measured",
    )
    t.same(
      notes,
      report.unavailable.map(({ backend, reason }) => `not measured: ${backend}: ${reason}`),
    )
    return report
  }
  t.teardown(() => {
    process.env.TSQ_CUBLAS = builtCublas()
  })
  const absent = [
    [
      "/nowhere/libcublas.so.12",
      /^cuBLAS is not available: \/nowhere\/libcublas\.so\.12 does not load: there is no such file$/,
    ],
    ["libtsq_none.so", /^cuBLAS is not available: libtsq_none\.so: cannot open shared object file: No such file/],
    [
      builtModule("no_table"),
      /no_table\.so is no cuBLAS of version 11 or later: it lacks cublasCreate_v2, .*cublasGemmEx$/,
    ],
    ["package.json", /^cuBLAS is not available: package\.json: /],
  ] as const
  for (const [library, reason] of absent) {
    const report = await run(library)
    t.match(report.unavailable, [{ backend: "cublas", reason }])
    t.equal(report.cublas, null)
    t.same(
      report.results.map(({ backend, percentOfPeak }) => [backend, percentOfPeak]),
      [["tsq-w16a16", null]],
    )
    t.match(deviceText(report), /\ntsq-w16a16 bf16 .* – +– /)
    t.match(deviceText(report), /\ncublas was not measured: cuBLAS is not available: /)
    t.match(JSON.parse(JSON.stringify(report)), { cublas: null, options: { backends: ["cublas", "tsq-w16a16"] } })
  }
  process.env.TSQ_EMULATED_CUBLAS_CREATE = "1"
  const stopped = await run(builtCublas())
  delete process.env.TSQ_EMULATED_CUBLAS_CREATE
  t.match(stopped.unavailable, [{ backend: "cublas", reason: /cublasCreate gives status 1 \(NOT_INITIALIZED\)$/ }])
  process.env.TSQ_EMULATED_CUBLAS_GEMM = "15"
  const refused = await run(builtCublas())
  delete process.env.TSQ_EMULATED_CUBLAS_GEMM
  t.match(refused.unavailable, [
    { backend: "the peak of cublas in bf16", reason: /cublasGemmEx gives status 15 \(NOT_SUPPORTED\)$/ },
    { backend: "cublas bf16 on 64×40", reason: /cublasGemmEx gives status 15/ },
  ])
  t.match(refused.cublas, { version: 129901, peak: [] })
  process.env.TSQ_EMULATED_MEMORY = "60000"
  t.teardown(() => delete process.env.TSQ_EMULATED_MEMORY)
  const full = await run(builtCublas())
  t.match(full.unavailable, [{ backend: "cublas", reason: /do not fit/ }], "its workspace")
  delete process.env.TSQ_EMULATED_MEMORY
  // Whatever this machine has: it is named, or starts.
  const found = await run(undefined)
  if (found.cublas === null)
    t.match(found.unavailable[0], {
      backend: "cublas",
      reason: /libcublas\.so\.13: .*; libcublas\.so\.12: .*; libcublas\.so\.11: /,
    })
  t.equal(native.handleCount(), handles, "all is freed")
})

t.test("what cannot be asked for is refused by name", { skip }, async t => {
  const refuses = (options: object, code: string, message: RegExp) =>
    t.rejects(benchDevice({ device: "cuda", ...options } as never), { name: "TsqError", code, message })
  await refuses({ backends: ["tsq-w4a61"] }, "ERR_OPTION", /did you mean "tsq-w4a16"\?/)
  await refuses(
    { backends: ["torch"] },
    "ERR_OPTION",
    /there are tsq-w4a16, tsq-w8a16, tsq-w16a16, tsq-unfused, cublas and all/,
  )
  await refuses({ dtypes: ["f32"] }, "ERR_OPTION", /dtype "f32", expected "f16" or "bf16" on cuda:0/)
  await refuses({ m: [0] }, "ERR_OPTION", /^benchDevice: option "m" holds 0/)
  await refuses({ bits: 4 }, "ERR_OPTION", /unknown option "bits"/)
  await refuses({ device: "cuda:5" }, "ERR_DEVICE", /"cuda:5" is not available: there is cuda:0, cuda:1$/)
  await refuses({ device: "gpu" }, "ERR_DEVICE", /device "gpu" is not available/)
  process.env.TSQ_CUDA_MODULE = "/nowhere.so"
  await refuses({}, "ERR_DEVICE", /"cuda:0" is not available: TSQ_CUDA_MODULE: .*there is no such file/)
})
