// What rounding costs: the parts of GPTQ on one weight, beside the f32 peak of the same run, and the wall time of every rounding.
// `npx tsx bench/rounding.ts [k] [n] [rows]`; defaults: a weight of 2048² and 128 × 512 calibration rows.

import { bestUnits, RoofProbe } from "../lib/bench/roofs.ts"
import { median } from "../lib/bench/statistics.ts"
import { sharedFloats } from "../lib/core/shared-array.ts"
import { Accumulator } from "../lib/models/accumulator.ts"
import { native } from "../lib/native.ts"
import { gridOf, roundedArrays } from "../lib/rounding/arrays.ts"
import { scaleSearch } from "../lib/rounding/mse.ts"
import { roundingByName, roundingNames } from "../lib/rounding/registry.ts"

const [k = 2048, n = k, rows = 128 * 512] = process.argv.slice(2).map(Number)
const rounds = 3
const scheme = { bits: 4, symmetric: true, granularity: "group", groupSize: 128, scaleType: "f16" } as const

let state = 1
const normal = () => {
  let sum = 0
  for (let i = 0; i < 4; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    sum += state / 2 ** 32
  }
  return (sum - 2) * 1.73
}
/** Rows that share eight directions, with columns of different size. */
function inputs(count: number): Float32Array {
  const directions = Float32Array.from({ length: 8 * k }, normal)
  const size = Float32Array.from({ length: k }, () => Math.exp(normal()))
  const x = sharedFloats(count * k)
  for (let row = 0; row < count; row++) {
    const mix = Float32Array.from({ length: 8 }, normal)
    for (let j = 0; j < k; j++) {
      let value = normal()
      for (let d = 0; d < 8; d++) value += mix[d]! * directions[d * k + j]!
      x[row * k + j] = size[j]! * value
    }
  }
  return x
}

const weight = sharedFloats(n * k)
for (let i = 0; i < weight.length; i++) weight[i] = 0.02 * normal()
const chunk = inputs(Math.min(rows, 2048))

const unit = bestUnits("exact")[0]
if (!unit) throw new Error("the f32 peak of this processor cannot be measured")
const probe = await RoofProbe.create({ bytes: 2 ** 20, readBytes: 2 ** 20, peakMs: 200 })
const peak = () => probe.peak(unit.instruction)

const timed = async (work: () => Promise<unknown>): Promise<number> => {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}

const samples: Record<string, number[]> = {}
const note = (name: string, value: number) => {
  samples[name] ??= []
  samples[name].push(value)
}
let hessian = new Accumulator("hessian", k)
for (let round = 0; round < rounds; round++) {
  hessian.dispose()
  hessian = new Accumulator("hessian", k)
  note("peak", peak())
  note(
    "product",
    await timed(async () => {
      for (let done = 0; done < rows; done += chunk.length / k)
        await hessian.add(chunk, Math.min(chunk.length / k, rows - done))
    }),
  )
  const options = { grid: gridOf(scheme), clip: null, damp: 0.01, dampStep: 0.01, block: 128, order: 1 } as const
  const gptq = (search: boolean) =>
    native.gptq(
      weight,
      n,
      k,
      hessian.handle.value,
      { ...options, search: search ? scaleSearch(null, true) : null },
      roundedArrays(n, k, scheme),
      null,
      null,
    )
  const plain = await gptq(false)
  const start = performance.now()
  const searched = await gptq(true)
  const whole = (performance.now() - start) / 1000
  note("factor", searched.factorSeconds)
  note("columns", plain.columnSeconds)
  note("search", searched.columnSeconds - plain.columnSeconds)
  note("compare", searched.compareSeconds)
  note("rest", whole - searched.factorSeconds - searched.columnSeconds - searched.compareSeconds)
  note("peak", peak())
}

const of = (name: string) => median(samples[name]!)
const threads = native.threads()
const peakGflops = of("peak")
const parts = [
  ["Hessian product", "product", rows * k * k],
  ["inverse factor", "factor", null],
  ["column loop", "columns", n * k * k],
  ["scale search", "search", null],
  ["comparison with nearest", "compare", null],
  ["rest", "rest", null],
] as const
const total = parts.reduce((sum, [, name]) => sum + of(name), 0)
console.log(
  `GPTQ of [${n}, ${k}], ${rows} calibration rows, 4 bits in groups of ${scheme.groupSize}, ${threads} threads, ${native.cpu().kernels}; ` +
    `f32 peak (${unit.instruction}) ${peakGflops.toFixed(0)} GFLOP/s; medians of ${rounds}\n`,
)
console.log("| part | seconds | share | GFLOP/s | of peak |\n|---|---|---|---|---|")
for (const [title, name, flops] of parts) {
  const rate = flops === null ? null : flops / of(name) / 1e9
  console.log(
    `| ${title} | ${of(name).toFixed(3)} | ${((100 * of(name)) / total).toFixed(1)} % | ${rate === null ? "" : rate.toFixed(0)} | ${rate === null ? "" : `${((100 * rate) / peakGflops).toFixed(0)} %`} |`,
  )
}
console.log(`| all | ${total.toFixed(3)} | | | |\n`)

console.log("| rounding | seconds | output error, nearest = 1 |\n|---|---|---|")
const statistics = { hessian: hessian.handle, meanSquare: hessian.meanSquare(), rows }
let first = 0
for (const name of roundingNames) {
  const input = { name, weight, n, k, scheme, statistics, minZero: 0, options: {} }
  const start = performance.now()
  const { report } = await roundingByName(name).round(input)
  first ||= report.error
  console.log(`| ${name} | ${((performance.now() - start) / 1000).toFixed(2)} | ${(report.error / first).toFixed(3)} |`)
}
hessian.dispose()
probe.dispose()
