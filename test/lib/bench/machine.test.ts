// The machine's description, and what the machine can do at most.
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { availableMemory, cacheLevels, describeMachine, lastLevelCache } from "../../../lib/bench/machine.ts"
import { bestUnits, CellRoofs, RoofProbe, roofOf, unitsOf } from "../../../lib/bench/roofs.ts"
import { native } from "../../../lib/native.ts"
import { refused } from "../native/helpers.ts"

t.test("a machine is described", async t => {
  const machine = await describeMachine()
  t.match(machine, { cpu: String, cpus: Number, memoryBytes: Number, node: process.version, version: String })
  t.ok(machine.kernels.includes("reference"))
  t.ok(!Number.isNaN(Date.parse(machine.date)))
  t.ok(machine.commit === null || /^[0-9a-f]{12}\+?$/.test(machine.commit))
  t.ok(lastLevelCache(machine) >= 2 ** 20)
  t.equal(lastLevelCache({ caches: [] }), 2 ** 25)
  const memory = availableMemory()
  t.ok(memory > 0 && memory <= machine.memoryBytes)
})

t.test("caches as the kernel describes them", async t => {
  const folder = t.testdir()
  for (const [index, level, type, size] of [
    [0, 1, "Data", "48K"],
    [1, 1, "Instruction", "32K"],
    [3, 3, "Unified", "480M"],
    [2, 2, "Unified", "2048K"],
  ] as const) {
    mkdirSync(join(folder, `index${index}`))
    for (const [file, text] of [
      ["level", level],
      ["type", type],
      ["size", size],
    ] as const)
      writeFileSync(join(folder, `index${index}`, file), `${text}\n`)
  }
  writeFileSync(join(folder, "uevent"), "")
  t.strictSame(cacheLevels(folder), [
    { level: 1, bytes: 48 * 1024 },
    { level: 2, bytes: 2 * 2 ** 20 },
    { level: 3, bytes: 480 * 2 ** 20 },
  ])
  t.strictSame(cacheLevels(join(folder, "absent")), [])
})

t.test("peaks and reads are finite, whatever the machine", async t => {
  const instructions = native.peakInstructions()
  for (const instruction of instructions) t.ok(native.measurePeak(instruction, 0.5) > 0.1, instruction)
  const probe = await native.createReadProbe(2 ** 20)
  t.equal(native.handleBytes(probe), 2 ** 20)
  for (const pattern of [0, 1, 2, 3] as const) t.ok(native.measureRead(probe, 0, 2 ** 20, pattern) > 0.01)
  t.ok(native.measureRead(probe, 64, 1000, 0) > 0, "whole steps of a range")
  await refused(t, () => native.measurePeak("fma-mmx" as never, 1), "ERR_UNSUPPORTED", /fma-mmx.*choose one of/)
  await refused(t, () => native.measurePeak(instructions[0]!, 0), "ERR_OPTION", /milliseconds/)
  for (const [offset, bytes, pattern] of [
    [2 ** 20, 256, 0],
    [1, 256, 0],
    [0, 2 ** 20 + 256, 0],
    [2 ** 20 - 256, 512, 0],
    [0, 0, 0],
    [0, 256, 4],
  ] as const)
    await refused(t, () => native.measureRead(probe, offset, bytes, pattern as never), "ERR_OPTION", /measureRead/)
  native.release(probe)
  await refused(t, () => native.measureRead(probe, 0, 256, 0), "ERR_OPTION", /not a live native object/)
  await refused(t, () => native.createReadProbe(2 ** 40), "ERR_OPTION", /bytes/)
})

t.test("roofs", async t => {
  t.strictSame(roofOf(2e6, 1e6, 10, 100), { ms: 0.2, bound: "memory" })
  t.strictSame(roofOf(2e6, 1e9, 10, 100), { ms: 10, bound: "compute" })
  t.strictSame(roofOf(2e6, 1e9, 10, null), { ms: 0.2, bound: "memory" })
  for (const isa of native.cpu().supported)
    for (const activations of ["exact", "int8"] as const)
      for (const dtype of ["f32", "f16", "bf16"] as const)
        for (const { instruction, passes } of unitsOf(isa, activations, dtype)) {
          t.ok(native.peakInstructions().includes(instruction))
          t.ok(passes >= 1 && passes <= 3)
        }
  t.strictSame(unitsOf("unheard-of", "exact", "f32"), [])
  const probe = await RoofProbe.create({ bytes: 2 ** 20, readBytes: 2 ** 18, peakMs: 0.2 })
  const units = bestUnits("exact")
  const roofs = new CellRoofs(probe, new Set(units.map(unit => unit.instruction)))
  t.ok([0, 1, 2, 3].includes(probe.tune()))
  for (let round = 0; round < 5; round++) roofs.measure()
  t.equal(roofs.readGBps.count, 5)
  for (const { gops } of roofs.peaks) t.ok(gops.min > 0 && gops.max >= gops.median)
  if (units.length > 0) {
    const [{ instruction }] = units as [(typeof units)[0]]
    const whole = roofs.peakOf(units)!
    t.ok(Math.abs(roofs.peakOf([{ instruction, passes: 2 }])!.gops * 2 - whole.gops) < 1e-6 * whole.gops)
  }
  t.equal(roofs.peakOf([]), null)
  probe.dispose()
})
