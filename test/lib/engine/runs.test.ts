// The run lists of a model: made once, so that the steps of a text do not read every weight's handle again.
import { join } from "node:path"
import t from "tap"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { BoundSection } from "../../../lib/models/runner.ts"
import { families, familyWeights } from "../models/support/family-models.ts"
import { writeCheckpoint } from "../models/support/tiny-checkpoint.ts"
import { folder, smallCheckpoint, tokens } from "../quantize/support.ts"

const readWeights = Object.getOwnPropertyDescriptor(BoundSection.prototype, "weights")!.get!

t.test("scoring a text of many steps reads the weights' handles once", async t => {
  const model = await loadModel(smallCheckpoint(t))
  t.teardown(() => model.dispose())
  const section = model.runs(true, 1)[1]!.section
  let reads = 0
  Object.defineProperty(section, "weights", {
    get(this: BoundSection) {
      reads++
      return readWeights.call(this)
    },
  })
  let steps = 0
  const step = model.step.bind(model)
  model.step = request => {
    steps++
    return step(request)
  }
  const { perplexity } = await model.perplexity(tokens(8000), { window: 64 })
  t.ok(perplexity > 1)
  t.ok(steps > 2, `${steps} steps`)
  t.equal(reads, 1)
})

t.test("one list for the same runs, another beyond the first context of longrope", async t => {
  const config = families["phi3, longrope beyond its first context"]!
  const directory = join(folder(t), "model")
  writeCheckpoint(directory, config, familyWeights(config, 3))
  const model = await loadModel(directory)
  const length = model.longLength!
  t.equal(length, 23)
  t.equal(model.runs(true, 1), model.runs(true, length))
  t.equal(model.runs(false, length + 1), model.runs(false, length + 9))
  t.equal(model.runs(true, 1).length, model.runs(false, 1).length + 1)
  t.not(model.runs(true, 1)[1]!.section, model.runs(true, length + 1)[1]!.section)
  t.equal(model.runs(true, 1)[0]!.section, model.runs(false, length + 1)[0]!.section)
  model.dispose()
  t.throws(() => model.runs(true, 1), { code: "ERR_OPTION" })
})
