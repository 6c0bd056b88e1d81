// Rounding experts towards the unquantized model's outputs: which inputs are compared, what it gains, and that everything built on it runs.
import { join } from "node:path"
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { sharedFloats, Tensor } from "../../../lib/core/tensor.ts"
import { CheckpointSource } from "../../../lib/engine/checkpoint-source.ts"
import { prepackDense } from "../../../lib/kernels/packed-weight.ts"
import { Accumulator } from "../../../lib/models/accumulator.ts"
import { describeModel } from "../../../lib/models/registry.ts"
import type { BoundSection } from "../../../lib/models/runner.ts"
import { abortable, native } from "../../../lib/native.ts"
import { CalibrationRun } from "../../../lib/quantize/calibration-run.ts"
import { stages } from "../../../lib/quantize/linears.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { folder, hashes, logits, relativeDistance, smallCalibration, smallCheckpoint, tokens } from "./support.ts"

const mixtral = { model_type: "mixtral", num_local_experts: 4, num_experts_per_tok: 2, num_hidden_layers: 2 }
const qwen = {
  ...{ model_type: "qwen3_moe", num_experts: 5, num_experts_per_tok: 2, moe_intermediate_size: 32 },
  ...{ norm_topk_prob: true, num_hidden_layers: 3, mlp_only_layers: [1], head_dim: 16 },
}

/** W with what `hessian` and `cross` say is missing from its outputs. */
async function target(weight: Float32Array, n: number, k: number, hessian: Accumulator, cross: Accumulator) {
  const out = sharedFloats(n * k)
  await abortable(undefined, flag =>
    native.correctTarget(weight, n, k, hessian.handle.value, cross.handle.value, null, 0.01, out, flag),
  )
  return out
}

/** W x of every row, in f64. */
function product(weight: Float32Array, n: number, k: number, rows: readonly Float64Array[]): Float64Array[] {
  return rows.map(x =>
    Float64Array.from({ length: n }, (_, i) => x.reduce((sum, value, j) => sum + value * weight[i * k + j]!, 0)),
  )
}

t.test("tokens of an expert are the quantized model's, and so are the original's inputs", async t => {
  const checkpoint = await Checkpoint.open(smallCheckpoint(t, mixtral, "F32"))
  t.teardown(() => checkpoint.dispose())
  const program = describeModel(checkpoint.config)
  const dense = new CheckpointSource(checkpoint, () => {})
  const windows = [0, 1, 2, 3].map(i => Int32Array.from(tokens(32, 64, i + 1)))
  const set = { windows, sequenceLength: 32, asked: 4, tokens: 128, heldOut: null } as never
  const run = await CalibrationRun.start(program, dense, set, undefined, null, dense, true)
  const plain = await CalibrationRun.start(program, dense, set)
  t.teardown(() => run.dispose())
  t.teardown(() => plain.dispose())
  // Block 0 is another in the run than in the original.
  const first = await run.bind(0)
  const o = await checkpoint.floats("model.layers.0.self_attn.o_proj.weight")
  const noise = tokens(o.length, 1000, 7)
  for (let i = 0; i < o.length; i++) o[i]! += (noise[i]! - 500) / 2000
  const packed = await prepackDense(Tensor.from(o, [64, 64]))
  await run.advance(first.set("self_attn.o_proj", packed))
  await run.advanceOriginal(0)
  await plain.advance(await plain.bind(0))

  const [bound, original] = [await run.bind(1), await run.bind(1)]
  const section = program.sections[program.blocks[1]!]!
  const gather = section.ops.find(({ kind }) => kind === "gather")!
  const at = section.ops.indexOf(gather)
  const rows = 128
  /** What enters the experts, and who goes to which. */
  const entering = async (from: CalibrationRun, block: BoundSection) => {
    const { hidden, sequences } = from.sample(rows)
    const input = sharedFloats(rows * 64)
    const routes = sharedFloats(rows * 4)
    await from.runner.step({
      ...{ runs: [{ section: block, opEnd: at }], rows, hidden, sequences, cache: from.cache },
      observers: [
        { run: 0, op: at - 1, slot: gather.in[0]!, reduction: "copy", out: input },
        { run: 0, op: at - 1, slot: gather.in[1]!, reduction: "copy", out: routes },
      ],
    })
    return { input, routes }
  }
  const [quantized, unquantized] = [await entering(run, bound), await entering(plain, await plain.bind(1))]
  const moved = [...quantized.routes].filter((share, i) => (share === 0) !== (unquantized.routes[i] === 0)).length
  t.ok(moved > 8, `${moved} choices differ`)

  const weightOf = (expert: number, part: string) =>
    checkpoint.floats(`model.layers.1.block_sparse_moe.experts.${expert}.${part}.weight`)
  for (const { op, slot, k, experts } of stages(section)) {
    if (!experts) continue
    for (const expert of [0, 1, 2, 3]) {
      const [hessian, cross] = [new Accumulator("hessian", k), new Accumulator("cross", k)]
      const watched = [hessian, cross].map(accumulator => ({ op, slot, routes: experts.routes, expert, accumulator }))
      await run.watch(bound, watched, undefined, original)

      const chosen = Array.from({ length: rows }, (_, row) => row).filter(row => quantized.routes[row * 4 + expert])
      const inputs = async ({ input }: { input: Float32Array }) => {
        const read = chosen.map(row => Float64Array.from(input.subarray(row * 64, (row + 1) * 64)))
        if (k === 64) return Float32Array.from(read.flatMap(x => [...x]))
        const gate = product(await weightOf(expert, "w1"), 96, 64, read)
        const up = product(await weightOf(expert, "w3"), 96, 64, read)
        return Float32Array.from(gate.flatMap((x, i) => [...x].map((g, j) => (g / (1 + Math.exp(-g))) * up[i]![j]!)))
      }
      const share = (values: Float32Array) => {
        const copy = sharedFloats(values.length)
        copy.set(values)
        return copy
      }
      const [present, wanted] = [share(await inputs(quantized)), share(await inputs(unquantized))]
      const [ownHessian, ownCross] = [new Accumulator("hessian", k), new Accumulator("cross", k)]
      await ownHessian.add(present, chosen.length)
      await ownCross.add(present, chosen.length, wanted)
      t.equal(hessian.rows, chosen.length)
      t.equal(cross.rows, chosen.length)
      const weight = await weightOf(expert, k === 64 ? "w1" : "w2")
      const n = weight.length / k
      const [found, expected] = [
        await target(weight, n, k, hessian, cross),
        await target(weight, n, k, ownHessian, ownCross),
      ]
      t.ok(relativeDistance(expected, weight) > 0.02, "there is something to make up for")
      t.ok(relativeDistance(found, expected) < 1e-3, `expert ${expert}: ${relativeDistance(found, expected)}`)
      for (const accumulator of [hessian, cross, ownHessian, ownCross]) accumulator.dispose()
    }
  }
})

