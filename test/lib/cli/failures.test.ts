// How `tsq` fails: usage errors, later flags and commands, interrupts, readers that go away, disks that are full.
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import t from "tap"
import { fable, fableCalibration, folder, hashes } from "../quantize/support.ts"
import { inProcess, start, tsq } from "./support.ts"

const oneLine = (text: string) => text.split("\n").length === 2 && text.endsWith("\n")

t.test("usage errors end with 2", async t => {
  const out = join(folder(t), "out")
  for (const args of [
    [],
    ["quantise"],
    ["quantize"],
    ["quantize", fable],
    ["quantize", fable, out, "--bits", "4"],
    ["quantize", fable, out, "--group-size", "-3"],
    ["quantize", fable, out, "--seed", "x"],
    ["quantize", fable, out, "--max-memory", "much"],
    ["evaluate", fable],
    ["evaluate", fable, "--text", "x", "--protocol", "mine"],
    ["generate", fable],
    ["generate", fable, "--prompt", "a", "--temperature", "warm"],
    ["convert", fable, out],
    ["inspect", fable, "--context", "0"],
    ["devices", "extra"],
  ]) {
    const { code, stdout, stderr } = await inProcess(...args)
    t.equal(code, 2, `tsq ${args.slice(0, 1)} ${args.slice(2).join(" ")}: ${stderr.split("\n")[0]}`)
    t.equal(stdout, "")
  }
  t.match((await inProcess("quantise")).stderr, /Did you mean quantize/)
  t.equal((await tsq("quantise")).code, 2)
})

t.test("failures end with 1 and one line: code, what, what to do", async t => {
  const parent = folder(t)
  const out = join(parent, "out")
  const empty = join(parent, "empty.txt")
  const binary = join(parent, "binary.txt")
  writeFileSync(empty, "\n")
  writeFileSync(binary, Buffer.from([0xff, 0xfe, 0x00, 0x01]))
  for (const [args, message] of [
    [["quantize", join(parent, "absent"), out], /^ERR_IO: .*no such folder/],
    [["quantize", fable, out, "--group-size", "1000"], /^ERR_OPTION: .*larger than k = 256/],
    [["quantize", fable, out, "--preset", "gptq"], /^ERR_OPTION: .*needs calibration/],
    [["quantize", fable, out, "--calibration", empty], /^ERR_OPTION: .*is empty/],
    [["quantize", fable, out, "--calibration", binary], /^ERR_OPTION: .*is not UTF-8 text/],
    [["quantize", fable, out, "--calibration", join(parent, "absent")], /^ERR_IO: .*--calibration/],
    [["quantize", fable, out, "--override", "q_proj"], /^ERR_OPTION: .*expected pattern=scheme/],
    [["quantize", fable, out, "--max-memory", "1MB"], /^ERR_MEMORY: /],
    [["quantize", fable, out, "--kv-cache", "int8"], /^ERR_OPTION: .*expected "fp8"/],
    [["quantize", fable, out, "--kv-cache", "fp8"], /^ERR_OPTION: .*kvCache "fp8" needs calibration/],
    [["quantize", fable, out, "--kv-cache", "fp8", "--format", "gptq"], /^ERR_OPTION: .*no place for scales/],
    [["evaluate", fable, "--text", empty], /^ERR_OPTION: .*is empty/],
    [["convert", fable, out, "--format", "awq"], /^ERR_FORMAT: .*is not quantized/],
    [["convert", fable, out, "--format", "gguf"], /^ERR_OPTION: .*called \.gguf/],
    [["inspect", join(parent, "absent")], /^ERR_IO: /],
  ] as const) {
    const { code, stdout, stderr } = await inProcess(...args)
    t.match({ code, stdout }, { code: 1, stdout: "" })
    t.match(stderr, message)
    t.ok(oneLine(stderr), stderr)
  }
  t.match(await tsq("inspect", join(parent, "absent")), { code: 1, stdout: "", stderr: /^ERR_IO: .*\n$/ })
  t.strictSame(readdirSync(parent).sort(), [basename(binary), basename(empty)])
})

