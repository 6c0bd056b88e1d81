// Calibration and rounding on CUDA devices beside the CPU's: the real kernels and the real module, on the emulated runtime.
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { openDevice } from "../../../lib/core/cuda.ts"
import { quantize, quantizeModel, Tensor, type TsqError } from "../../../lib/index.ts"
import { Accumulator } from "../../../lib/models/accumulator.ts"
import { HessianSum } from "../../../lib/models/hessian-sum.ts"
import { native } from "../../../lib/native.ts"
import type { QuantizeOptions } from "../../../lib/quantize/quantize.ts"
import { inProcess } from "../cli/support.ts"
import { folder, root, smallCheckpoint } from "../quantize/support.ts"
import { randomInputs, randomWeight } from "../rounding/support.ts"
import { builtModule, skip } from "./support.ts"

if (!skip) process.env.TSQ_CUDA_MODULE = builtModule("emulated")

const [n, k, rows] = [20, 72, 90]
const weight = Tensor.from(randomWeight(n, k, 1), [n, k])
const calibration = Tensor.from(randomInputs(rows, k, 2), [rows, k])

async function run(options: Partial<QuantizeOptions>, device: "cpu" | "cuda" | "cuda:1", x = calibration) {
  const steps: { stage: string; loss?: number; detail?: string }[] = []
  const q = await quantize(weight, {
    scheme: "w4a16",
    groupSize: 32,
    calibration: x,
    ...options,
    device,
    onProgress: step => steps.push(step),
  })
  return { q, last: steps.at(-1)!, steps }
}

t.test("every rounding gives the codes that it gives on the CPU", { skip }, async t => {
  const cases: Partial<QuantizeOptions>[] = [
    { rounding: "nearest", symmetric: false, scaleType: "f16" },
    { rounding: "nearest", groupSize: "tensor" },
    { rounding: "mse", scaleType: "bf16" },
    { rounding: "gptq", scaleType: "f16" },
    { rounding: "gptq", order: "none", symmetric: false, scheme: "w3a16", groupSize: 48, scaleSearch: false },
    { rounding: "gptq", order: "group-aware", block: 20 },
    { rounding: "gptq", order: "dynamic", groupSize: 20 },
    { rounding: "gptq", order: "dynamic", groupSize: "tensor", symmetric: false },
    { rounding: "gptq", groupSize: "channel", order: "none", scheme: "w8a16" },
    { rounding: "nearest", transform: "awq" },
  ]
  for (const options of cases) {
    const what = JSON.stringify(options)
    const [cpu, cuda] = [await run(options, "cpu"), await run(options, "cuda")]
    // Sums of another order may settle a tie otherwise.
    const differing = cpu.q.codes.reduce((count, code, i) => count + Number(code !== cuda.q.codes[i]), 0)
    t.ok(differing <= (n * k) / 200, `${what}: ${differing} codes differ`)
    if (differing === 0) {
      const close = cuda.q.scales.every((scale, i) => Math.abs(scale / cpu.q.scales[i]! - 1) < 1e-5)
      t.ok(close, `${what}: scales`)
      t.same(cuda.q.zeros, cpu.q.zeros, `${what}: zeros`)
    }
    t.same(cuda.q.groupIndex, cpu.q.groupIndex, `${what}: groups`)
    t.same(cuda.q.inputScale, cpu.q.inputScale, `${what}: inputScale`)
    t.ok(Math.abs(cuda.last.loss! / cpu.last.loss! - 1) < 1e-4, `${what}: ${cuda.last.loss} for ${cpu.last.loss}`)
    t.equal(cuda.last.detail, cpu.last.detail)
  }
})

t.test("activations of 16 bits are added as they are; a second device does the same", { skip }, async t => {
  for (const dtype of ["f16", "bf16"] as const) {
    const x = await calibration.cast(dtype)
    const [cpu, cuda] = [await run({ rounding: "mse" }, "cpu", x), await run({ rounding: "mse" }, "cuda:1", x)]
    t.same(cuda.q.codes, cpu.q.codes)
    t.ok(Math.abs(cuda.last.loss! / cpu.last.loss! - 1) < 1e-5, dtype)
  }
})

