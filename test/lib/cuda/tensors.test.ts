// Tensors on CUDA devices: copies, disposal, memory; on the emulated runtime.
import { once } from "node:events"
import { setImmediate as turn } from "node:timers/promises"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Worker } from "node:worker_threads"
import t from "tap"
import { dtypeInfo, dtypes } from "../../../lib/core/dtype.ts"
import { quantize, Tensor } from "../../../lib/index.ts"
import { NativeHandle, native } from "../../../lib/native.ts"
import { builtModule, skip } from "./support.ts"

if (!skip) process.env.TSQ_CUDA_MODULE = builtModule("emulated")

const ramp = (count: number) => Float32Array.from({ length: count }, (_, i) => i - 3)

t.test("copies hold the same elements, whatever the type and the way", { skip }, async t => {
  for (const dtype of dtypes) {
    const array = new (dtypeInfo(dtype).array)(new ArrayBuffer(dtypeInfo(dtype).bytes * 12))
    new Uint8Array(array.buffer).forEach((_, i, bytes) => {
      bytes[i] = 7 * i
    })
    const tensor = Tensor.from(array, [3, 4], dtype)
    const there = await tensor.to("cuda")
    t.match(there, { shape: [3, 4], dtype, device: "cuda:0", size: 12, bytes: tensor.bytes })
    t.equal(await there.to("cuda:0"), there, "already there")
    const other = await there.to("cuda:1")
    t.equal(other.device, "cuda:1")
    const back = await other.to("cpu")
    t.equal(back.device, "cpu")
    t.same(new Uint8Array(back.data.buffer), new Uint8Array(array.buffer), dtype)
    t.same(await there.toArray(), back.data)
    for (const each of [there, other]) each.dispose()
  }
  const empty = await Tensor.empty([0, 4], "f16").to("cuda")
  t.same([...(await empty.toArray())], [])
  const file = `${t.testdir({ file: Buffer.from(ramp(8).buffer) })}/file`
  const mapped = Tensor.fromMapping(new NativeHandle(native.mapFile(file), "file"), 4, [7], "f32")
  t.same([...(await (await mapped.to("cuda")).toArray())], [...ramp(8).subarray(1)], "from a file")
})

t.test("what the CPU needs is refused with the way out", { skip }, async t => {
  const there = await Tensor.from(ramp(4), [2, 2]).to("cuda:1")
  const error = { name: "TsqError", code: "ERR_DEVICE" }
  t.throws(() => there.data, { ...error, message: /is on cuda:1; `await tensor\.toArray\(\)` copies it/ })
  await t.rejects(there.cast("f16"), { ...error, message: /\[2, 2\] is on cuda:1, .*`await tensor\.to\("cpu"\)`/ })
  await t.rejects(quantize(there, { scheme: "w4a16" }), error)
  t.throws(() => Tensor.from(ramp(4), [4]).memory, { ...error, message: /is on cpu, expected a CUDA device/ })
  await t.rejects(there.to("cuda:2"), {
    ...error,
    message: 'tensor.to: device "cuda:2" is not available: this machine has cuda:0 to cuda:1',
  })
  t.equal((await there.to("cpu")).size, 4, "and the device is as it was")
})

t.test("disposal: twice, before use, while a copy is under way", { skip }, async t => {
  const there = await Tensor.from(ramp(6), [6]).to("cuda")
  const copy = there.to("cpu")
  there.dispose()
  there[Symbol.dispose]()
  t.same([...(await copy).data], [...ramp(6)], "a copy that was begun ends")
  await t.rejects(there.to("cpu"), { code: "ERR_OPTION", message: /the tensor \[6\] on cuda:0 was disposed/ })
  const here = Tensor.from(ramp(2), [2])
  here.dispose()
  t.same([...here.data], [-3, -2], "an array is left alone")
})

t.test("out of memory tells the sizes, and what is freed can be had again", { skip }, async t => {
  const tensor = Tensor.empty([1 << 20], "f32")
  process.env.TSQ_EMULATED_MEMORY = String(10_000_000)
  t.teardown(() => delete process.env.TSQ_EMULATED_MEMORY)
  const kept = [await tensor.to("cuda:1"), await tensor.to("cuda:1")]
  await t.rejects(tensor.to("cuda:1"), {
    code: "ERR_DEVICE",
    message:
      /^tensor\.to: the tensor f32 \[1048576\]: cuda:1: 4194304 bytes do not fit: \d+ of the device's 10000000 bytes are free; dispose/,
  })
  for (const each of kept) each.dispose()
  for (let i = 0; i < 20; i++) (await tensor.to("cuda:1")).dispose()
  t.pass("twenty times the memory, one after the other")
})

t.test("the collector knows of the memory, and frees what nobody holds", { skip }, async t => {
  setFlagsFromString("--expose-gc")
  const collect = runInNewContext("gc") as () => void
  const host = Tensor.empty([1 << 20], "f32")
  for (let i = 0; i < 5; i++) {
    collect()
    await turn()
  }
  const before = native.handleCount()
  const holdSome = async () => {
    const tensors: Tensor[] = []
    for (let i = 0; i < 4; i++) tensors.push(await host.to("cuda"))
    t.equal(native.handleCount(), before + 4)
    for (const each of tensors) t.equal(native.handleBytes(each.memory), 4 << 20, "what the collector is told")
  }
  await holdSome()
  for (let i = 0; i < 50 && native.handleCount() > before; i++) {
    collect()
    await turn()
  }
  t.equal(native.handleCount(), before)
})

t.test("workers have devices of their own", { skip }, async t => {
  const script = `
    const { parentPort, workerData } = require("node:worker_threads")
    const native = require("node-gyp-build")(workerData.root)
    const shared = new Float32Array(new SharedArrayBuffer(64)).fill(workerData.value)
    const out = new Float32Array(new SharedArrayBuffer(64))
    ;(async () => {
      const device = await native.cudaOpen(workerData.module, 0)
      for (let i = 0; i < 50; i++) {
        const memory = await native.cudaUpload(device, shared, 0, 16)
        await native.cudaDownload(memory, out)
        native.release(memory)
      }
      void native.cudaUpload(device, shared, 0, 16)
      parentPort.postMessage([...out])
    })()`
  const root = new URL("../../..", import.meta.url).pathname
  const workers = [1, 2, 3].map(
    value => new Worker(script, { eval: true, workerData: { root, module: process.env.TSQ_CUDA_MODULE, value } }),
  )
  const exits = workers.map(worker => once(worker, "exit"))
  const messages = await Promise.all(workers.map(worker => once(worker, "message")))
  for (const [i, [message]] of messages.entries()) t.same(message, new Array(16).fill(i + 1))
  for (const exit of exits) t.same(await exit, [0])
})
