// Graphs: recorded once, launched often, with everything that they use.
import t from "tap"
import { CudaGraph, captureGraph, matmul, matmulW4A16, prepack, Tensor } from "../../../lib/index.ts"
import { check, floats, values, weight } from "./products.ts"
import { builtModule, skip } from "./support.ts"

if (!skip) process.env.TSQ_CUDA_MODULE = builtModule("emulated")

t.test("a chain is recorded, not done, and every launch does it with what its inputs then hold", { skip }, async t => {
  for (const device of ["cuda:0", "cuda:1"] as const) {
    const [up, down] = [weight(192, 128, 64, { inputScale: true }), weight(128, 192, 64, { bits: 8 })]
    const [a, b] = [await prepack(up, { device }), await prepack(down, { device })]
    const first = await values([5, 128], "f16")
    const x = await first.to(device)
    const h = await Tensor.empty([5, 192], "f16").to(device)
    const y = await Tensor.empty([5, 128], "f16").to(device)
    using graph = await captureGraph(device, () => {
      matmulW4A16(x, a, { out: h })
      matmul(h, b, { out: y })
    })
    t.ok(graph instanceof CudaGraph)
    t.equal(graph.device, device)
    t.ok(
      (await y.toArray()).every(value => value === 0),
      "nothing was done yet",
    )
    graph.launch()
    const want = await matmul(matmulW4A16(x, a), b).toArray()
    t.same(await y.toArray(), want, "the same bits as without a graph")
    const second = await values([5, 128], "f16")
    await x.copyFrom(second)
    for (let i = 0; i < 5; i++) graph.launch()
    await check(t, "of other inputs", h, x, up)
    t.same(await y.toArray(), await matmul(matmulW4A16(x, a), b).toArray())
    await x.copyFrom(await first.to("cuda:1"))
    graph.launch()
    t.same(await y.toArray(), want, "and of the first again, from a device")
    // Larger products between launches: the workspace grows, and the graph keeps the one that it was recorded with.
    const many = await (await values([60, 128], "f16")).to(device)
    await check(t, "larger beside it", matmulW4A16(many, a), many, up)
    graph.launch()
    t.same(await y.toArray(), want)
  }
})

t.test("results without out, and memory that lives as long as the graph", { skip }, async t => {
  const q = weight(64, 128, 32)
  const packed = await prepack(q, { device: "cuda" })
  const x = await (await values([30, 128], "bf16")).to("cuda")
  const bias = await (await values([64], "bf16")).to("cuda")
  let y: Tensor | undefined
  const graph = await captureGraph("cuda", () => {
    y = matmulW4A16(x, packed, { bias })
  })
  graph.launch()
  await check(t, "a result made in the capture", y!, x, q, bias)
  const want = await y!.toArray()
  for (const each of [packed, x, bias]) each.dispose()
  // What was disposed would be given to these, were it free.
  const others = await Promise.all([1, 2, 3, 4].map(async () => (await values([64, 128], "f16")).to("cuda")))
  graph.launch()
  t.same(await y!.toArray(), want)
  graph.launch()
  graph.dispose()
  graph.dispose()
  t.same(await y!.toArray(), want, "disposed with a launch under way")
  t.throws(() => graph.launch(), { code: "ERR_OPTION", message: /the graph on cuda:0 was disposed/ })
  for (const each of others) each.dispose()
})

t.test("memory of a graph comes back with it", { skip }, async t => {
  const q = weight(64, 64, 64)
  const packed = await prepack(q, { device: "cuda:1" })
  process.env.TSQ_EMULATED_MEMORY = String(3 << 20)
  t.teardown(() => delete process.env.TSQ_EMULATED_MEMORY)
  const row = Tensor.empty([1, 64], "f16")
  const rounds = 6
  for (let i = 0; i < rounds; i++) {
    // A megabyte that only the graph holds in the end; three would not fit.
    const x = await row.to("cuda:1")
    const filler = await prepack(Tensor.empty([8192, 64], "bf16"), { device: "cuda:1" })
    const wide = await Tensor.empty([1, 64], "bf16").to("cuda:1")
    const graph = await captureGraph("cuda:1", () => {
      matmul(wide, filler)
      matmul(x, packed)
    })
    for (const each of [x, filler, wide]) each.dispose()
    graph.launch()
    if (i === 0) {
      const more = prepack(Tensor.empty([8192, 64], "bf16"), { device: "cuda:1" })
      await t.rejects(more, { code: "ERR_DEVICE", message: /do not fit/ }, "disposed, but the graph uses it")
    }
    graph.dispose()
  }
  delete process.env.TSQ_EMULATED_MEMORY
  const x = await (await values([3, 64], "f16")).to("cuda:1")
  await check(t, "and the device is as it was", matmulW4A16(x, packed), x, q)
})

