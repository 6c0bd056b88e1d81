import t from "tap"
import { devices, setThreads } from "../../../lib/core/machine.ts"
import { native } from "../../../lib/native.ts"

t.test("devices", async t => {
  const report = devices()
  const [cpu, ...others] = report.devices
  t.equal(cpu.id, "cpu")
  t.equal(cpu.kind, "cpu")
  t.ok(cpu.name.length > 0)
  t.equal(cpu.supported[0], "reference")
  t.ok(cpu.supported.includes(cpu.kernels))
  t.ok(cpu.threads >= 1)
  t.ok(cpu.memoryBytes > 1e8)
  t.equal(report.cuda.available, others.length > 0)
  if (!report.cuda.available) t.match(report.cuda.reason, /NVIDIA driver|CUDA/)
  t.same(JSON.parse(JSON.stringify(report)), report, "plain data, as the command line prints it")
})

t.test("setThreads", async t => {
  const before = native.threads()
  t.teardown(() => setThreads(before))
  setThreads(3)
  t.equal(devices().devices[0].threads, 3)
  for (const threads of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 257, "2", null, undefined])
    t.throws(() => setThreads(threads as number), {
      code: "ERR_OPTION",
      message: /^setThreads: threads is .*, expected an integer from 1 to 256$/,
    })
  t.equal(native.threads(), 3)
})
