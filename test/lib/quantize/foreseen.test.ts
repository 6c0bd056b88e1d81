// A quantized checkpoint's tensors are foreseen from one module of each kind, so that every byte is written once.
import { join } from "node:path"
import t from "tap"
import { SafetensorsWriter } from "../../../lib/containers/safetensors-writer.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { folder, hashes, smallCalibration, smallCheckpoint } from "./support.ts"

/** Runs `work` and counts the writers that were given up. */
async function givenUp(work: () => Promise<unknown>): Promise<number> {
  const { discard } = SafetensorsWriter.prototype
  let count = 0
  SafetensorsWriter.prototype.discard = async function () {
    count++
    return discard.call(this)
  }
  try {
    await work()
  } finally {
    SafetensorsWriter.prototype.discard = discard
  }
  return count
}

t.test("as foreseen", async t => {
  const cases: QuantizeModelOptions[] = [
    { groupSize: 32, format: "gptq" },
    { groupSize: 32, symmetric: false, format: "awq" },
    { groupSize: 32, symmetric: false, format: "compressed-tensors" },
    { preset: "gptq", order: "dynamic", groupSize: 32, format: "compressed-tensors", ...smallCalibration },
    { groupSize: 32, overrides: [{ pattern: "*.down_proj", scheme: "w8a16" }], format: "compressed-tensors" },
    { scheme: "fp8" },
    { scheme: "w8a8" },
    { scheme: "mxfp4" },
    { preset: "llm.int8" },
  ]
  for (const options of cases) {
    const out = join(folder(t), "out")
    t.equal(await givenUp(() => quantizeModel(smallCheckpoint(t), out, options)), 0, JSON.stringify(options))
  }
})

t.test("texts of their own length are laid out at the end, into the same files", async t => {
  const options = { preset: "nf4", doubleQuantization: true } as const
  const source = smallCheckpoint(t)
  const [first, second] = [join(folder(t), "out"), join(folder(t), "out")]
  t.ok((await givenUp(() => quantizeModel(source, first, options))) <= 1)
  await quantizeModel(source, second, options)
  t.strictSame(hashes(second), hashes(first))
})
