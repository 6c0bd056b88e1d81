// What goes wrong on CUDA devices, and what goes on all the same.
import { once } from "node:events"
import { Worker } from "node:worker_threads"
import t from "tap"
import { devices, matmulW4A16, type PackedWeight, prepack, Tensor } from "../../../lib/index.ts"
import { check, values, weight } from "./products.ts"
import { builtModule, skip } from "./support.ts"

if (!skip) process.env.TSQ_CUDA_MODULE = builtModule("emulated")

/** With a variable of the emulated runtime set. */
async function during(name: string, value: string, work: () => unknown): Promise<void> {
  process.env[name] = value
  try {
    await work()
  } finally {
    delete process.env[name]
  }
}

t.test("a driver older than the runtime is said by devices() and by whoever asks for one", { skip }, async t => {
  await during("TSQ_EMULATED_DRIVER", "11040", async () => {
    const { cuda, devices: found } = devices()
    t.equal(found.length, 1)
    t.match(cuda, {
      available: false,
      reason: "the NVIDIA driver supports CUDA 11.4, and 12.4 is needed: update the driver",
    })
    await t.rejects(Tensor.empty([4]).to("cuda"), {
      code: "ERR_DEVICE",
      message: /^tensor\.to: device "cuda:0" is not available: the NVIDIA driver supports CUDA 11\.4/,
    })
  })
  t.equal(devices().devices.length, 3)
  t.equal((await Tensor.empty([4]).to("cuda")).device, "cuda:0", "a refusal is not remembered")
})

t.test("out of memory in the middle of packing many weights", { skip }, async t => {
  const q = weight(256, 512, 64)
  const all: PackedWeight[] = []
  await during("TSQ_EMULATED_MEMORY", "400000", async () => {
    let refusal: unknown
    for (let i = 0; i < 10 && refusal === undefined; i++)
      await prepack(q, { device: "cuda" }).then(
        packed => all.push(packed),
        error => {
          refusal = error
        },
      )
    t.match(refusal, {
      code: "ERR_DEVICE",
      message:
        /^prepack: the weight \[256, 512\]: cuda:0: \d+ bytes do not fit: \d+ of the device's 400000 bytes are free; dispose of/,
    })
    t.ok(all.length >= 2, `${all.length} weights fitted`)
    // What the refused one had is free again: as many as before fit once they are disposed of.
    const count = all.length
    for (const each of all.splice(0)) each.dispose()
    for (let i = 0; i < count; i++) all.push(await prepack(q, { device: "cuda" }))
  })
  const x = await (await values([1, 512], "f16")).to("cuda")
  for (const each of all) await check(t, "what fitted computes", matmulW4A16(x, each), x, q)
})

t.test("a launch that is refused leaves everything as it was", { skip }, async t => {
  const q = weight(96, 320, 64)
  const packed = await prepack(q, { device: "cuda" })
  const x = await (await values([7, 320], "bf16")).to("cuda")
  const want = await matmulW4A16(x, packed).toArray()
  await during("TSQ_EMULATED_LAUNCH", "too many resources requested", async () => {
    t.throws(() => matmulW4A16(x, packed), {
      code: "ERR_DEVICE",
      message: /^matmulW4A16: the result bf16 \[7, 96\]: cuda:0: starting a kernel: too many resources requested/,
    })
    await t.rejects(prepack(q, { device: "cuda" }), { code: "ERR_DEVICE", message: /too many resources requested/ })
  })
  t.same(await matmulW4A16(x, packed).toArray(), want)
})

