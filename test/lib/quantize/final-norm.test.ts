// The last norm after error correction: refitted to what the head reads, for RMS norms alone, kept otherwise.
import { join } from "node:path"
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { quantizeModel } from "../../../lib/index.ts"
import { describeModel } from "../../../lib/models/registry.ts"
import { finalNorm, refitFinalNorm } from "../../../lib/quantize/final-norm.ts"
import { folder, logits, relativeDistance, smallCalibration, smallCheckpoint, tokens } from "./support.ts"

const few = { ...smallCalibration, groupSize: 32, scheme: "w2a16" } as const
const open = async (path: string) => {
  const checkpoint = await Checkpoint.open(path)
  return { checkpoint, program: describeModel(checkpoint.config, name => checkpoint.has(name)) }
}
const normOf = async (path: string) => {
  const { checkpoint } = await open(path)
  try {
    return await checkpoint.floats("model.norm.weight")
  } finally {
    checkpoint.dispose()
  }
}

t.test("error correction refits it, and brings logits closer; without it stays", async t => {
  const source = smallCheckpoint(t)
  const directory = folder(t)
  const ids = tokens(64)
  const dense = await logits(source, ids)
  const before = await normOf(source)
  await quantizeModel(source, join(directory, "plain"), { ...few, rounding: "gptq" })
  t.strictSame(await normOf(join(directory, "plain")), before)
  const out = join(directory, "corrected")
  await quantizeModel(source, out, { ...few, rounding: "gptq", errorCorrection: true })
  const after = await normOf(out)
  t.ok(
    after.some((value, i) => value !== before[i]),
    "changed",
  )
  t.ok(
    after.every((value, i) => Math.abs(value) <= 2 * Math.abs(before[i]!) && value * before[i]! >= 0),
    "within its bounds",
  )
  const distance = async (path: string) => relativeDistance(await logits(path, ids), dense)
  const [plain, corrected] = [await distance(join(directory, "plain")), await distance(out)]
  t.ok(corrected < plain, `${corrected} with, ${plain} without`)
})

t.test("gains become weights, with the norm's offset; what is no number changes nothing", async t => {
  const source = smallCheckpoint(t)
  const { checkpoint, program } = await open(source)
  t.teardown(() => checkpoint.dispose())
  const { tensor, size, offset } = finalNorm(program)!
  t.strictSame({ tensor, offset }, { tensor: "model.norm.weight", offset: 0 })
  const gains = Float64Array.from({ length: size }, (_, i) => [0.5, 1.25, Number.NaN, 1e9, -3][i % 5]!)
  const run = { headGains: async () => gains } as never
  const weight = await checkpoint.floats(tensor)
  const fitted = (await refitFinalNorm(program, checkpoint, run, undefined)).get(tensor)!
  const expected = Float32Array.from(weight, (value, i) => [0.5, 1.25, 1, 2, 0][i % 5]! * value)
  t.strictSame(Float32Array.from(fitted), expected)
})

t.test("a norm with a mean is left alone", async t => {
  const { checkpoint, program } = await open(smallCheckpoint(t))
  t.teardown(() => checkpoint.dispose())
  const last = program.sections.at(-1)!
  const ops = last.ops.map(op => (op.kind === "rmsNorm" ? { ...op, kind: "layerNorm" as const } : op))
  const changed = { ...program, sections: [...program.sections.slice(0, -1), { ...last, ops }] }
  t.equal(finalNorm(changed), null)
})
