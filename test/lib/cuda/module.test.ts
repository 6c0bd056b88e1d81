// Finding and opening the CUDA module: whatever TSQ_CUDA_MODULE names, devices() answers in plain words.
import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import { copyFileSync, existsSync, readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { relative } from "node:path"
import { fileURLToPath } from "node:url"
import { Worker } from "node:worker_threads"
import t, { type Test } from "tap"
import { devices } from "../../../lib/core/machine.ts"
import { TsqError } from "../../../lib/index.ts"
import { native } from "../../../lib/native.ts"
import { builtModule, skip } from "./support.ts"

function answer(module: string) {
  process.env.TSQ_CUDA_MODULE = module
  const report = devices()
  t.equal(report.devices[0].id, "cpu")
  return { ...report.cuda, devices: report.devices.slice(1) }
}

function refused(t: Test, module: string, reason: RegExp) {
  const { available, devices, ...rest } = answer(module)
  t.equal(available, false, module)
  t.same(devices, [])
  t.match((rest as { reason: string }).reason, reason)
}

t.test("files that are no module", { skip }, async t => {
  const folder = t.testdir()
  const addon = fileURLToPath(new URL("../../../build/Release/tsq_native.node", import.meta.url))
  const path = (name: string) => `${folder}/${name}`
  refused(t, path("missing.so"), /^TSQ_CUDA_MODULE: \/.*\/missing\.so does not load: there is no such file$/)
  refused(t, `${path("missing.so")}/libtsq_cuda.so`, /: there is no such file$/)
  refused(t, folder, /: it is a directory$/)
  refused(t, "/dev/null", /: it is not a regular file$/)
  execFileSync("mkfifo", [path("pipe")])
  refused(t, path("pipe"), /: it is not a regular file$/)
  symlinkSync("loop", path("loop"))
  refused(t, path("loop"), /does not load: ./)
  for (const text of ["", "\x7fELF", "Once upon a time there was a text, long enough to be a header".repeat(9)]) {
    writeFileSync(path("text.so"), text)
    refused(t, path("text.so"), /: it is not a shared library$/)
  }
  refused(t, "libc.so.6", /\/libc\.so\.6 does not load: there is no such file$/)
  refused(t, addon, /tsq_native\.node is a shared library, but no CUDA module of tsq-native$/)
  refused(t, builtModule("no_table"), /is a shared library, but no CUDA module of tsq-native$/)
  refused(
    t,
    builtModule("other_version"),
    /has version (\d+) of the module's interface, and this addon needs version \d+: .*nvcc.*npm rebuild tsq-native/,
  )
})

t.test("a module cut short, at any length", { skip }, async t => {
  const whole = readFileSync(builtModule("emulated"))
  const folder = t.testdir()
  for (const part of [0.001, 0.01, 0.3, 0.6, 0.9]) {
    const path = `${folder}/cut-${part}.so`
    writeFileSync(path, whole.subarray(0, Math.floor(whole.length * part)))
    refused(t, path, /: it is a shared library cut short$/)
  }
  const foreign = Buffer.from(whole)
  foreign[18] = 0x08 // made for MIPS
  writeFileSync(`${folder}/foreign.so`, foreign)
  refused(t, `${folder}/foreign.so`, /foreign\.so does not load: ./)
  copyFileSync(builtModule("emulated"), `${folder}/whole.so`)
  t.equal(answer(`${folder}/whole.so`).available, true, "while the whole of it is opened")
})

t.test("a module with two devices", { skip }, async t => {
  const module = builtModule("emulated")
  const expected = {
    available: true,
    module,
    devices: [
      {
        id: "cuda:0",
        kind: "cuda",
        name: "emulated 0",
        computeCapability: "9.0",
        multiprocessors: 2,
        memoryBytes: 2 ** 26,
        cacheBytes: 2 ** 12,
      },
      {
        id: "cuda:1",
        kind: "cuda",
        name: "emulated 1",
        computeCapability: "8.0",
        multiprocessors: 2,
        memoryBytes: 2 ** 26,
        cacheBytes: 2 ** 12,
      },
    ],
  }
  t.same(answer(module), expected)
  t.same(answer(module), expected, "again")
  t.match(answer(relative(process.cwd(), module)), { available: true })
  const worker = new Worker(
    `const { parentPort, workerData } = require("node:worker_threads")
     const native = require("node-gyp-build")(workerData.root)
     parentPort.postMessage(native.cuda(workerData.module).devices.length)`,
    { eval: true, workerData: { root: fileURLToPath(new URL("../../..", import.meta.url)), module } },
  )
  t.same(await once(worker, "message"), [2], "in a worker thread too")
})

t.test("without TSQ_CUDA_MODULE the module beside the addon answers, or what is missing is said", { skip }, async t => {
  const beside = fileURLToPath(new URL("../../../build/Release/libtsq_cuda.so", import.meta.url))
  const found = native.cuda(null)
  t.equal(found.module, existsSync(beside) ? beside : null)
  t.equal(found.devices.length === 0, found.reason !== "", found.reason)
  t.same(answer("").devices.length, found.devices.length, "an empty variable is none")
})

t.test("arguments that are no path", async t => {
  for (const module of [1, {}, "a\0b", Symbol("x")])
    t.throws(() => native.cuda(module as string), { constructor: TsqError, code: "ERR_OPTION" })
})

/** `tsq devices` and an import, in processes of their own. */
async function run(args: string[], env: Record<string, string>): Promise<string> {
  const child = spawn(process.execPath, ["--import", "tsx", ...args], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  })
  let text = ""
  child.stdout.on("data", chunk => {
    text += chunk
  })
  const [code] = (await once(child, "close")) as [number | null]
  t.equal(code, 0, args.join(" "))
  return text
}

t.test("tsq devices", { skip }, async t => {
  const main = fileURLToPath(new URL("../../../lib/cli/main.ts", import.meta.url))
  const module = builtModule("emulated")
  t.match(
    await run([main, "devices"], { TSQ_CUDA_MODULE: module, TSQ_EMULATED_DEVICES: "1" }),
    /^cpu .*\n.*kernels .*\ncuda:0 {2}emulated 0, compute capability 9\.0, 67\.1 MB\n$/,
  )
  t.match(
    await run([main, "devices"], { TSQ_CUDA_MODULE: module, TSQ_EMULATED_DEVICES: "0" }),
    /\ncuda not available: the NVIDIA driver finds no device \(is CUDA_VISIBLE_DEVICES set\?\)\n$/,
  )
  t.match(await run([main, "devices"], { TSQ_CUDA_MODULE: "/nowhere.so" }), /\ncuda not available: TSQ_CUDA_MODULE: /)
})

t.test("an import opens no module", { skip }, async t => {
  const index = new URL("../../../lib/index.ts", import.meta.url).href
  const script = `
    const { readFileSync } = await import("node:fs")
    const open = () => readFileSync("/proc/self/maps", "utf8").includes("libtsq_cuda")
    const tsq = await import(${JSON.stringify(index)})
    const before = open()
    tsq.devices()
    console.log(JSON.stringify([before, open()]))`
  const text = await run(["--input-type=module", "-e", script], { TSQ_CUDA_MODULE: builtModule("emulated") })
  t.same(JSON.parse(text), [false, true])
})