t.test("a worker that is terminated with work under way takes nothing along", { skip }, async t => {
  const script = `
    const { parentPort, workerData } = require("node:worker_threads")
    const native = require("node-gyp-build")(workerData.root)
    const shared = (Type, length) => new Type(new SharedArrayBuffer(length * Type.BYTES_PER_ELEMENT))
    ;(async () => {
      const device = await native.cudaOpen(workerData.module, 0)
      const codes = await native.cudaPackCodes(device, shared(Uint8Array, 64 * 128), 64, 128, 4, 64,
        shared(Float32Array, 128).fill(0.5), false, null, null, null)
      const x = await native.cudaUpload(device, shared(Uint16Array, 8 * 128), 1, 8 * 128)
      for (let i = 0; i < 20; i++) {
        const y = native.cudaMatmul(codes, x, 1, 8, null, false)
        void native.cudaDownload(y, shared(Uint16Array, 8 * 64))
        native.release(y)
      }
      parentPort.postMessage("enqueued")
    })()`
  const root = new URL("../../..", import.meta.url).pathname
  const workerData = { root, module: process.env.TSQ_CUDA_MODULE }
  const q = weight(48, 64, 64)
  const packed = await prepack(q, { device: "cuda" })
  const x = await (await values([3, 64], "f16")).to("cuda")
  await during("TSQ_EMULATED_SLEEP", "5", async () => {
    for (let i = 0; i < 3; i++) {
      const worker = new Worker(script, { eval: true, workerData })
      await once(worker, "message")
      await worker.terminate()
      await check(t, `after termination ${i + 1}`, matmulW4A16(x, packed), x, q)
    }
  })
})

t.test("what was disposed of is refused, each by name", { skip }, async t => {
  const q = weight(64, 64, 64)
  const packed = await prepack(q, { device: "cuda" })
  const here = () => values([64], "f16").then(tensor => tensor.to("cuda"))
  const [x, gone] = [await here(), await here()]
  gone.dispose()
  gone.dispose()
  const refuses = (call: () => unknown, message: RegExp) => t.throws(call, { code: "ERR_OPTION", message })
  refuses(() => matmulW4A16(gone, packed), /the tensor \[64\] on cuda:0 was disposed/)
  refuses(() => matmulW4A16(x, packed, { bias: gone }), /the tensor \[64\] on cuda:0 was disposed/)
  refuses(() => matmulW4A16(x, packed, { out: gone }), /the tensor \[64\] on cuda:0 was disposed/)
  await t.rejects(prepack(await lost(), { device: "cuda" }), { code: "ERR_OPTION", message: /was disposed/ })
  await t.rejects(gone.to("cuda:1"), { code: "ERR_OPTION" })
  packed.dispose()
  packed.dispose()
  refuses(() => matmulW4A16(x, packed), /the packed weight \[64, 64\] was disposed/)

  async function lost(): Promise<Tensor> {
    const tensor = await (await values([4, 64], "f16")).to("cuda")
    tensor.dispose()
    return tensor
  }
})

t.test("a lost device says so ever after; the CPU, other devices and devices() go on", { skip }, async t => {
  const q = weight(32, 64, 64)
  const [lost, other] = [await prepack(q, { device: "cuda:1" }), await prepack(q, { device: "cuda:0" })]
  const host = await values([2, 64], "f16")
  const x = await host.to("cuda:1")
  const y = await Tensor.empty([2, 32], "f16").to("cuda:1")
  await during("TSQ_EMULATED_FAILURE", "an illegal address", async () => {
    matmulW4A16(x, lost, { out: y })
    await t.rejects(y.toArray(), { code: "ERR_DEVICE", message: /^copying the tensor .*: an illegal address/ })
  })
  const says = { code: "ERR_DEVICE", message: /cuda:1: .*an illegal address/ }
  t.throws(() => matmulW4A16(x, lost), says)
  t.throws(() => matmulW4A16(x, lost, { out: y }), says)
  await t.rejects(host.to("cuda:1"), says)
  await t.rejects(prepack(q, { device: "cuda:1" }), says)
  await t.rejects(prepack(host, { device: "cuda:1" }), says)
  await t.rejects(x.to("cuda:0"), says)
  for (const each of [x, y, lost]) each.dispose()
  t.equal(devices().devices.length, 3)
  const there = await host.to("cuda:0")
  await check(t, "cuda:0", matmulW4A16(there, other), there, q)
  await check(t, "cpu", matmulW4A16(host, q), host, q)
})
