// matmulW4A16 on CUDA devices against float64: the real kernels and the real module, on the emulated runtime.
import { spawnSync } from "node:child_process"
import { setImmediate as turn } from "node:timers/promises"
import t from "tap"
import type { QuantizedTensorInit } from "../../../lib/core/quantized-tensor.ts"
import { matmul, matmulW4A16, prepack, QuantizedTensor, Tensor } from "../../../lib/index.ts"
import { randomQuantized } from "../kernels/support.ts"
import { check, type Float, floats, next, values, weight } from "./products.ts"
import { builtModule, skip } from "./support.ts"

if (!skip) process.env.TSQ_CUDA_MODULE = builtModule("emulated")

t.test("products are those of float64", { skip }, async t => {
  const cases = [
    { n: 96, k: 128, group: 32, m: 1, zeros: true },
    { n: 70, k: 200, group: 64, m: 7, dtype: "bf16", scales: "bf16" },
    { n: 64, k: 100, group: 16, m: 12, order: true, bias: true },
    { n: 33, k: 96, group: 96, m: 30, zeros: true, bias: true, dtype: "bf16" },
    { n: 130, k: 256, group: 128, m: 40, scales: "bf16" },
    { n: 64, k: 192, group: 64, m: 70, order: true, zeros: true },
  ] as const satisfies { n: number; k: number; group: number; m: number; [more: string]: unknown }[]
  for (const [i, each] of cases.entries()) {
    const { n, k, group, m } = each
    const {
      zeros = false,
      order = false,
      bias = false,
      dtype = "f16",
      scales = "f16",
    } = each as {
      [name in "zeros" | "order" | "bias"]?: boolean
    } & { dtype?: Float; scales?: Float }
    const device = i % 2 === 0 ? "cuda" : "cuda:1"
    const q = weight(n, k, group, { zeros, order, scales })
    const packed = await prepack(q, { device })
    t.match(packed, { shape: [n, k], bits: 4, device: i % 2 === 0 ? "cuda:0" : "cuda:1" })
    t.ok(packed.bytes >= (n * k) / 2)
    const x = await (await values([m, k], dtype)).to(device)
    const b = bias ? await (await values([n], dtype)).to(device) : undefined
    const y = matmulW4A16(x, packed, b && { bias: b })
    t.match(y, { shape: [m, n], dtype, device: packed.device })
    const what = JSON.stringify(each)
    await check(t, what, y, x, q, b)
    t.same(await matmul(x, packed, b && { bias: b }).toArray(), await y.toArray(), "matmul, and the same bits again")
    t.same(await (await matmulW4A16.async(x, packed, b && { bias: b })).toArray(), await y.toArray(), "async")
    packed.dispose()
  }
})

t.test("batch invariance: a row has the same bits in every company", { skip }, async t => {
  const q = weight(130, 448, 64, { zeros: true })
  const packed = await prepack(q, { device: "cuda" })
  const host = await values([100, 448], "f16")
  const product = async (first: number, rows: number, batchInvariant: boolean) => {
    const x = Tensor.from(host.data.slice(first * 448, (first + rows) * 448) as Uint16Array, [rows, 448], "f16")
    return matmulW4A16(await x.to("cuda"), packed, { batchInvariant }).toArray()
  }
  const all = await product(0, 100, true)
  for (const [first, rows] of [
    [0, 64],
    [75, 25],
    [3, 24],
    [50, 8],
    [99, 1],
  ] as const)
    t.same(await product(first, rows, true), all.slice(first * 130, (first + rows) * 130), `${rows} rows from ${first}`)
  t.notSame(await product(0, 100, false), all, "without it many rows have a kernel of their own")
  const x = await host.to("cuda")
  await check(t, "100 rows", matmul(x, packed, { batchInvariant: true }), x, q)
  t.throws(() => matmulW4A16(x, packed, { batchInvariant: 1 as never }), {
    code: "ERR_OPTION",
    message: /"batchInvariant" is 1/,
  })
  t.throws(() => matmulW4A16(host, q, { batchInvariant: true }), {
    code: "ERR_UNSUPPORTED",
    message: /option "batchInvariant" is true, which is for weights on a CUDA device/,
  })
  await t.rejects(matmul.async(host, q, { batchInvariant: true }), { code: "ERR_UNSUPPORTED" })
  t.ok(matmulW4A16(host, q, { batchInvariant: false }))
})

