// What a call costs beside its arithmetic: matmulW4A16 with one row on a 16×16 weight, in microseconds a call.
// Prints the median, least and most over rounds, on the command line as text or, with --json, as one object.
import { parseArgs } from "node:util"
import { Tensor } from "../lib/core/tensor.ts"
import type { MatmulOptions } from "../lib/kernels/matmul.ts"
import { matmulW4A16 } from "../lib/kernels/matmul-w4a16.ts"
import { prepack } from "../lib/kernels/packed-weight.ts"
import { native } from "../lib/native.ts"
import { quantize } from "../lib/quantize/quantize.ts"

const size = 16
const targetMicroseconds = 3

interface Result {
  call: string
  medianUs: number
  minUs: number
  maxUs: number
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      json: { type: "boolean", default: false },
      rounds: { type: "string", default: "31" },
      calls: { type: "string", default: "20000" },
    },
  })
  const rounds = positive("rounds", values.rounds)
  const calls = positive("calls", values.calls)

  const weight = Tensor.from(
    new Float32Array(size * size).map((_, i) => Math.sin(i)),
    [size, size],
  )
  const q = await quantize(weight, { scheme: "w4a16", groupSize: size })
  using packed = await prepack(q)
  const x = Tensor.from(
    new Float32Array(size).map((_, i) => Math.cos(i)),
    [1, size],
  )
  const half = await x.cast("bf16")
  const options: MatmulOptions = { out: Tensor.from(new Float32Array(size), [1, size]) }

  const results = [
    measure("QuantizedTensor, f32", rounds, calls, () => matmulW4A16(x, q)),
    measure("QuantizedTensor, bf16", rounds, calls, () => matmulW4A16(half, q)),
    measure("PackedWeight, f32", rounds, calls, () => matmulW4A16(x, packed)),
    measure("PackedWeight, f32, out given", rounds, calls, () => matmulW4A16(x, packed, options)),
  ]
  const report = {
    node: process.version,
    kernels: native.cpu().kernels,
    threads: native.threads(),
    rounds,
    calls,
    targetMicroseconds,
    results,
  }
  if (values.json) console.log(JSON.stringify(report))
  else {
    console.log(
      `matmulW4A16, m 1, 16×16 weight, ${report.kernels}, Node ${report.node}: µs a call over ${rounds} rounds of ${calls} calls (target: ${targetMicroseconds})`,
    )
    for (const { call, medianUs, minUs, maxUs } of results)
      console.log(`${call.padEnd(30)} median ${medianUs.toFixed(2)}  min ${minUs.toFixed(2)}  max ${maxUs.toFixed(2)}`)
  }
}

function positive(name: string, text: string): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 1) throw new Error(`--${name} is ${text}, expected a positive integer`)
  return value
}

/** One round more than counted comes first, so that the compiler is done. */
function measure(call: string, rounds: number, calls: number, work: () => Tensor): Result {
  const times: number[] = []
  let sum = 0
  for (let round = 0; round <= rounds; round++) {
    const start = performance.now()
    for (let i = 0; i < calls; i++) sum += work().size
    const elapsed = performance.now() - start
    if (round > 0) times.push((elapsed * 1000) / calls)
  }
  if (sum !== (rounds + 1) * calls * size) throw new Error("a call returned the wrong shape")
  times.sort((a, b) => a - b)
  return { call, medianUs: times[times.length >> 1]!, minUs: times[0]!, maxUs: times.at(-1)! }
}

await main()
