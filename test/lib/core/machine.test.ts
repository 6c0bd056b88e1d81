import t from "tap"
import { devices, setThreads } from "../../../lib/core/machine.ts"
import { native } from "../../../lib/native.ts"

t.test("devices", async t => {
  const report = devices()
  t.equal(report.devices.length, 1)
  const cpu = report.devices[0]!
  t.equal(cpu.id, "cpu")
  t.equal(cpu.kind, "cpu")
  t.ok(cpu.name.length > 0)
  t.equal(cpu.supported[0], "reference")
  t.ok(cpu.supported.includes(cpu.kernels))
  t.ok(cpu.threads >= 1)
  t.ok(cpu.memoryBytes > 1e8)
  t.equal(report.cuda.available, false)
  t.match(report.cuda.reason, /this build has no CUDA module/)
  t.same(JSON.parse(JSON.stringify(report)), report, "plain data, as the command line prints it")
})

t.test("setThreads", async t => {
  const before = native.threads()
  t.teardown(() => setThreads(before))
  setThreads(3)
  t.equal(devices().devices[0]!.threads, 3)
  for (const threads of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 257, "2", null, undefined])
    t.throws(() => setThreads(threads as number), {
      code: "ERR_OPTION",
      message: /^setThreads: threads is .*, expected an integer from 1 to 256$/,
    })
  t.equal(native.threads(), 3)
})
