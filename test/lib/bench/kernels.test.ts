// The kernel benchmark end to end on tiny shapes: every field, finite figures, sound results; never how fast.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import t from "tap"
import { kernelPage } from "../../../lib/bench/kernel-page.ts"
import { kernelText } from "../../../lib/bench/kernel-table.ts"
import { benchKernels } from "../../../lib/bench/kernels.ts"
import type { Progress } from "../../../lib/core/progress.ts"
import { native } from "../../../lib/native.ts"

const quick = { rounds: 2, seconds: 0.004, copiesBytes: 2 ** 16 }
const isa = native.cpu().kernels

t.test("our own backends", async t => {
  const before = { threads: native.threads(), kernels: isa }
  const progress: Progress[] = []
  const report = await benchKernels({
    ...quick,
    ...{ shapes: ["64x128"], m: [1, 3, 17], threads: [1, 2], dtypes: ["f32", "f16", "bf16"] },
    isa: [...new Set(["reference", isa])],
    backends: ["tsq", "tsq-unfused", "tsq-f32", "tsq-f16", "tsq-bf16"],
    onProgress: step => progress.push(step),
  })
  t.strictSame({ threads: native.threads(), kernels: native.cpu().kernels }, before, "settings are put back")
  t.strictSame(
    progress.map(({ done, total }) => [done, total]),
    [0, 1, 2, 3, 4, 5].map(done => [done, 6]),
  )
  t.strictSame(report.unavailable, [])
  const isas = report.options.isa.length
  t.equal(report.results.length, 2 * 3 * (3 + 1 + 3) * isas)
  t.equal(report.roofs.length, 6)
  for (const result of report.results) {
    t.match(result, {
      ...{ backend: /^tsq/, kernel: String, isa: String, activations: "exact", dtype: /^(f32|f16|bf16)$/ },
      ...{ n: 128, k: 64, rounds: 2 },
    })
    for (const [name, value] of Object.entries(result))
      if (typeof value === "number") t.ok(Number.isFinite(value) && value > 0, `${result.backend} ${name}: ${value}`)
    t.ok(result.minMs <= result.medianMs && result.medianMs <= result.maxMs)
    const bound = { f32: 2e-6, f16: 6e-4, bf16: 4e-3 }[result.dtype]
    t.ok(result.relL2 <= bound, `${result.backend} ${result.dtype} m ${result.m}: error ${result.relL2}`)
    t.ok(Math.abs(result.gflops * result.medianMs * 1e6 - 2 * result.m * 128 * 64) < 1)
  }
  const one = report.results.find(({ backend, m, isa }) => backend === "tsq" && m === 1 && isa !== "reference")
  if (one) t.ok(one.copies >= 8, `${one.copies} copies of ${one.weightBytes} bytes make ${quick.copiesBytes}`)
})

t.test("a model's shapes make tokens per second", async t => {
  // One layer's shapes of the smallest model are too large for a test: the sums are checked on made-up results.
  const { modelResults, overShapes } = await import("../../../lib/bench/kernel-results.ts")
  const { linearShapes, modelShape } = await import("../../../lib/bench/shapes.ts")
  const model = modelShape("llama-3.2-1b")
  const label = { kernel: "", isa: "x", dtype: "f32", bits: 4, groupSize: 128 } as const
  const results = linearShapes(model).flatMap(({ k, n }, index) =>
    [
      { ...label, backend: "tsq", activations: "exact", medianMs: 1 } as const,
      { ...label, backend: "ort-acc4-b128", activations: "int8", medianMs: 2 ** index } as const,
    ].map(each => ({ ...each, k, n, m: 4, threads: 2, gflops: 1, percentOfRoof: 50 })),
  ) as never[]
  const [own, peer] = modelResults([model], results)
  t.match(own, { backend: "tsq", model: "llama-3.2-1b", m: 4, ms: 113 })
  t.ok(Math.abs(own!.tokensPerSecond - 4000 / 113) < 1e-9)
  t.ok(Math.abs(own!.tokensPerSecondWithoutHead - 4000 / 112) < 1e-9)
  t.equal(peer!.ms, 32 + 64 + 128 + 128 + 16)
  t.strictSame(modelResults([model], results.slice(0, 4)), [], "not without all shapes")
  const [over] = overShapes(results)
  t.match(over, { backend: "tsq", shapes: 5, timesExactPeer: null })
  t.ok(Math.abs(over!.percentOfRoof - 50) < 1e-9)
  t.ok(Math.abs(over!.timesInt8Peer! - 4) < 1e-9)
})

