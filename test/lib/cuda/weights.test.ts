// Weights of every kind on CUDA devices, and results that go where the caller says.
import t from "tap"
import type { QuantizedTensorInit } from "../../../lib/core/quantized-tensor.ts"
import { matmul, matmulW4A16, prepack, QuantizedTensor, Tensor } from "../../../lib/index.ts"
import { native } from "../../../lib/native.ts"
import { check, type Float, type More, values, weight } from "./products.ts"
import { builtModule, skip } from "./support.ts"

if (!skip) process.env.TSQ_CUDA_MODULE = builtModule("emulated")

t.test("codes of 2 to 8 bits", { skip }, async t => {
  const cases: [n: number, k: number, group: number, m: number, dtype: Float, more: More][] = [
    [40, 96, 32, 1, "f16", { bits: 2 }],
    [33, 64, 64, 5, "bf16", { bits: 2, zeros: true }],
    [64, 100, 16, 9, "f16", { bits: 3, order: true }],
    [70, 130, 64, 30, "bf16", { bits: 3, zeros: true }],
    [40, 96, 32, 3, "f16", { bits: 5 }],
    [64, 128, 128, 26, "bf16", { bits: 5, zeros: true, scales: "bf16" }],
    [33, 70, 70, 2, "f16", { bits: 6, order: false }],
    [48, 128, 64, 4, "bf16", { bits: 7, zeros: true, order: true }],
    [65, 200, 64, 1, "f16", { bits: 8 }],
    [130, 256, 128, 40, "bf16", { bits: 8, zeros: true }],
  ]
  for (const [i, [n, k, group, m, dtype, more]] of cases.entries()) {
    const device = `cuda:${i % 2}` as const
    const q = weight(n, k, group, more)
    using packed = await prepack(q, { device })
    t.match(packed, { shape: [n, k], bits: more.bits, device, inputDtype: null })
    const stored = more.bits! <= 4 ? 0.5 : 1
    t.ok(packed.bytes >= n * k * stored && packed.bytes < (n + 64) * (k + 64) * (stored + 0.5), `${packed.bytes} bytes`)
    const x = await (await values([m, k], dtype)).to(device)
    const bias = await (await values([n], dtype)).to(device)
    await check(t, JSON.stringify(cases[i]), matmul(x, packed, { bias }), x, q, bias)
    await check(t, "async", await matmul.async(x, packed), x, q)
    t.throws(() => matmulW4A16(x, packed), {
      code: "ERR_UNSUPPORTED",
      message: new RegExp(`has ${more.bits} bits, expected 4`),
    })
    await t.rejects(matmulW4A16.async(x, packed), { code: "ERR_UNSUPPORTED" })
  }
})

t.test("weights of f16 and bf16, from the host and from the device", { skip }, async t => {
  for (const [n, k, m, dtype] of [
    [48, 64, 1, "f16"],
    [33, 70, 5, "bf16"],
    [130, 200, 30, "f16"],
  ] as const) {
    const w = await values([n, k], dtype)
    const there = await w.to("cuda:1")
    const x = await (await values([m, k], dtype)).to("cuda:1")
    using fromHost = await prepack(w, { device: "cuda:1" })
    t.match(fromHost, { shape: [n, k], bits: 16, device: "cuda:1", inputDtype: dtype })
    const y = matmul(x, fromHost)
    await check(t, `${dtype} [${n}, ${k}], m ${m}`, y, x, w)
    using fromDevice = await prepack(there, { device: "cuda:1" })
    t.same(await matmul(x, fromDevice).toArray(), await y.toArray(), "the same bits from memory of the device")
    t.same((await there.toArray()).length, n * k, "which the caller keeps")
    there.dispose()
    t.same(await matmul(x, fromDevice).toArray(), await y.toArray(), "and may dispose")
    const other = await (await values([m, k], dtype === "f16" ? "bf16" : "f16")).to("cuda:1")
    t.throws(() => matmul(other, fromHost), {
      code: "ERR_DTYPE",
      message: /x is b?f16 and the weight b?f16, expected both of one type on cuda:1; cast one first/,
    })
    t.throws(() => matmulW4A16(x, fromHost), { code: "ERR_UNSUPPORTED", message: /16 bits, expected 4/ })
  }
  const moved = await (await values([16, 32], "f16")).to("cuda:0")
  using packed = await prepack(moved, { device: "cuda:1" })
  t.equal(packed.device, "cuda:1", "a tensor of another device is copied")
})

