// `tsq bench`: flags, refusals, what it prints and writes.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { builtModule, skip } from "../cuda/support.ts"
import { inProcess, onlyJson, tsq } from "./support.ts"

const tiny = [
  ...["--shapes", "64x128", "--m", "1,3", "--threads", "1", "--backends", "tsq,tsq-unfused"],
  ...["--rounds", "2", "--seconds", "0.004", "--copies-bytes", "64KiB"],
]

t.test("kernels --json --html", async t => {
  const html = join(t.testdir(), "kernels.html")
  const result = await tsq("bench", "kernels", ...tiny, "--dtype", "f32,bf16", "--html", html, "--json")
  t.equal(result.code, 0, result.stderr)
  const report = onlyJson(result)
  t.match(report, {
    machine: { cpu: String, node: process.version },
    readGBps: Number,
    models: [],
    unavailable: [],
    options: { shapes: ["64x128"], m: [1, 3], threads: [1], dtypes: ["f32", "bf16"], copiesBytes: 65536 },
  })
  const results = report.results as Record<string, unknown>[]
  t.equal(results.length, 6)
  for (const row of results)
    t.match(row, {
      ...{ backend: /^tsq(-unfused)?$/, kernel: String, isa: String, activations: "exact" },
      ...{ m: Number, n: 128, k: 64, bits: 4, groupSize: 64, threads: 1 },
      ...{ medianMs: Number, minMs: Number, maxMs: Number, gflops: Number, weightGBps: Number },
      ...{ percentOfRoof: Number, relL2: Number, tokensPerSecond: Number },
    })
  t.match(result.stderr, /wrote .*kernels\.html\n/)
  t.match(readFileSync(html, "utf8"), /^<!doctype html>.*<svg.*<\/html>\n$/s)
})

t.test("kernels as text", async t => {
  const { code, stdout, stderr } = await inProcess("bench", "kernels", ...tiny, "--dtype", "f16")
  t.equal(code, 0, stderr)
  t.match(stdout, /^64×128, 1 thread\nbackend +m +ms/m)
  t.match(stdout, /^tsq f16 +1 /m)
  t.match(stdout, /^tsq-unfused f16 +3 /m)
})

t.test("refusals: usage is 2, everything else 1", async t => {
  process.env.TSQ_CUDA_MODULE = "/nowhere.so"
  t.teardown(() => delete process.env.TSQ_CUDA_MODULE)
  for (const [flags, code, message] of [
    [["--m", "0"], 2, /--m/],
    [["--m", "1,,2"], 2, /separated by commas/],
    [["--threads", "two"], 2, /--threads/],
    [["--seconds", "soon"], 2, /--seconds/],
    [["--activations", "int4"], 2, /--activations/],
    [["--copies-bytes", "much"], 2, /--copies-bytes/],
    [["--frobnicate"], 2, /--frobnicate/],
    [["--shapes", "12y34"], 1, /^ERR_OPTION: .*12y34/],
    [["--shapes", "llama-9"], 1, /^ERR_OPTION: .*llama-9/],
    [["--backends", "tsk"], 1, /^ERR_OPTION: .*did you mean "tsq"/],
    [["--isa", "mmx"], 1, /^ERR_UNSUPPORTED: .*mmx/],
    [["--device", "gpu"], 1, /^ERR_DEVICE: .*"gpu" is not available/],
    [["--device", "cuda"], 1, /^ERR_DEVICE: .*"cuda:0" is not available: TSQ_CUDA_MODULE: /],
    [["--device", "cuda", "--threads", "2"], 1, /^ERR_OPTION: --threads is for the CPU/],
    [["--peers", "/no/such/folder"], 1, /^ERR_IO: .*\/no\/such\/folder/],
    [[...tiny, "--html", "/no/such/folder/x.html"], 1, /ERR_IO: cannot write/],
  ] as const) {
    const result = await inProcess("bench", "kernels", ...flags)
    t.match({ code: result.code, stdout: result.stdout }, { code, stdout: "" }, flags.join(" "))
    t.match(result.stderr, message)
  }
  t.match((await inProcess("bench")).code, 2)
  const help = await inProcess("bench", "kernels", "--help")
  t.equal(help.code, 0)
  for (const flag of ["--shapes", "--isa", "--peers", "--html"]) t.match(help.stdout, flag)
})

t.test("on a CUDA device: JSON, a table and a page", { skip }, async t => {
  process.env.TSQ_CUDA_MODULE = builtModule("emulated")
  t.teardown(() => delete process.env.TSQ_CUDA_MODULE)
  const html = `${t.testdir()}/device.html`
  // The bandwidth is read over a quarter of the memory, which the emulation takes its time for.
  process.env.TSQ_EMULATED_MEMORY = String(1 << 20)
  t.teardown(() => delete process.env.TSQ_EMULATED_MEMORY)
  const flags = ["bench", "kernels", "--device", "cuda", "--shapes", "64x96", "--m", "1,3", "--group", "32"]
  const more = ["--rounds", "2", "--dtype", "f16", "--backends", "tsq-w4a16,tsq-unfused"]
  const json = await inProcess(...flags, ...more, "--json", "--html", html)
  t.equal(json.code, 0, json.stderr)
  const report = JSON.parse(json.stdout)
  t.match(report, { device: { id: "cuda:0" }, unavailable: [], options: { rounds: 2, groupSize: 32, m: [1, 3] } })
  t.equal(report.results.length, 4)
  t.match(readFileSync(html, "utf8"), /<h1>Kernel benchmark on a CUDA device<\/h1>/)
  const text = await inProcess(...flags, ...more)
  t.equal(text.code, 0)
  t.match(text.stdout, /^tsq-w4a16 f16 +3 /m)
})
