import t from "tap"
import { codebook } from "../../../lib/core/codebooks.ts"
import { QuantizedTensor, type QuantizedTensorInit, type ScaleLevels } from "../../../lib/core/quantized-tensor.ts"
import type { IntegerScheme } from "../../../lib/core/scheme.ts"

const scheme: IntegerScheme = { bits: 4, symmetric: true, granularity: "group", groupSize: 4, scaleType: "f16" }
const valid = (): QuantizedTensorInit => ({
  scheme,
  shape: [2, 10],
  codes: new Uint8Array(20),
  scales: new Float32Array(6),
  zeros: null,
})

t.test("a valid one", async t => {
  const q = new QuantizedTensor(valid())
  t.equal(q.groups, 3, "the last group is shorter")
  t.equal(q.groupIndex, null)
  t.equal(q.inputScale, null)
  t.equal(q.bitsPerWeight, 4 + (6 * 16) / 20)
})

t.test("bits per weight count scales and zero points as stored", async t => {
  const asymmetric = { ...scheme, symmetric: false }
  t.equal(
    new QuantizedTensor({ ...valid(), scheme: asymmetric, zeros: new Uint8Array(6) }).bitsPerWeight,
    4 + (6 * 20) / 20,
  )
  const tensor = { ...scheme, granularity: "tensor", groupSize: 10, scaleType: "f32" } as const
  t.equal(new QuantizedTensor({ ...valid(), scheme: tensor, scales: new Float32Array(2) }).bitsPerWeight, 4 + 32 / 20)
})

const levels: ScaleLevels = {
  codes: new Uint8Array(6),
  values: new Float32Array(2),
  supers: new Float32Array(3),
  perSuper: 2,
  divides: false,
  shift: 0,
}
const levelled = { scheme: { ...scheme, scaleType: "levels" as const }, levels }

t.test("bits per weight of scales that several rows or groups share, or that have levels", async t => {
  const block = { ...scheme, granularity: "block", groupSize: 5, blockRows: 2, scaleType: "f32" } as const
  t.equal(new QuantizedTensor({ ...valid(), scheme: block, scales: new Float32Array(4) }).bitsPerWeight, 4 + 64 / 20)
  const flat = { ...scheme, granularity: "flat", groupSize: 2, runLength: 8, codebook: "nf4" } as const
  const run = new QuantizedTensor({ ...valid(), scheme: flat, scales: new Float32Array(10) })
  t.equal(run.bitsPerWeight, 4 + (3 * 16) / 20)
  t.equal(run.codebook, codebook("nf4"))
  t.equal(new QuantizedTensor({ ...valid(), ...levelled }).bitsPerWeight, 4 + (6 * 8 + 3 * 32) / 20)
})

