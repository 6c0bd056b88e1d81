// Several users of devices at once: threads of Node with a stream and a workspace each, two devices, an event loop that turns.
import { once } from "node:events"
import { Worker } from "node:worker_threads"
import t from "tap"
import { matmul, matmulW4A16, prepack, type Tensor } from "../../../lib/index.ts"
import { check, values, weight } from "./products.ts"
import { builtModule, skip } from "./support.ts"

if (!skip) process.env.TSQ_CUDA_MODULE = builtModule("emulated")

// Products of few and many rows by turns, so that workspaces grow and counters are used again at once.
const script = `
  const { parentPort, workerData } = require("node:worker_threads")
  const native = require("node-gyp-build")(workerData.root)
  const shared = (Type, length) => new Type(new SharedArrayBuffer(length * Type.BYTES_PER_ELEMENT))
  const [n, k] = [130, 512]
  ;(async () => {
    const device = await native.cudaOpen(workerData.module, workerData.device)
    const codes = shared(Uint8Array, n * k).map((_, i) => (i * 7 + (i >> 5)) % 16)
    const kept = shared(Uint8Array, n * k)
    kept.set(codes)
    const weight = await native.cudaPackCodes(device, kept, n, k, 4, 64,
      shared(Float32Array, n * 8).fill(0.25), false, null, null, null)
    const rows = shared(Uint16Array, 40 * k)
    for (let i = 0; i < rows.length; i++) rows[i] = 0x3c00 - (i % 64)
    const x = await native.cudaUpload(device, rows, 1, rows.length)
    const results = []
    for (let i = 0; i < workerData.rounds; i++) {
      const m = [1, 40, 9, 30, 2][i % 5]
      const y = native.cudaMatmul(weight, x, 1, m, null, false)
      const out = shared(Uint16Array, m * n)
      results.push(native.cudaDownload(y, out).then(() => out))
      native.release(y)
    }
    parentPort.postMessage(await Promise.all(results))
  })()`

t.test("threads under load, two devices, the same bits everywhere", { skip }, async t => {
  const root = new URL("../../..", import.meta.url).pathname
  const start = (device: number, rounds: number) => {
    const workerData = { root, module: process.env.TSQ_CUDA_MODULE, device, rounds }
    const worker = new Worker(script, { eval: true, workerData })
    return once(worker, "message").then(([results]) => results as Uint16Array[])
  }
  for (const device of [0, 1]) {
    const [alone] = [await start(device, 5)]
    t.ok(alone.every(result => result.some(value => value !== 0)))
    const together = await Promise.all([0, 1, 2].map(() => start(device, 10)))
    for (const results of together) for (const [i, result] of results.entries()) t.same(result, alone[i % 5])
  }
  const [first, second] = await Promise.all([start(0, 5), start(1, 5)])
  // One token has the same kernel on both; with many, compute capability 9.0 has another.
  t.same(first[0], second[0])
})

t.test("two devices of one thread at once", { skip }, async t => {
  const q = weight(96, 128, 64)
  const [a, b] = [await prepack(q, { device: "cuda:0" }), await prepack(q, { device: "cuda:1" })]
  const host = await values([5, 128], "f16")
  const [x, z] = [await host.to("cuda:0"), await host.to("cuda:1")]
  const results: [Tensor, Tensor][] = []
  for (let i = 0; i < 10; i++) {
    results.push([matmulW4A16(x, a), x])
    results.push([matmul(z, b), z])
  }
  for (const [y, of] of results) await check(t, y.device, y, of, q)
})

t.test("the event loop turns while products run, however they are awaited", { skip }, async t => {
  const packed = await prepack(weight(64, 64, 64), { device: "cuda" })
  const x = await (await values([1, 64], "f16")).to("cuda")
  process.env.TSQ_EMULATED_SLEEP = "20"
  t.teardown(() => delete process.env.TSQ_EMULATED_SLEEP)
  const waits: (() => Promise<unknown>)[] = [
    async () => matmulW4A16(x, packed).toArray(),
    async () => (await matmulW4A16.async(x, packed)).to("cpu"),
    async () => {
      matmulW4A16(x, packed)
      return prepack(weight(64, 64, 64), { device: "cuda" })
    },
    async () => {
      matmulW4A16(x, packed)
      return (await values([4, 64], "f16")).to("cuda")
    },
  ]
  for (const [i, wait] of waits.entries()) {
    let turns = 0
    const counting = setInterval(() => turns++, 1)
    await wait()
    clearInterval(counting)
    t.ok(turns >= 3, `way ${i + 1}: ${turns} turns in 20 ms and more`)
  }
})