t.test("what no graph can hold is refused, and the capture goes on or ends cleanly", { skip }, async t => {
  const q = weight(64, 64, 64)
  const [packed, elsewhere] = [await prepack(q, { device: "cuda" }), await prepack(q, { device: "cuda:1" })]
  const host = await values([2, 64], "f16")
  const [x, far] = [await host.to("cuda"), await host.to("cuda:1")]
  const y = await Tensor.empty([2, 64], "f16").to("cuda")
  using ready = await captureGraph("cuda", () => {
    matmul(x, packed, { out: y })
  })
  const refusal = { code: "ERR_DEVICE", message: /: a graph is being recorded on cuda:0, which holds products/ }
  const promises: [string, Promise<unknown>][] = []
  using graph = await captureGraph("cuda", () => {
    for (const [name, call] of [
      ["graph.launch", () => ready.launch()],
      ["matmul", () => matmul(far, elsewhere)],
    ] as const)
      t.throws(call, { ...refusal, message: new RegExp(`^${name}: a graph is being recorded on cuda:0`) })
    promises.push(
      ["upload", host.to("cuda")],
      ["upload elsewhere", host.to("cuda:1")],
      ["download", x.to("cpu")],
      ["toArray", x.toArray()],
      ["copyFrom", x.copyFrom(host)],
      ["prepack", prepack(q, { device: "cuda" })],
      ["prepack of floats", prepack(host, { device: "cuda" })],
      ["another capture", captureGraph("cuda:1", () => matmul(far, elsewhere))],
    )
    for (const [, promise] of promises) promise.catch(() => {})
    matmul(x, packed, { out: y })
  })
  for (const [name, promise] of promises) await t.rejects(promise, refusal, name)
  graph.launch()
  await check(t, "what was recorded beside it", y, x, q)

  const own = new Error("mine")
  await t.rejects(
    captureGraph("cuda", () => {
      matmul(x, packed)
      throw own
    }),
    own,
  )
  await t.rejects(
    captureGraph("cuda", async () => void matmul(x, packed)),
    {
      code: "ERR_OPTION",
      message: /record gives a promise, expected a synchronous function/,
    },
  )
  await t.rejects(
    captureGraph("cuda", () => {}),
    {
      code: "ERR_OPTION",
      message: "captureGraph: no product was recorded on cuda:0",
    },
  )
  await t.rejects(
    captureGraph("cpu", () => {}),
    { code: "ERR_DEVICE", message: /expected a CUDA device/ },
  )
  await t.rejects(
    captureGraph("cuda:7", () => {}),
    { code: "ERR_DEVICE", message: /cuda:7.*not available/ },
  )
  await t.rejects(captureGraph("cuda", 3 as never), { code: "ERR_OPTION", message: /record is 3/ })
  process.env.TSQ_EMULATED_LAUNCH = "no resources"
  await t.rejects(
    captureGraph("cuda", () => void matmul(x, packed)),
    { code: "ERR_DEVICE", message: /no resources/ },
  )
  delete process.env.TSQ_EMULATED_LAUNCH
  await check(t, "after all of it", matmul(x, packed), x, q)
  t.same(await floats(matmul(x, packed)), await floats(y))
})

t.test("copies that are under way are no part of a graph", { skip }, async t => {
  const q = weight(64, 64, 64)
  const packed = await prepack(q, { device: "cuda" })
  const x = await (await values([2, 64], "f16")).to("cuda")
  process.env.TSQ_EMULATED_SLEEP = "10"
  t.teardown(() => delete process.env.TSQ_EMULATED_SLEEP)
  const before = matmul(x, packed)
  const copies = [before.toArray(), before.toArray(), x.copyFrom(await x.to("cpu"))]
  let y: Tensor | undefined
  using graph = await captureGraph("cuda", () => {
    y = matmul(x, packed)
  })
  graph.launch()
  t.same(await y!.toArray(), await copies[0])
  await Promise.all(copies)
})

