import t from "tap"
import { type IntegerScheme, QuantizedTensor, type QuantizedTensorInit } from "../../../lib/core/quantized-tensor.ts"

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
      'granularity is "row", expected "group", "channel" or "tensor"',
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
  ]
  for (const [name, change, code, message] of cases)
    t.throws(() => new QuantizedTensor({ ...valid(), ...change } as QuantizedTensorInit), { code, message }, name)
})