t.test("a machine that does something else is noticed", async t => {
  const { busyCells } = await import("../../../lib/bench/kernel-results.ts")
  const cell = (threads: number, median: number) =>
    ({
      threads,
      peaks: [{ instruction: "fma-ymm", gops: { median, min: median / 2, max: median * 1.01, count: 3 } }],
    }) as never
  t.equal(busyCells([cell(1, 100), cell(1, 90), cell(2, 200), cell(2, 190)]), 0)
  t.equal(busyCells([cell(1, 100), cell(1, 70), cell(2, 200), cell(2, 120)]), 2)
  t.equal(busyCells([]), 0)
})

// Multiplies like MatMulNBits would, from the bytes of the model: a stand-in for onnxruntime-node.
const protobuf = fileURLToPath(new URL("../containers/protobuf-fields.ts", import.meta.url))
const fakeOrt = `
import { fields, message, messages, numbers, texts } from ${JSON.stringify(protobuf)}
export class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }) } }
export const InferenceSession = {
  async create(model, options) {
    if (options.intraOpNumThreads < 1) throw new Error("threads")
    const graph = message(model, 7)
    const attributes = Object.fromEntries(messages(messages(graph, 1)[0], 5).map(a => [texts(a, 1)[0], numbers(a, 3)[0]]))
    const { K, N, block_size: block } = attributes
    const tensors = Object.fromEntries(messages(graph, 5).map(t => [texts(t, 8)[0], message(t, 9)]))
    const outputs = messages(graph, 12).map(o => texts(o, 1)[0])
    return {
      async run({ x }, fetches) {
        const rows = x.data.length / K
        for (const output of outputs) {
          const [w, s] = [tensors[output.replace("y", "w")], new Float32Array(tensors[output.replace("y", "s")].slice().buffer)]
          const blocks = Math.ceil(K / block)
          for (let m = 0; m < rows; m++) for (let n = 0; n < N; n++) {
            let sum = 0
            for (let k = 0; k < K; k++) {
              const byte = w[n * blocks * block / 2 + (k >> 1)]
              sum += x.data[m * K + k] * s[n * blocks + Math.floor(k / block)] * ((k % 2 ? byte >> 4 : byte & 15) - 8)
            }
            fetches[output].data[m * N + n] = sum
          }
        }
      },
      async release() {},
    }
  },
}
`

