// measureSensitivity: damages fall with bits, "layer" tells much the same as "kl", and what is shown of them.
import t from "tap"
import { measureSensitivity } from "../../../lib/quantize/measure-sensitivity.ts"
import { sensitivityPage, sensitivityTable } from "../../../lib/report/sensitivity.ts"
import { smallCalibration, smallCheckpoint } from "./support.ts"

const base = { groupSize: 32, candidates: ["w2a16", "w4a16", "w8a16"], ...smallCalibration } as const

t.test("damage by group and scheme", async t => {
  const source = smallCheckpoint(t)
  const report = await measureSensitivity(source, base)
  t.equal(report.groups.length, 3 * 4)
  for (const { modules, candidates, weights } of report.groups) {
    const damages = candidates.map(({ damage }) => damage)
    t.ok(damages[0]! > damages[1]! && damages[1]! > damages[2]! && damages[2]! >= 0, `${modules[0]}: ${damages}`)
    t.ok(weights > 0)
  }
  const cheap = await measureSensitivity(source, { ...base, sensitivity: "layer" })
  cheap.groups.forEach((group, i) => {
    const [found, wanted] = [group.candidates, report.groups[i]!.candidates]
    t.equal(found[1]!.damage, wanted[1]!.damage, "measured at the scheme in the middle")
    t.ok(found[0]!.damage > wanted[0]!.damage / 4 && found[0]!.damage < wanted[0]!.damage * 4, "estimated at others")
  })
  const text = sensitivityTable(report)
  t.match(text, /w2a16 +w4a16 +w8a16/)
  t.equal(text.split("\n").length, 13)
  const page = sensitivityPage(report)
  t.ok(page.startsWith("<!doctype html>") && page.includes("layers.2.mlp.down_proj") && !page.includes("NaN"))
})

t.test("by layer, a scheme that loses nothing does not stand for the others", async t => {
  const name = "model.layers.1.mlp.down_proj"
  // All 16 codes of a grid in every group: exact in 4 bits with zero points.
  const source = smallCheckpoint(t, {}, "BF16", weights => {
    const { values } = weights[`${name}.weight`]!
    for (let i = 0; i < values.length; i++) values[i] = (((i * 7) % 16) - 8) / 64
  })
  const { groups } = await measureSensitivity(source, { ...base, symmetric: false, sensitivity: "layer" })
  const [w2, w4, w8] = groups.find(({ modules }) => modules.includes(name))!.candidates
  t.equal(w4!.layerError, 0)
  t.equal(w4!.damage, 0)
  t.ok(w2!.damage > 0 && w8!.damage > 0 && w2!.damage > w8!.damage, `${w2!.damage} and ${w8!.damage}`)
})

t.test("refusals", async t => {
  const source = smallCheckpoint(t)
  const refused = (options: object, message: RegExp) =>
    t.rejects(measureSensitivity(source, { ...base, ...options }), { code: "ERR_OPTION", message })
  await refused({ calibration: undefined }, /needs calibration/)
  await refused({ candidates: [] }, /candidates/)
  await refused({ rounding: "nearest" }, /does not look at activations/)
  await refused({ scheme: "w4a16" }, /unknown option "scheme"/)
})