t.test("copyFrom refuses by name", { skip }, async t => {
  const there = await Tensor.empty([2, 3], "f16").to("cuda")
  const refuses = (call: Promise<unknown>, code: string, message: RegExp) => t.rejects(call, { code, message })
  await refuses(
    Tensor.empty([2, 3]).copyFrom(there),
    "ERR_DEVICE",
    /this tensor f32 \[2, 3\] is on cpu, expected a CUDA/,
  )
  await refuses(there.copyFrom(Tensor.empty([2, 3])), "ERR_DTYPE", /source is f32, expected f16/)
  await refuses(there.copyFrom(Tensor.empty([3, 2], "f16")), "ERR_SHAPE", /\[3, 2\], expected \[2, 3\]/)
  await refuses(there.copyFrom(5 as never), "ERR_DTYPE", /source is 5, expected a Tensor/)
  there.dispose()
  await refuses(there.copyFrom(Tensor.empty([2, 3], "f16")), "ERR_OPTION", /was disposed/)
})

t.test("a product that is refused half recorded, by a caller who goes on", { skip }, async t => {
  const q = weight(64, 128, 64, { inputScale: true })
  const scaled = await prepack(q, { device: "cuda" })
  const plain = weight(64, 128, 64)
  const packed = await prepack(plain, { device: "cuda" })
  const host = await values([3, 128], "f16")
  const [lost, x] = [await host.to("cuda"), await host.to("cuda")]
  const y = await Tensor.empty([3, 64], "f16").to("cuda")
  t.teardown(() => {
    delete process.env.TSQ_EMULATED_LAUNCH
    delete process.env.TSQ_EMULATED_LAUNCH_BYTES
  })
  using graph = await captureGraph("cuda", () => {
    process.env.TSQ_EMULATED_LAUNCH_BYTES = "1" // x by the input scale goes through
    process.env.TSQ_EMULATED_LAUNCH = "no resources"
    t.throws(() => matmul(lost, scaled), { code: "ERR_DEVICE", message: /no resources/ })
    delete process.env.TSQ_EMULATED_LAUNCH
    matmul(x, packed, { out: y })
  })
  for (const each of [lost, scaled]) each.dispose()
  graph.launch()
  await check(t, "the other product", y, x, plain)
})

t.test("no room, and a lost device, in the middle of a capture", { skip }, async t => {
  const q = weight(256, 64, 64)
  const packed = await prepack(q, { device: "cuda" })
  const x = await (await values([40, 64], "f16")).to("cuda")
  process.env.TSQ_EMULATED_MEMORY = "1000"
  t.teardown(() => delete process.env.TSQ_EMULATED_MEMORY)
  await t.rejects(
    captureGraph("cuda", () => void matmul(x, packed)),
    { code: "ERR_DEVICE", message: /^matmul: the result f16 \[40, 256\]: cuda:0: \d+ bytes do not fit: / },
  )
  delete process.env.TSQ_EMULATED_MEMORY
  let y: Tensor | undefined
  using graph = await captureGraph("cuda", () => {
    y = matmul(x, packed)
  })
  graph.launch()
  await check(t, "the next capture", y!, x, q)

  const there = await (await values([1, 64], "f16")).to("cuda:1")
  const far = await prepack(q, { device: "cuda:1" })
  using lost = await captureGraph("cuda:1", () => void matmul(there, far))
  process.env.TSQ_EMULATED_FAILURE = "an illegal address"
  lost.launch()
  await t.rejects(there.toArray(), { code: "ERR_DEVICE", message: /an illegal address/ })
  delete process.env.TSQ_EMULATED_FAILURE
  t.throws(() => lost.launch(), { code: "ERR_DEVICE", message: /^graph\.launch: cuda:1: .*an illegal address/ })
  await t.rejects(
    captureGraph("cuda:1", () => void matmul(there, far)),
    { code: "ERR_DEVICE", message: /an illegal address/ },
  )
  graph.launch()
  await check(t, "another device goes on", y!, x, q)
})