t.test("a peer takes part: its model, its results, its marks", async t => {
  const peers = t.testdir({
    node_modules: {
      "onnxruntime-node": {
        "package.json": JSON.stringify({ version: "0.0.1", main: "main.mjs" }),
        "main.mjs": fakeOrt,
      },
    },
  })
  const report = await benchKernels({
    ...quick,
    ...{ shapes: ["40x24", "32x16"], m: [1, 2], threads: [2], dtypes: ["f32"], peers },
    backends: ["tsq", "ort"],
  })
  t.strictSame(report.unavailable, [])
  t.match(report.peers, [{ name: "onnxruntime-node", version: "0.0.1", callOverheadUs: Number }])
  t.equal(report.results.length, 2 * 2 * 5)
  const ort = report.results.filter(result => result.backend.startsWith("ort-"))
  for (const result of ort) {
    t.equal(result.activations, result.backend.includes("acc4") ? "int8" : "exact")
    t.equal(result.groupSize, Number(result.backend.slice("ort-acc0-b".length)))
    t.ok(result.relL2 < 1e-6, `${result.backend}: ${result.relL2}`)
  }
  for (const { backend, timesExactPeer } of report.summary.filter(each => each.backend === "tsq"))
    t.ok(timesExactPeer! > 0, backend)

  const text = kernelText(report)
  t.match(text, /^40×24, 2 threads$/m)
  t.match(text, /^ort-acc4-b128 \[int8\] +1 /m)
  t.match(text, /^ort-acc0-b128 +1 /m)
  t.match(text, /onnxruntime-node 0\.0\.1 \(a call from JavaScript costs/)
  const page = kernelPage(report)
  t.match(page, /<svg .*Roofline, 2 threads/s)
  t.match(page, "Speed over all shapes")
  t.notMatch(page, /NaN|Infinity|undefined/)
  t.notMatch(page, /<(script|link|img)|url\(|@import/, "the page needs nothing beside itself")
})

t.test("what cannot take part is reported", async t => {
  const peers = t.testdir({
    node_modules: {
      "onnxruntime-node": {
        "package.json": JSON.stringify({ version: "0.0.1", main: "main.cjs" }),
        "main.cjs": "throw new Error('not for this machine')",
      },
    },
  })
  const notes: string[] = []
  const onNote = (text: string) => notes.push(text)
  const some = { ...quick, shapes: ["64x32"], m: [1], threads: [1], dtypes: ["f32"] }
  const report = await benchKernels({ ...some, peers, onNote, backends: ["tsq", "ort-acc0-b32", "ort-acc4-b128"] })
  t.match(report.unavailable, [
    { backend: "ort-acc0-b32", reason: /not for this machine/ },
    { backend: "ort-acc4-b128", reason: /not for this machine/ },
  ])
  t.strictSame(report.peers, [])
  t.equal(report.results.length, 1)
  t.equal(notes.length, 1, "one line for both")
  t.match(notes[0], /^not measured: ort-acc0-b32, ort-acc4-b128: onnxruntime-node 0\.0\.1 does not load/)
  t.match(kernelText(report), /ort-acc4-b128 was not measured/)
  t.match(kernelPage(report), /ort-acc4-b128 was not measured/)

  const three = await benchKernels({ ...some, bits: 3, onNote, backends: ["tsq", "tsq-unfused"] })
  t.match(three.unavailable, [{ backend: "tsq-unfused", reason: /2, 4 or 8 bits/ }])
  t.equal(three.results.length, 1)
})

t.test("int8 activations are measured and marked, or reported", async t => {
  const report = await benchKernels({
    ...quick,
    ...{ shapes: ["256x64"], m: [1, 8], threads: [1], dtypes: ["f32"], backends: ["tsq", "tsq-int8"], groupSize: 64 },
    onNote: () => {},
  })
  const int8 = report.results.filter(result => result.backend === "tsq-int8")
  if (report.unavailable.length > 0) t.match(report.unavailable, [{ backend: "tsq-int8", reason: String }])
  else t.equal(int8.length, 2)
  for (const result of int8) {
    t.equal(result.activations, "int8")
    t.ok(result.relL2 > 1e-4 && result.relL2 < 2e-2, `error ${result.relL2}`)
  }
})

t.test("schemes that round activations are measured beside their own weights", async t => {
  const report = await benchKernels({
    ...quick,
    ...{ shapes: ["256x96"], m: [1, 20], threads: [2], isa: [...new Set(["reference", isa])], dtypes: ["bf16"] },
    backends: ["tsq-w8a8", "tsq-fp8", "tsq-llm.int8"],
  })
  t.strictSame(report.unavailable, [])
  t.equal(report.results.length, 3 * 2 * report.options.isa.length)
  for (const { backend, m, relL2 } of report.results) {
    const bound = backend === "tsq-fp8" ? 0.05 : 0.02
    t.ok(relL2 > 0 && relL2 < bound, `${backend}, m ${m}: ${relL2}`)
  }
})

t.test("refusals", async t => {
  for (const [options, code, message] of [
    [{ shapes: ["64"] }, "ERR_OPTION", /expected K×N/],
    [{ shapes: ["lama-3-8b"] }, "ERR_OPTION", /did you mean "llama-3-8b"/],
    [{ backends: ["tsq-int4"] }, "ERR_OPTION", /did you mean "tsq-int8"/],
    [{ backends: [] }, "ERR_OPTION", /no backend is left/],
    [{ backends: ["tsq"], activations: "int8" }, "ERR_OPTION", /no backend is left/],
    [{ m: [0] }, "ERR_OPTION", /"m" holds 0/],
    [{ m: [1.5] }, "ERR_OPTION", /"m" holds 1\.5/],
    [{ m: [] }, "ERR_OPTION", /"m" is an array of 0/],
    [{ threads: [257] }, "ERR_OPTION", /"threads" holds 257/],
    [{ isa: ["mmx"] }, "ERR_UNSUPPORTED", /isa "mmx" does not run on this machine/],
    [{ dtypes: ["f64"] }, "ERR_OPTION", /dtype "f64"/],
    [{ bits: 9 }, "ERR_OPTION", /"bits" is 9/],
    [{ rounds: 0 }, "ERR_OPTION", /"rounds" is 0/],
    [{ seconds: 0 }, "ERR_OPTION", /"seconds" is 0/],
    [{ shape: ["64x64"] }, "ERR_OPTION", /unknown option "shape"; did you mean "shapes"/],
    [{ peers: "/no/such/folder", backends: ["ort"] }, "ERR_IO", /no folder \/no\/such\/folder/],
  ] as const)
    await t.rejects(benchKernels(options as never), { code, message }, JSON.stringify(options))
  const controller = new AbortController()
  controller.abort()
  await t.rejects(benchKernels({ ...quick, shapes: ["64x64"], backends: ["tsq"], signal: controller.signal }), {
    code: "ERR_ABORTED",
  })
})

t.test("the versions of the peers are exact", async t => {
  const folder = fileURLToPath(new URL("../../../bench/peers", import.meta.url))
  const { dependencies } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"))
  t.strictSame(Object.keys(dependencies).sort(), ["node-llama-cpp", "onnxruntime-node"])
  for (const version of Object.values(dependencies)) t.match(version, /^\d+\.\d+\.\d+$/)
})