t.test("a device that is not there is ERR_DEVICE", async t => {
  const parent = folder(t)
  const kept = process.env.TSQ_CUDA_MODULE
  process.env.TSQ_CUDA_MODULE = join(parent, "none.so")
  t.teardown(() => {
    if (kept === undefined) delete process.env.TSQ_CUDA_MODULE
    else process.env.TSQ_CUDA_MODULE = kept
  })
  for (const device of ["cuda", "cuda:3", "gpu"]) {
    const { code, stdout, stderr } = await inProcess("quantize", fable, join(parent, "out"), "--device", device)
    t.match({ code, stdout }, { code: 1, stdout: "" })
    t.match(stderr, /^(plan|.*\n)*ERR_DEVICE: quantizeModel: device "(cuda:0|cuda:3|gpu)" is not available/m)
  }
  t.strictSame(readdirSync(parent), [])
})

t.test("what later versions bring is ERR_UNSUPPORTED", async t => {
  const parent = folder(t)
  for (const args of [
    ["serve", fable, "--port", "1234"],
    ["quantize", fable, join(parent, "out.gguf"), "--preset", "q4_k_m", "--scheme", "w4a16"],
    ["generate", fable, "--prompt", "a", "--device", "cuda"],
  ]) {
    const { code, stdout, stderr } = await inProcess(...args)
    t.match({ code, stdout }, { code: 1, stdout: "" }, args.join(" "))
    t.match(stderr, /^ERR_UNSUPPORTED: /)
    t.ok(oneLine(stderr), stderr)
  }
  t.strictSame(readdirSync(parent), [])
})

t.test("Ctrl-C leaves finished blocks, --resume goes on with them", async t => {
  const parent = folder(t)
  const out = join(parent, "out")
  const args = ["quantize", fable, out, "--calibration", fableCalibration, "--samples", "16", "--threads", "1"]
  const { child, finished } = start(args)
  const store = `${out}.tsq-resume`
  const watch = setInterval(() => {
    if (!existsSync(store) || !readdirSync(store).some(name => name.endsWith(".safetensors"))) return
    clearInterval(watch)
    child.kill("SIGINT")
  }, 5)
  const { code, stderr } = await finished
  clearInterval(watch)
  t.equal(code, 1)
  t.match(stderr, /interrupted; --resume continues with the finished blocks in .*out\.tsq-resume\nERR_ABORTED: /)
  t.strictSame(readdirSync(parent), ["out.tsq-resume"])
  const resumed = await tsq(...args, "--resume")
  t.equal(resumed.code, 0, resumed.stderr)
  t.match(resumed.stderr, /^resume \d+\/42/m)
  t.strictSame(readdirSync(parent), ["out"])
})

t.test("a reader that goes away is no error", async t => {
  const { code, stderr } = await start(
    ["inspect", fable],
    ["bash", "-o", "pipefail", "-c", '"$@" | head -c 1 > /dev/null', "bash"],
  ).finished
  t.match({ code, stderr }, { code: 0, stderr: "" })
})

t.test(
  "a file that may not grow leaves source and earlier output alone",
  { skip: process.platform === "win32" ? "Windows has no ulimit" : false },
  async t => {
    const parent = folder(t)
    const out = join(parent, "out")
    t.equal((await tsq("quantize", fable, out, "--scheme", "w8a16")).code, 0)
    const before = hashes(out)
    // Without the test runner's hooks: they handle the signal that Node ignores.
    const limited = ["bash", "-c", 'unset NODE_OPTIONS; ulimit -f 500; exec "$@"', "bash"]
    const { code, stderr } = await start(["quantize", fable, out, "--force"], limited).finished
    t.equal(code, 1)
    t.match(stderr, /^ERR_IO: .*(does not hold files of this size|disk is full).*$/m)
    t.strictSame(hashes(out), before)
    t.strictSame(
      readdirSync(parent).filter(name => !name.endsWith(".tsq-resume")),
      ["out"],
    )
    t.ok(readFileSync(join(fable, "model.safetensors")).length > 10e6)
  },
)