t.test("inputs that are 0, and too few rows for a Hessian of full rank", { skip }, async t => {
  const x = new Float32Array(randomInputs(6, k, 3))
  for (let i = 0; i < x.length; i++) if (i % k === 5) x[i] = 0
  const few = Tensor.from(x, [6, k])
  const [cpu, cuda] = [await run({ rounding: "gptq" }, "cpu", few), await run({ rounding: "gptq" }, "cuda", few)]
  t.same(cuda.q.codes, cpu.q.codes)
  const none = Tensor.from(new Float32Array(4 * k), [4, k])
  const [dead, alsoDead] = [await run({ rounding: "gptq" }, "cpu", none), await run({ rounding: "gptq" }, "cuda", none)]
  t.same(alsoDead.q.codes, dead.q.codes)
  t.match(alsoDead.last.detail, /every input of the layer was 0/)
})

t.test("a bad Hessian goes the CPU's way", { skip }, async t => {
  const device = await openDevice("test", "cuda:0")
  const grid = { bits: 4, symmetric: true, groupSize: k, perTensor: false, scaleType: 0, minZero: 0 } as const
  const options = { grid, search: null, clip: null, damp: 0.01, dampStep: 0.01, block: 128, order: 1 } as const
  const shared = (count: number) => new Float32Array(new SharedArrayBuffer(count * 4))
  const arrays = () => ({ codes: new Uint8Array(new SharedArrayBuffer(n * k)), scales: shared(n), zeros: null })
  const floats = weight.data as Float32Array
  const w = shared(n * k)
  w.set(floats)
  for (const value of [Number.NaN, 1e-3]) {
    const hessian = new Accumulator("hessian", k)
    const x = shared(k)
    x.fill(value)
    await hessian.add(x, 1)
    const [a, b] = [arrays(), arrays()]
    const cpu = await native.gptq(w, n, k, hessian.handle.value, options, a, null, null)
    const cuda = await native.cudaGptq(device, w, n, k, hessian.handle.value, options, b, null, null)
    t.same(b.codes, a.codes)
    const untimed = { error: 0, nearestError: 0, factorSeconds: 0, columnSeconds: 0, compareSeconds: 0 }
    t.same({ ...cuda, ...untimed }, { ...cpu, ...untimed }, cpu.note)
    t.ok(Number.isNaN(value) ? Number.isNaN(cuda.error) : Math.abs(cuda.error - cpu.error) <= 1e-4 * cpu.error)
    hessian.dispose()
  }
})

t.test("sums of second moments: in parts, then in the accumulator", { skip }, async t => {
  const device = await openDevice("test", "cuda:0")
  const [onCpu, onDevice] = [new Accumulator("hessian", k), new Accumulator("hessian", k)]
  const x = randomInputs(50, k, 7)
  await onCpu.add(x, 50)
  const sum = await HessianSum.start(onDevice, device)
  await sum.add(x.subarray(0, 20 * k), 20)
  await sum.add(x.subarray(20 * k), 30)
  await sum.add(x, 0)
  await sum.finish()
  t.equal(onDevice.rows, 50)
  const [a, b] = [onCpu.meanSquare(), onDevice.meanSquare()]
  t.ok(a.every((value, i) => Math.abs(value - b[i]!) <= 1e-6 * value))
  await t.rejects(native.cudaAccumulate(onCpu.handle.value, x, 0, 1), {
    code: "ERR_OPTION",
    message: /an accumulator, expected a Hessian/,
  })
  await t.rejects(native.cudaFinishHessian((await native.cudaHessian(device, 8)) as never, onCpu.handle.value), {
    code: "ERR_SHAPE",
    message: /the Hessian is of 72 columns, expected k = 8/,
  })
})