t.test("refusals", async t => {
  const cases: [string, Partial<QuantizedTensorInit> | { scheme: object }, string, string][] = [
    ["shape", { shape: [2] as never }, "ERR_SHAPE", "shape is [2], expected [n, k], both positive integers"],
    ["shape", { shape: [0, 10] }, "ERR_SHAPE", "shape is [0, 10]"],
    ["shape", { shape: "2x10" as never }, "ERR_SHAPE", 'shape is "2x10"'],
    ["scheme", { scheme: null as never }, "ERR_OPTION", "scheme is null, expected an object"],
    ["bits", { scheme: { ...scheme, bits: 9 } }, "ERR_OPTION", "bits is 9, expected 2 to 8"],
    ["symmetric", { scheme: { ...scheme, symmetric: 1 } }, "ERR_OPTION", "symmetric is 1, expected true or false"],
    [
      "granularity",
      { scheme: { ...scheme, granularity: "row" } },
      "ERR_OPTION",
      'granularity is "row", expected "group", "channel", "tensor", "block" or "flat"',
    ],
    ["granularity", { scheme: { ...scheme, granularity: "channel" } }, "ERR_OPTION", "groupSize is 4, expected k = 10"],
    ["scaleType", { scheme: { ...scheme, scaleType: "f64" } }, "ERR_OPTION", 'scaleType is "f64"'],
    ["groupSize", { scheme: { ...scheme, groupSize: 0 } }, "ERR_OPTION", "groupSize is 0, expected 1 to k = 10"],
    ["groupSize", { scheme: { ...scheme, groupSize: 11 } }, "ERR_OPTION", "groupSize is 11, expected 1 to k = 10"],
    ["codes", { codes: new Int8Array(20) as never }, "ERR_DTYPE", "codes is an Int8Array, expected a Uint8Array"],
    ["codes", { codes: new Uint8Array(19) }, "ERR_SHAPE", "codes has 19 elements, expected 20"],
    ["scales", { scales: new Float32Array(5) }, "ERR_SHAPE", "scales has 5 elements, expected 6"],
    [
      "scales",
      { scales: new Float64Array(6) as never },
      "ERR_DTYPE",
      "scales is a Float64Array, expected a Float32Array",
    ],
    ["zeros", { zeros: new Uint8Array(6) }, "ERR_FORMAT", "symmetric codes take no zeros"],
    ["zeros", { scheme: { ...scheme, symmetric: false } }, "ERR_FORMAT", "asymmetric codes need zeros"],
    ["groupIndex", { groupIndex: new Int32Array(9) }, "ERR_SHAPE", "groupIndex has 9 elements, expected 10"],
    ["inputScale", { inputScale: new Float32Array(9) }, "ERR_SHAPE", "inputScale has 9 elements, expected 10"],
    ["offsets", { offsets: new Float32Array(6) }, "ERR_FORMAT", "symmetric codes take no zeros or offsets"],
    [
      "offsets",
      { scheme: { ...scheme, symmetric: false }, offsets: new Float32Array(6), zeros: new Uint8Array(6) },
      "ERR_FORMAT",
      "it has zeros and offsets, expected one of them or none",
    ],
    [
      "offsets",
      { scheme: { ...scheme, symmetric: false }, offsets: new Float32Array(5) },
      "ERR_SHAPE",
      "offsets has 5 elements, expected 6",
    ],
    ["codebook", { scheme: { ...scheme, codebook: "nf5" } }, "ERR_OPTION", 'codebook is "nf5"'],
    ["codebook", { scheme: { ...scheme, codebook: "e4m3" } }, "ERR_OPTION", "bits is 4, expected 8"],
    ["codebook", { scheme: { ...scheme, codebook: "nf4", symmetric: false } }, "ERR_OPTION", "symmetric is false"],
    ["codebook", { codebook: new Float32Array(16) }, "ERR_FORMAT", "its scheme has no code book"],
    [
      "codebook",
      { scheme: { ...scheme, codebook: "custom" } },
      "ERR_DTYPE",
      "codebook is null, expected a Float32Array",
    ],
    ["blockRows", { scheme: { ...scheme, granularity: "block" } }, "ERR_OPTION", "blockRows is undefined"],
    ["blockRows", { scheme: { ...scheme, blockRows: 2 } }, "ERR_OPTION", 'only granularity "block" has it'],
    [
      "runLength",
      { scheme: { ...scheme, granularity: "flat", groupSize: 5, runLength: 8 } },
      "ERR_OPTION",
      "groupSize is 5, expected a divisor of k = 10 and of runLength = 8",
    ],
    ["levels", { scheme: { ...scheme, scaleType: "levels" } }, "ERR_FORMAT", 'levels come with scaleType "levels"'],
    ["levels", { ...levelled, levels: { ...levels, supers: new Float32Array(2) } }, "ERR_SHAPE", "levels.supers has 2"],
    [
      "levels",
      { ...levelled, levels: { ...levels, codes: new Uint8Array(6).fill(2) } },
      "ERR_FORMAT",
      "not below the 2",
    ],
    [
      "activations",
      { scheme: { ...scheme, activations: { type: "int4" } } },
      "ERR_OPTION",
      'activations.type is "int4"',
    ],
    [
      "activation",
      { activation: { scale: new Float32Array(1), zero: null } },
      "ERR_FORMAT",
      "its scheme has no static activations",
    ],
  ]
  for (const [name, change, code, message] of cases)
    t.throws(() => new QuantizedTensor({ ...valid(), ...change } as QuantizedTensorInit), { code, message }, name)
})
