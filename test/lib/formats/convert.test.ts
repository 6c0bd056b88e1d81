// Any format into any other and back: bit for bit, wherever the target can hold the scheme.
import { isDeepStrictEqual } from "node:util"
import t from "tap"
import type { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import type { IntegerScheme } from "../../../lib/core/scheme.ts"
import type { CheckpointFormat, NamedTensor, WriteOptions } from "../../../lib/formats/format.ts"
import { detectFormat, formatByName, formats } from "../../../lib/formats/registry.ts"
import { random, tsqError } from "../containers/support.ts"
import {
  dynamicGroup,
  dynamicToken,
  e4m3,
  floatValues,
  localGroup,
  nvfp4,
  randomFloats,
  staticTensor,
} from "./float-support.ts"
import { contents, find, randomTensor, written } from "./support.ts"

const module = "model.layers.0.self_attn.q_proj"

const bytes = (tensors: NamedTensor[]) =>
  Object.fromEntries(
    tensors.map(({ name, dtype, shape, data }) => [
      name,
      `${dtype} ${shape} ${Buffer.from(data as Uint8Array).toString("hex")}`,
    ]),
  )

const cases: [CheckpointFormat, WriteOptions][] = [
  [formatByName("gptq"), { scaleType: "bf16" }],
  [formatByName("gptq"), { scaleType: "bf16", gptqVersion: "v2" }],
  [formatByName("awq"), { scaleType: "bf16" }],
  [formatByName("compressed-tensors"), { scaleType: "bf16" }],
]

const holds = (format: CheckpointFormat, options: WriteOptions, q: QuantizedTensor) =>
  format.refuses(module, q.shape, q.scheme, {
    groupIndex: q.groupIndex !== null,
    zeros: q.zeros,
    gptqVersion: options.gptqVersion ?? "v1",
  }) === null

t.test("A to B to A", async t => {
  const numbers = random(61)
  const { below, pick } = numbers
  const converted = new Map<string, number>()
  for (let i = 0; i < 40; i++) {
    const shape: [number, number] = [32 * (1 + below(3)), 64 * (1 + below(3))]
    const granularity = pick(["group", "group", "channel"] as const)
    const bits = pick([2, 3, 4, 4, 4, 8] as const)
    const scheme: IntegerScheme = {
      bits,
      symmetric: pick([true, false]),
      granularity,
      groupSize: granularity === "group" ? pick([16, 32, 64]) : shape[1],
      scaleType: "f16",
    }
    const q = randomTensor(numbers, shape, scheme, {
      ordered: granularity === "group" && below(4) === 0,
      minZero: below(2),
    })
    for (const [from, fromOptions] of cases)
      for (const [to, toOptions] of cases) {
        if (from === to || !holds(from, fromOptions, q) || !holds(to, toOptions, q)) continue
        const a = await written(t, from, { [module]: q }, fromOptions)
        const inA = await a.reader.read(module)
        const b = await written(t, to, { [module]: inA }, toOptions)
        const inB = await b.reader.read(module)
        const again = await written(t, from, { [module]: inB }, fromOptions)
        t.same(bytes(again.tensors), bytes(a.tensors), `${from.name} to ${to.name}`)
        t.same(again.config, a.config)
        t.same(contents(inB, { scaleType: "f16" }), contents(q), "and nothing is lost on the way")
        const pair = `${from.name} ${to.name}`
        converted.set(pair, (converted.get(pair) ?? 0) + 1)
      }
  }
  const integers = [...new Set(cases.map(([format]) => format))]
  for (const from of integers)
    for (const to of integers)
      if (from !== to) t.ok((converted.get(`${from.name} ${to.name}`) ?? 0) >= 5, `${from.name} to ${to.name}`)
})

t.test("A to B to A, of floats", async t => {
  const numbers = random(62)
  const { below, pick } = numbers
  const converted = new Map<string, number>()
  const holders = ["compressed-tensors", "fp8", "fbgemm_fp8", "modelopt"].map(formatByName)
  const options: WriteOptions = { scaleType: "bf16" }
  for (let i = 0; i < 28; i++) {
    const shape: [number, number] = [128, 128 * (1 + below(2))]
    const k = shape[1]
    const scheme = [
      e4m3({ granularity: "tensor", groupSize: k, activations: staticTensor("e4m3") }),
      e4m3({ granularity: "tensor", groupSize: k, activations: dynamicToken("e4m3") }),
      e4m3({ granularity: "channel", groupSize: k, activations: dynamicToken("e4m3") }),
      e4m3({ granularity: "block", groupSize: 128, blockRows: 128, activations: dynamicGroup(128) }),
      e4m3({ granularity: "block", groupSize: 128, blockRows: 128 }),
      { ...nvfp4, activations: localGroup },
      nvfp4,
    ][i % 7]!
    const q = randomFloats(numbers, shape, scheme, { divides: pick([true, false]), global: 2 ** (below(20) - 10) })
    const fits = (format: CheckpointFormat) => format.refuses(module, shape, scheme, { levels: q.levels }) === null
    for (const from of holders)
      for (const to of holders) {
        if (from === to || !fits(from) || !fits(to)) continue
        const a = await written(t, from, { [module]: q }, options)
        const b = await written(t, to, { [module]: await a.reader.read(module) }, options)
        const inB = await b.reader.read(module)
        const again = await written(t, from, { [module]: inB }, options)
        const pair = `${from.name} ${to.name}`
        t.same(bytes(again.tensors), bytes(a.tensors), pair)
        t.same(again.config, a.config)
        t.ok(isDeepStrictEqual(floatValues(inB), floatValues(q)), "the same values on the way")
        converted.set(pair, (converted.get(pair) ?? 0) + 1)
      }
  }
  t.same([...converted.keys()].sort(), [
    "compressed-tensors fbgemm_fp8",
    "compressed-tensors fp8",
    "compressed-tensors modelopt",
    "fbgemm_fp8 compressed-tensors",
    "fbgemm_fp8 modelopt",
    "fp8 compressed-tensors",
    "fp8 modelopt",
    "modelopt compressed-tensors",
    "modelopt fbgemm_fp8",
    "modelopt fp8",
  ])
  for (const [pair, count] of converted) t.ok(count >= 3, pair)
})

t.test("activations are never lost in a conversion", t => {
  const activations = dynamicToken("int8")
  const scheme = {
    bits: 8,
    symmetric: true,
    granularity: "channel",
    groupSize: 64,
    scaleType: "f16",
    activations,
  } as const
  t.equal(formatByName("compressed-tensors").refuses(module, [32, 64], scheme), null)
  for (const name of ["gptq", "awq"])
    t.match(formatByName(name).refuses(module, [32, 64], scheme), /cannot say that activations are quantized to int8/)
  t.end()
})

t.test("marlin to the other formats and back", async t => {
  const numbers = random(67)
  const marlin = formatByName("marlin")
  for (const groupSize of [128, 256]) {
    const q = randomTensor(numbers, [256, 256], {
      bits: 4,
      symmetric: true,
      granularity: groupSize === 256 ? "channel" : "group",
      groupSize,
      scaleType: "f16",
    })
    const first = await written(t, marlin, { [module]: q })
    for (const [format, options] of cases) {
      const there = await written(t, format, { [module]: await first.reader.read(module) }, options)
      const back = await written(t, marlin, { [module]: await there.reader.read(module) })
      t.same(bytes(back.tensors), bytes(first.tensors), format.name)
      t.same(back.config, first.config)
    }
  }
})

t.test("gptq and compressed-tensors are each other's transposes", async t => {
  const q = randomTensor(random(71), [32, 64], {
    bits: 3,
    symmetric: false,
    granularity: "group",
    groupSize: 32,
    scaleType: "f16",
  })
  const words = (tensor: NamedTensor) => new Uint32Array(Uint8Array.from(tensor.data as Uint8Array).buffer)
  const rowsOf = (tensor: NamedTensor) =>
    Array.from({ length: tensor.shape[0]! }, (_, row) => [
      ...words(tensor).subarray(row * tensor.shape[1]!, (row + 1) * tensor.shape[1]!),
    ])
  const columnsOf = (tensor: NamedTensor) =>
    rowsOf(tensor)[0]!.map((_, column) => rowsOf(tensor).map(row => row[column]))
  const a = await formatByName("gptq").write("m", q, { scaleType: "f16", gptqVersion: "v2" })
  const b = await formatByName("compressed-tensors").write("m", q, { scaleType: "f16" })
  t.same(columnsOf(find(a, "m.qweight")), rowsOf(find(b, "m.weight_packed")))
  t.same(columnsOf(find(a, "m.qzeros")), rowsOf(find(b, "m.weight_zero_point")))
})

t.test("by name, by configuration", async t => {
  t.throws(
    () => formatByName("gguf"),
    tsqError("ERR_OPTION", /"gguf", expected one of gptq, awq, compressed-tensors, bitsandbytes, marlin/),
  )
  t.equal(detectFormat(null), null)
  for (const format of formats) t.equal(detectFormat({ quant_method: format.name }), format)
  t.equal(detectFormat({ quant_method: "gptq", checkpoint_format: "marlin" })?.name, "marlin")
  t.equal(detectFormat({ quant_method: "gptq", is_marlin_format: true })?.name, "marlin")
  t.throws(
    () => detectFormat({ quant_method: "quanto" }),
    tsqError("ERR_UNSUPPORTED", /quant_method is string "quanto"; quantized checkpoints of gptq/),
  )
  t.throws(() => detectFormat({}), tsqError("ERR_UNSUPPORTED", /quant_method is nothing/))
})