t.test("an input scale multiplies x", { skip }, async t => {
  for (const [bits, m, dtype, order] of [
    [4, 1, "f16", false],
    [4, 30, "bf16", true],
    [8, 7, "f16", true],
    [3, 70, "bf16", false],
  ] as const) {
    const q = weight(50, 96, 32, { bits, order, inputScale: true })
    using packed = await prepack(q, { device: "cuda" })
    const x = await (await values([m, 96], dtype)).to("cuda")
    const before = await x.toArray()
    await check(t, `${bits} bits, m ${m}, ${dtype}`, matmul(x, packed), x, q)
    t.same(await x.toArray(), before, "x is left alone")
    // Ones change nothing, to the bit.
    const init = q as QuantizedTensorInit
    using plain = await prepack(new QuantizedTensor({ ...init, inputScale: null }), { device: "cuda" })
    using ones = await prepack(new QuantizedTensor({ ...init, inputScale: new Float32Array(96).fill(1) }), {
      device: "cuda",
    })
    t.same(await matmul(x, ones).toArray(), await matmul(x, plain).toArray())
  }
})

t.test("out receives the result, again and again, without memory of its own", { skip }, async t => {
  const q = weight(48, 64, 64, { inputScale: true })
  using packed = await prepack(q, { device: "cuda" })
  const x = await (await values([2, 3, 64], "f16")).to("cuda")
  const out = await Tensor.empty([2, 3, 48], "f16").to("cuda")
  const want = await matmul(x, packed).toArray()
  t.equal(matmul(x, packed, { out }), out)
  t.same(await out.toArray(), want)
  const bias = await (await values([48], "f16")).to("cuda")
  t.equal(await matmulW4A16.async(x, packed, { out, bias }), out)
  await check(t, "with a bias", out, x, q, bias)
  const handles = native.handleCount()
  for (let i = 0; i < 20; i++) matmulW4A16(x, packed, { out })
  t.equal(native.handleCount(), handles)
  t.same(await out.toArray(), want)
  const none = await Tensor.empty([0, 48], "f16").to("cuda")
  t.equal(matmul(await Tensor.empty([0, 64], "f16").to("cuda"), packed, { out: none }), none, "no rows")

  const refuses = (out: Tensor, code: string, message: RegExp) =>
    t.throws(() => matmul(x, packed, { out }), { name: "TsqError", code, message })
  refuses(Tensor.empty([2, 3, 48], "f16"), "ERR_DEVICE", /option "out" is on cpu and the weight on cuda:0/)
  refuses(await Tensor.empty([2, 3, 48], "f16").to("cuda:1"), "ERR_DEVICE", /option "out" is on cuda:1/)
  refuses(await Tensor.empty([2, 3, 48], "bf16").to("cuda"), "ERR_DTYPE", /option "out" is bf16, expected x's f16/)
  refuses(await Tensor.empty([6, 48], "f16").to("cuda"), "ERR_SHAPE", /\[6, 48\], expected \[2, 3, 48\]/)
  using square = await prepack(weight(64, 64, 64), { device: "cuda" })
  t.throws(() => matmul(x, square, { out: x }), { code: "ERR_OPTION", message: /option "out" is also an input/ })
  const row = await (await values([64], "f16")).to("cuda")
  t.throws(() => matmul(row, square, { out: bias, bias: row }), { code: "ERR_SHAPE" })
  const gone = await Tensor.empty([2, 3, 48], "f16").to("cuda")
  gone.dispose()
  refuses(gone, "ERR_OPTION", /was disposed/)
})

t.test("sizes that no kernel counts are refused before anything is read", { skip }, async t => {
  const device = await native.cudaOpen(builtModule("emulated"), 0)
  const bytes = new Uint8Array(new SharedArrayBuffer(64))
  const floats = new Float32Array(new SharedArrayBuffer(64))
  const big = 2 ** 31 + 64
  await t.rejects(native.cudaPackCodes(device, bytes, 1, big, 4, 64, floats, false, null, null, null), {
    code: "ERR_SHAPE",
  })
  const memory = await native.cudaUpload(device, bytes, 1, 32)
  await t.rejects(native.cudaPackFloats(memory, 1, 1, big), { code: "ERR_SHAPE", message: /source has 64 bytes/ })
  await t.rejects(native.cudaPackFloats(memory, 1, 2 ** 40, 2 ** 40), { message: /source/ })
  t.throws(() => native.cudaMatmul(memory, memory, 1, 2 ** 31, null, false), { name: "TsqError" })
})

t.test("decoding for benchmarks is of codes as they are", { skip }, async t => {
  const dense = await prepack(await values([64, 128], "f16"), { device: "cuda" })
  const refusal = { code: "ERR_OPTION", message: /^cudaDecode: expected codes in their order, without an input scale/ }
  for (const more of [{ inputScale: true }, { order: true }]) {
    const packed = await prepack(weight(64, 128, 64, more), { device: "cuda" })
    t.throws(() => native.cudaDecode(packed.handle, dense.handle), refusal)
  }
})