t.test("scales too far apart for the kernels for many tokens", { skip }, async t => {
  const q = weight(70, 256, 64, { scales: "bf16" })
  const scales = q.scales.map((scale, i) => scale * 2 ** (i % 2 === 0 ? 60 : -70))
  const wild = new QuantizedTensor({ ...(q as QuantizedTensorInit), scales })
  const packed = await prepack(wild, { device: "cuda" })
  const x = await (await values([40, 256], "bf16")).to("cuda")
  await check(t, "2^60 beside 2^-70", matmulW4A16(x, packed), x, wild)
})

t.test("shapes: a vector, leading dimensions, no rows", { skip }, async t => {
  const q = weight(48, 64, 64)
  const packed = await prepack(q, { device: "cuda" })
  for (const shape of [[64], [2, 3, 64], [0, 64]]) {
    const x = await (await values(shape, "f16")).to("cuda")
    const y = matmulW4A16(x, packed)
    t.same(y.shape, [...shape.slice(0, -1), 48])
    if (x.size > 0) await check(t, `[${shape}]`, y, x, q)
    else t.equal((await y.toArray()).length, 0)
  }
})

t.test("a chain of products is enqueued at once; what it used may go meanwhile", { skip }, async t => {
  const [first, second] = [weight(192, 128, 64), weight(128, 192, 64)]
  const [a, b] = [await prepack(first, { device: "cuda" }), await prepack(second, { device: "cuda" })]
  const input = await values([1, 128], "bf16")
  const run = (): Tensor => {
    let x = there
    for (let i = 0; i < 4; i++) {
      const y = matmulW4A16(x, i % 2 === 0 ? a : b)
      x.dispose()
      x = y
    }
    return x
  }
  let there = await input.to("cuda")
  const once = await run().toArray()
  there = await input.to("cuda")
  process.env.TSQ_EMULATED_SLEEP = "25"
  t.teardown(() => delete process.env.TSQ_EMULATED_SLEEP)
  const started = performance.now()
  const last = run()
  const enqueued = performance.now() - started
  const copy = last.to("cpu")
  for (const each of [a, b, last]) each.dispose()
  let turns = 0
  const counting = setInterval(() => turns++, 1)
  const result = await copy
  const done = performance.now() - started
  clearInterval(counting)
  delete process.env.TSQ_EMULATED_SLEEP
  t.same(result.data, once, "the same bits as with everything kept")
  t.ok(enqueued < done / 2, `enqueued in ${enqueued.toFixed(1)} ms of ${done.toFixed(1)} ms`)
  t.ok(turns > 0, "the event loop turns while the device works")
  const expected = await floats(Tensor.from(once, [1, 128], "bf16"))
  t.ok(expected.every(Number.isFinite))
  t.throws(() => matmulW4A16(there, a), { code: "ERR_OPTION", message: /was disposed/ })
})

