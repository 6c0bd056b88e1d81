// cuBLAS on emulated CUDA devices: loading, calling on streams and in graphs, refusals; results against float64.
import t from "tap"
import { CuBlas } from "../../../lib/bench/device-blas.ts"
import { captureGraph, Tensor } from "../../../lib/index.ts"
import { native } from "../../../lib/native.ts"
import { check, type Float, values } from "../cuda/products.ts"
import { builtCublas, builtModule, skip } from "../cuda/support.ts"

if (!skip) {
  process.env.TSQ_CUDA_MODULE = builtModule("emulated")
  process.env.TSQ_CUBLAS = builtCublas()
}

t.test("products are those of float64, enqueued and in graphs, on two devices", { skip }, async t => {
  const blas = { "cuda:0": await CuBlas.open("cuda:0"), "cuda:1": await CuBlas.open("cuda:1") }
  const cases: [device: "cuda:0" | "cuda:1", m: number, n: number, k: number, dtype: Float][] = [
    ["cuda:0", 1, 50, 70, "f16"],
    ["cuda:1", 3, 33, 128, "bf16"],
    ["cuda:0", 20, 1, 17, "bf16"],
    ["cuda:1", 9, 64, 1, "f16"],
  ]
  for (const [device, m, n, k, dtype] of cases) {
    const what = `[${m}, ${k}] by [${n}, ${k}] in ${dtype}`
    const host = await values([n, k], dtype)
    const [x, w] = [await (await values([m, k], dtype)).to(device), await host.to(device)]
    const [y, z] = [await Tensor.empty([m, n], dtype).to(device), await Tensor.empty([m, n], dtype).to(device)]
    blas[device].multiply(x, w, y)
    await check(t, what, y, x, host)
    using graph = await captureGraph(device, () => {
      blas[device].multiply(x, w, z)
      blas[device].multiply(x, w, z)
    })
    t.ok(
      (await z.toArray()).every(value => value === 0),
      "recorded, not done",
    )
    const other = await values([m, k], dtype)
    await x.copyFrom(other)
    w.dispose() // the graph keeps it
    graph.launch()
    await check(t, `${what} in a graph, of another x`, z, other, host)
  }
  const kept = blas["cuda:0"]
  const x = await (await values([2, 8], "f16")).to("cuda:0")
  const y = await Tensor.empty([2, 2], "f16").to("cuda:0")
  using graph = await captureGraph("cuda:0", () => kept.multiply(x, x, y))
  for (const each of Object.values(blas)) {
    each.dispose()
    each.dispose()
  }
  graph.launch()
  await check(t, "after cuBLAS was let go", y, x, x)
  t.throws(() => kept.multiply(x, x, y), { code: "ERR_OPTION", message: /cuBLAS on cuda:0 was disposed/ })
})

t.test("what is no product is refused, and statuses are told", { skip }, async t => {
  const device = await native.cudaOpen(builtModule("emulated"), 0)
  const other = await native.cudaOpen(builtModule("emulated"), 1)
  const { handle, library, version } = await native.cudaBlasOpen(device, builtCublas())
  t.same([library, version], [builtCublas(), 129901])
  const memory = (on: number, count: number) =>
    native.cudaUpload(on, new Uint16Array(new SharedArrayBuffer(count * 2)), 1, count)
  const [w, x, y, far] = [
    await memory(device, 8 * 4),
    await memory(device, 3 * 4),
    await memory(device, 3 * 8),
    await memory(other, 64),
  ]
  const refuses = (args: Partial<Record<"w" | "x" | "m" | "n" | "k" | "y", number>>, code: string, message: RegExp) => {
    const all = { w, x, m: 3, n: 8, k: 4, y, ...args }
    t.throws(() => native.cudaBlasMultiply(handle, all.w, all.x, 1, all.m, all.n, all.k, all.y), { code, message })
  }
  refuses({ w: far }, "ERR_OPTION", /w has 128 bytes on cuda:1, expected at least 64 on the device of cuBLAS, cuda:0/)
  refuses({ m: 4 }, "ERR_OPTION", /x has 24 bytes on cuda:0, expected at least 32/)
  refuses({ n: 9 }, "ERR_OPTION", /w has 64 bytes on cuda:0, expected at least 72/)
  refuses({ x: w, m: 4 }, "ERR_OPTION", /y has 48 bytes on cuda:0, expected at least 64/)
  refuses({ y: w, m: 1 }, "ERR_OPTION", /y is an input too/)
  refuses({ m: 0 }, "ERR_OPTION", /m is 0/)
  refuses({ k: 2 ** 31 }, "ERR_OPTION", /k is 2147483648/)
  refuses({ x: handle }, "ERR_OPTION", /is cuBLAS on a CUDA device, expected memory of a CUDA device/)
  process.env.TSQ_EMULATED_CUBLAS_GEMM = "13"
  refuses({}, "ERR_UNSUPPORTED", /libtsq_cublas_emulated\.so: cublasGemmEx gives status 13 \(EXECUTION_FAILED\)$/)
  process.env.TSQ_EMULATED_CUBLAS_GEMM = "99"
  refuses({}, "ERR_UNSUPPORTED", /cublasGemmEx gives status 99$/)
  delete process.env.TSQ_EMULATED_CUBLAS_GEMM
  native.cudaBlasMultiply(handle, w, x, 1, 3, 8, 4, y)
  await native.cudaDownload(y, new Uint16Array(new SharedArrayBuffer(48)))
  for (const each of [handle, w, x, y, far, device, other]) native.release(each)
})