t.test("a device that is not there, or too small, says so", { skip }, async t => {
  await t.rejects(quantize(weight, { scheme: "w4a16", device: "gpu" as never }), {
    code: "ERR_DEVICE",
    message: /^quantize: device "gpu" is not available/,
  })
  await t.rejects(quantize(weight, { scheme: "w4a16", device: "cuda:9" }), {
    code: "ERR_DEVICE",
    message: 'quantize: device "cuda:9" is not available: this machine has cuda:0 to cuda:1',
  })
  const program = `
    import { quantize, Tensor } from ${JSON.stringify(join(root, "lib/index.ts"))}
    const weight = Tensor.from(Float32Array.from({ length: 64 * 64 }, (_, i) => Math.sin(i)), [64, 64])
    const calibration = Tensor.from(Float32Array.from({ length: 80 * 64 }, (_, i) => Math.cos(i * i)), [80, 64])
    const options = { scheme: "w4a16", rounding: "gptq", groupSize: 64, calibration, device: "cuda" }
    const main = async () => {
      for (let i = 0; i < 2; i++)
        await quantize(weight, options).catch(error => console.log(error.code, error.message))
      console.log((await quantize(weight, { ...options, device: "cpu" })).codes.length)
    }
    main()`
  const { stdout, stderr } = spawnSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", program], {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, TSQ_EMULATED_MEMORY: "50000" },
  })
  const lines = stdout.trim().split("\n")
  t.equal(lines.length, 3, stderr)
  for (const line of lines.slice(0, 2))
    t.match(line, /^ERR_DEVICE quantize: cuda:0: \d+ bytes do not fit: \d+ of the device's 50000 bytes are free/)
  t.equal(lines[2], "4096", "the CPU goes on")
})

t.test("an abort is noticed on the way, and the event loop turns", { skip }, async t => {
  const reason = new Error("enough")
  const controller = new AbortController()
  let turns = 0
  const counting = setInterval(() => turns++, 1)
  const running = quantize(weight, {
    scheme: "w4a16",
    rounding: "gptq",
    order: "none",
    groupSize: 1,
    calibration,
    device: "cuda",
    signal: controller.signal,
    onProgress: step => {
      if (step.stage === "quantize") setTimeout(() => controller.abort(reason), 20)
    },
  })
  const error: TsqError = await running.then(
    () => t.fail("not aborted"),
    failure => failure,
  )
  clearInterval(counting)
  t.match(error, { name: "AbortError", code: "ERR_ABORTED", cause: reason })
  t.ok(turns > 5, `${turns} turns`)
  t.equal((await run({ rounding: "nearest" }, "cuda")).q.codes.length, n * k, "and the device computes on")
})

t.test("a model: second moments and rounding on a device, its blocks on the CPU", { skip }, async t => {
  const source = smallCheckpoint(t, { num_hidden_layers: 1, hidden_size: 32, intermediate_size: 64 })
  const ids = Array.from({ length: 160 }, (_, i) => (i * 7 + (i % 5)) % 64)
  const losses: Record<string, number[]> = {}
  for (const device of ["cpu", "cuda"] as const) {
    const out = join(folder(t), "out")
    const report = await quantizeModel(source, out, {
      scheme: "w4a16",
      groupSize: 32,
      rounding: "gptq",
      scaleSearch: false,
      calibration: ids,
      sequenceLength: 32,
      device,
    })
    losses[device] = report.tensors.map(tensor => tensor.error)
    const written = JSON.parse(readFileSync(join(out, "quantization-report.json"), "utf8"))
    t.equal(written.recipe.device, device === "cpu" ? "cpu" : "cuda:0")
  }
  t.ok(losses.cuda!.length > 0 && losses.cuda!.length === losses.cpu!.length)
  losses.cuda!.forEach((loss, i) => {
    t.ok(Math.abs(loss / losses.cpu![i]! - 1) < 0.02, `${loss} for ${losses.cpu![i]}`)
  })
  const out = join(folder(t), "out")
  const flags = ["--preset", "rtn", "--group-size", "32", "--device", "cuda", "--json"]
  const { code, stdout, stderr } = await inProcess("quantize", source, out, ...flags)
  t.equal(code, 0, stderr)
  t.equal(JSON.parse(stdout).recipe.device, "cuda:0")
  await t.rejects(quantizeModel(source, join(folder(t), "out"), { device: "tpu" as never }), {
    code: "ERR_DEVICE",
    message: /^quantizeModel: device "tpu"/,
  })
})