t.test("operands of other places and types are refused by name", { skip }, async t => {
  const q = weight(32, 64, 64)
  const packed = await prepack(q, { device: "cuda" })
  const host = await values([2, 64], "f16")
  const x = await host.to("cuda")
  const bias = await (await values([32], "f16")).to("cuda")
  const refuses = (call: () => unknown, code: string, message: RegExp) =>
    t.throws(call, { name: "TsqError", code, message })
  refuses(() => matmulW4A16(host, packed), "ERR_DEVICE", /x is on cpu and the weight on cuda:0, .*x\.to\("cuda:0"\)/)
  for (const w of [q, await prepack(q)])
    refuses(() => matmulW4A16(x, w), "ERR_DEVICE", /x is on cuda:0 and the weight on cpu, .*prepack\(weight/)
  refuses(() => matmul(x, q), "ERR_DEVICE", /^matmul: x is on cuda:0 and the weight on cpu/)
  await t.rejects(matmulW4A16.async(x, q), { code: "ERR_DEVICE", message: /weight on cpu/ })
  const elsewhere = await host.to("cuda:1")
  refuses(() => matmulW4A16(elsewhere, packed), "ERR_DEVICE", /x is on cuda:1 and the weight on cuda:0/)
  await t.rejects(matmul.async(elsewhere, packed), { code: "ERR_DEVICE" })
  refuses(() => matmulW4A16(host, q, { bias }), "ERR_DEVICE", /option "bias" is on cuda:0 and the weight on cpu/)
  refuses(() => matmulW4A16(host, q, { out: x }), "ERR_DEVICE", /option "out" is on cuda:0 and the weight on cpu/)
  const onHost = await bias.to("cpu")
  refuses(
    () => matmulW4A16(x, packed, { bias: onHost }),
    "ERR_DEVICE",
    /option "bias" is on cpu and the weight on cuda:0/,
  )
  refuses(() => matmulW4A16(x, packed, { bias: x }), "ERR_SHAPE", /option "bias" has shape \[2, 64\], expected \[32\]/)
  refuses(() => matmulW4A16(x, packed, { activations: "int8" }), "ERR_UNSUPPORTED", /"activations" is "int8"/)
  refuses(() => matmulW4A16(x, packed, { scale: 1 } as never), "ERR_OPTION", /unknown option "scale"/)
  const wide = await Tensor.empty([2, 64]).to("cuda")
  refuses(() => matmulW4A16(wide, packed), "ERR_DTYPE", /x is f32, expected f16 or bf16 on cuda:0; cast it first/)
  const short = await (await values([2, 60], "f16")).to("cuda")
  refuses(() => matmulW4A16(short, packed), "ERR_SHAPE", /x has shape \[2, 60\], expected \[\.\.\., 64\]/)
  refuses(() => matmul(x, short), "ERR_UNSUPPORTED", /the weight is a float tensor on cuda:0; `await prepack/)
  refuses(() => matmulW4A16(null as never, packed), "ERR_DTYPE", /x is null, expected a Tensor/)
  await check(t, "and the device still computes", matmulW4A16(x, packed, { bias }), x, q, bias)
})

t.test("weights that the kernels do not take are refused", { skip }, async t => {
  const refuses = (q: QuantizedTensor | Tensor, code: string, message: RegExp) =>
    t.rejects(prepack(q, { device: "cuda" }), { name: "TsqError", code, message })
  const q = weight(16, 64, 32)
  const init = q as QuantizedTensorInit
  await refuses(
    weight(16, 64, 8),
    "ERR_UNSUPPORTED",
    /weight \[16, 64\].* groups of 8: groups are 16, 32, a multiple of 64/,
  )
  for (const bits of [3, 4, 8] as const)
    await refuses(
      randomQuantized(next, { n: 16, k: 64, groupSize: 32, bits, symmetric: true }),
      "ERR_UNSUPPORTED",
      /scale \d+ is .*, which is no value of f16; .*scaleType "f16" or "bf16"/,
    )
  await refuses(new QuantizedTensor({ ...init, codes: q.codes.map(() => 16) }), "ERR_FORMAT", /code 0 is 16, .*4 bits/)
  for (const group of [-1, 2])
    await refuses(
      new QuantizedTensor({ ...init, groupIndex: new Int32Array(64).fill(group) }),
      "ERR_FORMAT",
      /groupIndex\[0\] is -?\d, expected 0 to 1/,
    )
  await refuses(
    new QuantizedTensor({ ...init, groupIndex: new Int32Array(64) }),
    "ERR_UNSUPPORTED",
    /group 0 more than 32 columns/,
  )
  const three = weight(16, 64, 32, { bits: 3 })
  await refuses(
    new QuantizedTensor({ ...(three as QuantizedTensorInit), codes: three.codes.map(() => 8) }),
    "ERR_FORMAT",
    /code 0 is 8, .*3 bits/,
  )
  await refuses(
    Tensor.empty([16, 64]),
    "ERR_DTYPE",
    /^prepack: the weight \[16, 64\] is f32, expected f16 or bf16 on cuda:0; `await weight\.cast\("bf16"\)`/,
  )
  await refuses(Tensor.empty([64], "f16"), "ERR_SHAPE", /the weight has shape \[64\]/)
  await refuses(Tensor.empty([0, 64], "f16"), "ERR_SHAPE", /expected \[n, k\].*both positive/)
})

t.test("out of memory while packing and multiplying leaves the device as it was", { skip }, async t => {
  const q = weight(256, 256, 64)
  const packed = await prepack(q, { device: "cuda:1" })
  const x = await (await values([1, 256], "f16")).to("cuda:1")
  const y = await matmulW4A16(x, packed).toArray()
  const many = await (await values([64, 256], "f16")).to("cuda:1")
  process.env.TSQ_EMULATED_MEMORY = String(200_000)
  t.teardown(() => delete process.env.TSQ_EMULATED_MEMORY)
  await t.rejects(prepack(q, { device: "cuda:1" }), {
    code: "ERR_DEVICE",
    message:
      /^prepack: the weight \[256, 256\]: cuda:1: \d+ bytes do not fit: \d+ of the device's 200000 bytes are free/,
  })
  t.throws(() => matmulW4A16(many, packed), {
    code: "ERR_DEVICE",
    message: /^matmulW4A16: the result f16 \[64, 256\]: cuda:1: \d+ bytes do not fit: /,
  })
  delete process.env.TSQ_EMULATED_MEMORY
  t.same(await matmulW4A16(x, packed).toArray(), y, "the same as before")
  await check(t, "and what did not fit", matmulW4A16(many, packed), many, q)
})

t.test("a kernel that fails is told by the copy, and other devices go on", { skip }, async t => {
  const q = weight(32, 64, 64)
  const [here, there] = [await prepack(q, { device: "cuda" }), await prepack(q, { device: "cuda:1" })]
  const host = await values([1, 64], "f16")
  const [x, other] = [await host.to("cuda"), await host.to("cuda:1")]
  process.env.TSQ_EMULATED_FAILURE = "an illegal address"
  const y = matmulW4A16(other, there)
  await t.rejects(y.to("cpu"), {
    code: "ERR_DEVICE",
    message: /^copying the tensor f16 \[1, 32\] from cuda:1: cuda:1: .*: an illegal address/,
  })
  delete process.env.TSQ_EMULATED_FAILURE
  t.throws(() => matmulW4A16(other, there), { code: "ERR_DEVICE", message: /an illegal address/ }, "for good")
  for (const each of [y, there, other]) each.dispose()
  await turn()
  await check(t, "cuda:0", matmulW4A16(x, here), x, q)
})

t.test("a process may end with work under way", { skip }, async t => {
  const index = new URL("../../../lib/index.ts", import.meta.url).href
  const graph =
    "const graph = await captureGraph('cuda', () => void matmulW4A16(x, packed)); graph.launch(); graph.launch()"
  for (const end of [
    "process.exit(0)",
    "void y.to('cpu')",
    "y.to('cpu'); process.exit(0)",
    "0",
    graph,
    `${graph}; process.exit(0)`,
    "await captureGraph('cuda', () => { matmulW4A16(x, packed); process.exit(0) })",
  ]) {
    const script = `
      const { captureGraph, prepack, quantize, matmulW4A16, Tensor } = await import(${JSON.stringify(index)})
      const w = Tensor.from(new Float32Array(256 * 256).fill(1), [256, 256])
      const packed = await prepack(await quantize(w, { scheme: "w4a16", scaleType: "f16" }), { device: "cuda" })
      const x = await (await Tensor.empty([64, 256]).cast("f16")).to("cuda")
      const y = matmulW4A16(x, packed)
      for (let i = 0; i < 5; i++) matmulW4A16(x, packed)
      ${end}`
    const { status, signal, stderr } = spawnSync(
      process.execPath,
      ["--import", "tsx", "--input-type=module", "-e", script],
      { encoding: "utf8" },
    )
    t.same([status, signal, stderr.replaceAll(/^.*[Ww]arning.*$/gm, "").trim()], [0, null, ""], end)
  }
})
