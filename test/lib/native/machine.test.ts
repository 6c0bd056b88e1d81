import t from "tap"
import { native } from "../../../lib/native.ts"
import { refused } from "./helpers.ts"

t.test("cpu describes the machine", async t => {
  const info = native.cpu()
  t.equal(info.supported[0], "reference")
  t.ok(info.supported.includes(info.kernels))
  t.ok(Array.isArray(info.features))
  t.equal(info.threads, native.threads())
  t.ok(info.threads >= 1)
})

t.test("every supported kernel table can be selected", async t => {
  const chosen = native.cpu().kernels
  for (const name of native.cpu().supported) {
    native.selectKernels(name)
    t.equal(native.cpu().kernels, name)
  }
  native.selectKernels(null)
  t.equal(native.cpu().kernels, chosen)
  await refused(t, () => native.selectKernels("mmx"), "ERR_UNSUPPORTED", /mmx/)
  await refused(t, () => native.selectKernels("avx2\0"), "ERR_OPTION", /NUL/)
  await refused(t, () => native.selectKernels(3 as never), "ERR_OPTION", /name is 3, expected a string/)
})

t.test("threads", async t => {
  const threads = native.threads()
  t.teardown(() => native.setThreads(threads))
  native.setThreads(3)
  t.equal(native.threads(), 3)
  for (const bad of [0, -1, 257, 1.5, Number.NaN, Number.POSITIVE_INFINITY, "2", null, undefined])
    await refused(
      t,
      () => native.setThreads(bad as number),
      "ERR_OPTION",
      /threads is .*expected an integer from 1 to 256/,
    )
  t.equal(native.threads(), 3)
})

t.test("registerError takes a class", async t => {
  for (const bad of [undefined, null, {}, "TsqError"])
    await refused(t, () => native.registerError(bad as never), "ERR_OPTION", /registerError/)
})