const small = { ...smallCalibration, groupSize: 32, expertFloor: 16, scheme: "w3a16" } as const
for (const change of [mixtral, qwen])
  t.test(`${change.model_type}: closer to the original`, async t => {
    const source = smallCheckpoint(t, change)
    const ids = tokens(64)
    const dense = await logits(source, ids)
    const distance = async (options: QuantizeModelOptions) => {
      const out = join(folder(t), "out")
      await quantizeModel(source, out, { ...small, ...options })
      return relativeDistance(await logits(out, ids), dense)
    }
    const [plain, corrected] = [
      await distance({ rounding: "gptq" }),
      await distance({ rounding: "gptq", errorCorrection: true }),
    ]
    t.ok(corrected < plain, `${corrected} with the correction, ${plain} without`)
    t.ok((await distance({ rounding: "qronos", errorCorrection: true })) < 1, "qronos")
    for (const rounding of ["auto-round", "lsq"] as const)
      t.ok((await distance({ rounding, errorCorrection: true, steps: 20 })) < 1, rounding)
  })

t.test(
  "preset best on mixtures: every block has a winner and the residual stream's peak, also after an interruption",
  async t => {
    for (const change of [mixtral, qwen]) {
      const source = smallCheckpoint(t, change)
      const out = join(folder(t), "out")
      const options: QuantizeModelOptions = { ...small, preset: "best", steps: 20 }
      const report = await quantizeModel(source, out, options)
      t.equal(report.contests!.length, change.num_hidden_layers)
      t.equal(report.residualPeaks.length, change.num_hidden_layers)
      t.ok(report.experts!.every(({ count }) => count > 0))
      t.ok((await logits(out, tokens(40))).every(Number.isFinite))
      const again = join(folder(t), "out")
      const controller = new AbortController()
      await t.rejects(
        quantizeModel(source, again, {
          ...options,
          signal: controller.signal,
          onProgress: ({ detail }) => {
            if (detail?.startsWith("block 2")) controller.abort()
          },
        }),
        { code: "ERR_ABORTED" },
      )
      await quantizeModel(source, again, { ...options, resume: true })
      t.strictSame(hashes(again), hashes(out))
    }
  },
)
