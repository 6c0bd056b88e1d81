// compressed-tensors beyond packed words: bytes of int8 and FP8, nibbles of NVFP4 and MXFP4, activations, KV cache, several formats in a file.
import t from "tap"
import { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import type { ActivationScheme, Scheme } from "../../../lib/core/scheme.ts"
import { compressedTensors } from "../../../lib/formats/compressed-tensors.ts"
import { formatOf } from "../../../lib/formats/compressed-tensors-scheme.ts"
import type { NamedTensor } from "../../../lib/formats/format.ts"
import { random, tsqError, vector } from "../containers/support.ts"
import {
  dynamicGroup,
  dynamicToken,
  e4m3,
  floatContents,
  floatValues,
  localGroup,
  mxfp4,
  nvfp4,
  randomFloats,
  staticTensor,
} from "./float-support.ts"
import { checkpointOf, find, written } from "./support.ts"

const module = "model.layers.0.mlp.up_proj"
const floats = (values: ArrayLike<number>): Uint8Array => new Uint8Array(Float32Array.from(values).buffer)
const hex = (tensor: NamedTensor) => Buffer.from(tensor.data as Uint8Array).toString("hex")

const group = (weights: object, rest: object = {}) => ({ targets: ["Linear"], weights, ...rest })
const config = (format: string, weights: object, rest: object = {}, outer: object = {}) => ({
  quant_method: "compressed-tensors",
  format,
  config_groups: { group_0: group(weights, rest) },
  ignore: ["lm_head"],
  ...outer,
})

async function read(t: Parameters<typeof checkpointOf>[0], settings: object, tensors: NamedTensor[]) {
  const checkpoint = await checkpointOf(t, settings, tensors)
  const warnings: string[] = []
  const reader = compressedTensors.reader(checkpoint, checkpoint.quantizationConfig!, text => warnings.push(text))
  return { reader, warnings, tensor: () => reader.read(module) }
}

t.test("vector: nvfp4, read and written", async t => {
  const v = vector("ct-nvfp4")
  const n = v.weight_NxK.length
  const packed = Buffer.from(v.weight_packed.join(""), "hex")
  const scaleBytes = Uint8Array.from(v.weight_scale_bytes.flat())
  const tensors: NamedTensor[] = [
    { name: `${module}.weight_packed`, dtype: "U8", shape: [n, 16], data: packed },
    { name: `${module}.weight_scale`, dtype: "F8_E4M3", shape: [n, 2], data: scaleBytes },
    { name: `${module}.weight_global_scale`, dtype: "F32", shape: [1], data: floats([v.weight_global_scale_f32]) },
  ]
  const weights = { num_bits: 4, type: "float", symmetric: true, strategy: "tensor_group", group_size: 16 }
  const { reader, tensor, warnings } = await read(t, config("nvfp4-pack-quantized", weights), tensors)
  t.same(reader.modules, [module])
  const q = await tensor()
  t.same([...q.codes], v.codes.flat())
  t.same(floatValues(q), v.dequant_f32)
  t.same(q.levels?.supers, Float32Array.of(v.weight_global_scale_f32))
  t.same(warnings, [])
  const again = await compressedTensors.write(module, q, { scaleType: "bf16" })
  for (const { name } of tensors) t.equal(hex(find(again, name)), hex(find(tensors, name)), name)
  t.equal(again.length, 3)
  // Writers that do not name the strategy.
  const unnamed = await read(t, config("nvfp4-pack-quantized", { num_bits: 4, type: "float", group_size: 16 }), tensors)
  t.same(floatContents(await unnamed.tensor()), floatContents(q))
})

t.test("vector: mxfp4, read and written", async t => {
  const v = vector("ct-mxfp4")
  const tensors: NamedTensor[] = [
    { name: `${module}.weight_packed`, dtype: "U8", shape: [1, 16], data: Buffer.from(v.weight_packed, "hex") },
    { name: `${module}.weight_scale`, dtype: "U8", shape: [1, 1], data: Uint8Array.of(v.weight_scale_u8) },
  ]
  const weights = { num_bits: 4, type: "float", symmetric: true, strategy: "group", group_size: 32 }
  const q = await (await read(t, config("mxfp4-pack-quantized", weights), tensors)).tensor()
  t.same([...q.codes], v.codes)
  t.same(floatValues(q)[0], v.dequant)
  const again = await compressedTensors.write(module, q, { scaleType: "bf16" })
  for (const { name } of tensors) t.equal(hex(find(again, name)), hex(find(tensors, name)), name)
})

t.test("vector: powers of two of every byte", async t => {
  const v = vector("e8m0-decode")
  const bytes = Uint8Array.from(v.bytes)
  const tensors: NamedTensor[] = [
    { name: `${module}.weight`, dtype: "F8_E4M3", shape: [1, 32 * 7], data: new Uint8Array(32 * 7).fill(0x38) },
    { name: `${module}.weight_scale`, dtype: "U8", shape: [1, 7], data: bytes },
  ]
  const weights = { num_bits: 8, type: "float", symmetric: true, strategy: "group", group_size: 32 }
  const q = await (await read(t, config("mxfp8-quantized", weights), tensors)).tensor()
  t.same([...q.scales], v.values)
  t.equal(
    hex(find(await compressedTensors.write(module, q, { scaleType: "bf16" }), `${module}.weight_scale`)),
    hex(tensors[1]!),
  )
  const bad = tensors.with(1, { ...tensors[1]!, data: bytes.with(3, 255) })
  await t.rejects(
    (await read(t, config("mxfp8-quantized", weights), bad)).tensor(),
    tsqError("ERR_FORMAT", /weight_scale: scale 3 is not a number/),
  )
})

t.test("vector: FP8 with a scale for each channel", async t => {
  const v = vector("fp8-per-channel")
  const tensors: NamedTensor[] = [
    { name: `${module}.weight`, dtype: "F8_E4M3", shape: [2, 4], data: Buffer.from(v.bytes.join(""), "hex") },
    { name: `${module}.weight_scale`, dtype: "F32", shape: [2, 1], data: floats(v.weight_scale_f32) },
  ]
  const weights = { num_bits: 8, type: "float", symmetric: true, strategy: "channel" }
  const inputs = { num_bits: 8, type: "float", symmetric: true, strategy: "token", dynamic: true }
  const { tensor } = await read(t, config("float-quantized", weights, { input_activations: inputs }), tensors)
  const q = await tensor()
  t.same(floatValues(q), v.dequant_f32)
  t.same(q.scheme.activations, dynamicToken("e4m3"))
  const again = await compressedTensors.write(module, q, { scaleType: "f32" })
  for (const { name } of tensors) t.same(find(again, name).data, find(tensors, name).data, name)
})

const asymmetric = (scheme: ActivationScheme): ActivationScheme => ({ ...scheme, symmetric: false })
const int8 = (rest: Partial<Scheme>): Scheme => ({
  bits: 8,
  symmetric: true,
  granularity: "channel",
  groupSize: 96,
  scaleType: "f32",
  activations: dynamicToken("int8"),
  ...rest,
})
const schemes: Record<string, [Scheme, string]> = {
  "int8 dynamic": [int8({}), "int-quantized"],
  "int8 static": [int8({ activations: staticTensor("int8") }), "int-quantized"],
  "int8 static asymmetric": [int8({ activations: asymmetric(staticTensor("int8")) }), "int-quantized"],
  "int8 asymmetric": [int8({ symmetric: false }), "int-quantized"],
  "int8 tensor asymmetric": [int8({ symmetric: false, granularity: "tensor" }), "int-quantized"],
  "int8 groups": [int8({ granularity: "group", groupSize: 32 }), "int-quantized"],
  "int4 beside int8": [int8({ bits: 4, granularity: "group", groupSize: 32 }), "int-quantized"],
  "int4 beside FP8": [
    int8({ bits: 4, granularity: "group", groupSize: 32, activations: dynamicToken("e4m3") }),
    "pack-quantized",
  ],
  "fp8 tensor": [e4m3({ granularity: "tensor", groupSize: 96, activations: staticTensor("e4m3") }), "float-quantized"],
  "fp8 channel": [
    e4m3({ granularity: "channel", groupSize: 96, activations: dynamicToken("e4m3") }),
    "float-quantized",
  ],
  "fp8 group": [e4m3({ granularity: "group", groupSize: 32, activations: dynamicToken("e4m3") }), "float-quantized"],
  "fp8 block": [
    e4m3({ granularity: "block", groupSize: 64, blockRows: 16, activations: dynamicGroup(64) }),
    "float-quantized",
  ],
  "fp8 weights only": [e4m3({ granularity: "channel", groupSize: 96 }), "naive-quantized"],
  mxfp8: [e4m3({ granularity: "group", groupSize: 32, scaleType: "e8m0" }), "mxfp8-quantized"],
  nvfp4: [{ ...nvfp4, activations: localGroup }, "nvfp4-pack-quantized"],
  "nvfp4 weights only": [nvfp4, "nvfp4-pack-quantized"],
  mxfp4: [mxfp4, "mxfp4-pack-quantized"],
}

t.test("every scheme survives, alone", async t => {
  const numbers = random(11)
  for (const [name, [scheme, format]] of Object.entries(schemes)) {
    t.equal(formatOf(scheme), format, name)
    const q = randomFloats(numbers, [40, 96], scheme)
    const { reader, config, warnings } = await written(t, compressedTensors, { [module]: q }, { scaleType: "bf16" })
    t.same(floatContents(await reader.read(module)), floatContents(q), name)
    t.equal(config.format, format)
    t.same(warnings, [])
    t.ok(reader.tensorNames(module).length >= 2)
  }
})

t.test("all in one file: a group each, with its own format", async t => {
  const numbers = random(12)
  const tensors = Object.fromEntries(
    Object.values(schemes).map(([scheme], i) => [
      `model.layers.${i}.mlp.up_proj`,
      randomFloats(numbers, [40, 96], scheme),
    ]),
  )
  const { reader, config, warnings } = await written(t, compressedTensors, tensors, { scaleType: "bf16" })
  for (const [name, q] of Object.entries(tensors))
    t.same(floatContents(await reader.read(name)), floatContents(q), name)
  t.equal(config.format, "mixed-precision")
  t.same(
    Object.values(config.config_groups as Record<string, { format: string }>).map(entry => entry.format),
    Object.values(schemes).map(([, format]) => format),
  )
  t.same(warnings, [])
})

t.test("configurations, as the library has them", async t => {
  const configure = (scheme: Scheme) =>
    compressedTensors.configuration(
      { modules: new Map([["a", { ...scheme, hasGroupIndex: false }]]), unquantized: [], damp: null, version: "0.1.0" },
      { scaleType: "bf16" },
    ).quantizationConfig
  t.match(configure(schemes["int8 dynamic"]![0]), {
    format: "int-quantized",
    config_groups: {
      group_0: {
        weights: { num_bits: 8, type: "int", symmetric: true, strategy: "channel", group_size: null, dynamic: false },
        input_activations: {
          num_bits: 8,
          type: "int",
          symmetric: true,
          strategy: "token",
          dynamic: true,
          observer: null,
        },
      },
    },
  })
  t.match(configure(schemes["fp8 block"]![0]), {
    config_groups: {
      group_0: {
        weights: { num_bits: 8, type: "float", strategy: "block", block_structure: [16, 64], group_size: null },
        input_activations: { num_bits: 8, type: "float", strategy: "group", group_size: 64, dynamic: true },
      },
    },
  })
  t.match(configure(schemes.nvfp4![0]), {
    format: "nvfp4-pack-quantized",
    config_groups: {
      group_0: {
        weights: { num_bits: 4, strategy: "tensor_group", group_size: 16, scale_dtype: "torch.float8_e4m3fn" },
        input_activations: { num_bits: 4, strategy: "tensor_group", group_size: 16, dynamic: "local" },
      },
    },
  })
  const plain = configure(schemes["int8 dynamic"]![0]) as { config_groups: { group_0: { weights: object } } }
  t.notOk("scale_dtype" in plain.config_groups.group_0.weights, "a key that older readers refuse")
})

t.test("the KV cache's scheme and scales", async t => {
  const q = randomFloats(random(13), [8, 32], e4m3({ granularity: "channel", groupSize: 32 }))
  const kv_cache_scheme = { num_bits: 8, type: "float", symmetric: true, strategy: "tensor", dynamic: false }
  const weights = { num_bits: 8, type: "float", symmetric: true, strategy: "channel" }
  const scale = { name: "model.layers.0.self_attn.k_scale", dtype: "F32", shape: [1], data: floats([0.5]) }
  const tensors = [...(await compressedTensors.write(module, q, { scaleType: "f32" })), scale]
  const { reader, warnings } = await read(t, config("naive-quantized", weights, {}, { kv_cache_scheme }), tensors)
  t.same(reader.carried, { kv_cache_scheme })
  t.same(reader.kvScales, [scale.name])
  t.same(warnings, [])
  const summary = { modules: new Map([[module, { ...q.scheme, hasGroupIndex: false }]]), unquantized: [], damp: null }
  t.match(
    compressedTensors.configuration({ ...summary, version: "0.1.0", carried: reader.carried }, { scaleType: "f32" }),
    { quantizationConfig: { kv_cache_scheme } },
  )
  await t.rejects(
    read(t, config("naive-quantized", weights, {}, { kv_cache_scheme: "fp8" }), tensors),
    tsqError("ERR_FORMAT", /kv_cache_scheme is string "fp8"/),
  )
})

t.test("what older and other writers leave", async t => {
  const numbers = random(14)
  const q = randomFloats(numbers, [8, 32], int8({ groupSize: 32 }))
  const tensors = await compressedTensors.write(module, q, { scaleType: "f32" })
  const weights = { num_bits: 8, type: "int", symmetric: true, strategy: "channel" }
  const inputs = { input_activations: { num_bits: 8, type: "int", symmetric: true, strategy: "token", dynamic: true } }
  const zeros = (data: Uint8Array): NamedTensor => ({
    name: `${module}.weight_zero_point`,
    dtype: "I8",
    shape: [8, 1],
    data,
  })
  const ok = await read(t, config("int-quantized", weights, inputs), [...tensors, zeros(new Uint8Array(8))])
  t.same(floatContents(await ok.tensor()), floatContents(q), "zero points of 0")
  await t.rejects(
    (
      await read(t, config("int-quantized", weights, inputs), [
        ...tensors,
        zeros(Uint8Array.of(0, 0, 1, 0, 0, 0, 0, 0)),
      ])
    ).tensor(),
    tsqError("ERR_FORMAT", /zero points other than 0/),
  )
  const naive = await read(t, config("naive-quantized", weights, inputs), tensors)
  t.same(floatContents(await naive.tensor()), floatContents(q), "the generic name")
  const unknown = await read(
    t,
    config("int-quantized", weights, { input_activations: { num_bits: 6, type: "float" } }),
    tensors,
  )
  t.match(unknown.warnings, [/input_activations is not known here/])
  t.equal((await unknown.tensor()).scheme.activations, undefined)
  const block = randomFloats(numbers, [8, 32], e4m3({ granularity: "block", blockRows: 4, groupSize: 16 }))
  const older = await read(
    t,
    config("naive-quantized", { num_bits: 8, type: "float", strategy: "block", block_structure: "4x16" }),
    await compressedTensors.write(module, block, { scaleType: "f32" }),
  )
  t.same(floatContents(await older.tensor()), floatContents(block), "a block structure as text")
})

t.test("files that are not what they say, and tensors that do not fit", async t => {
  const numbers = random(15)
  const fp8 = randomFloats(numbers, [8, 32], e4m3({ granularity: "channel", groupSize: 32 }))
  const tensors = await compressedTensors.write(module, fp8, { scaleType: "f32" })
  const weights = { num_bits: 8, type: "float", symmetric: true, strategy: "channel" }
  const attempt = async (settings: object, list = tensors) => (await read(t, settings, list)).tensor()
  await t.rejects(
    attempt(config("int-quantized", { ...weights, type: "int" })),
    tsqError("ERR_DTYPE", /weight is F8_E4M3, expected I8/),
  )
  await t.rejects(
    attempt(config("float-quantized", { ...weights, num_bits: 4 })),
    tsqError("ERR_UNSUPPORTED", /4-bit float; of float-quantized 8-bit floats/),
  )
  await t.rejects(
    attempt(config("naive-quantized", { ...weights, symmetric: false })),
    tsqError("ERR_UNSUPPORTED", /asymmetric floating-point/),
  )
  await t.rejects(
    attempt(config("float-quantized", { ...weights, strategy: "tensor" })),
    tsqError("ERR_SHAPE", /weight_scale has 8 scales, strategy tensor of \[8, 32\] needs 1/),
  )
  await t.rejects(
    attempt(config("float-quantized", { ...weights, strategy: "block" })),
    tsqError("ERR_FORMAT", /needs a block_structure/),
  )
  await t.rejects(
    attempt(config("float-quantized", { ...weights, strategy: "block", block_structure: [0, 4] })),
    tsqError("ERR_FORMAT", /block_structure is an array/),
  )
  const inputs = { num_bits: 8, type: "float", symmetric: true, strategy: "tensor", dynamic: false }
  await t.rejects(
    attempt(config("float-quantized", weights, { input_activations: inputs })),
    tsqError("ERR_FORMAT", /input_scale is missing/),
  )
  const four = await compressedTensors.write(module, randomFloats(numbers, [8, 32], nvfp4), { scaleType: "f32" })
  const nv = { num_bits: 4, type: "float", strategy: "tensor_group", group_size: 16 }
  for (const global of [0, Number.NaN, -1])
    await t.rejects(
      attempt(
        config("nvfp4-pack-quantized", nv),
        four.with(2, { name: `${module}.weight_global_scale`, dtype: "F32", shape: [1], data: floats([global]) }),
      ),
      tsqError("ERR_FORMAT", /weight_global_scale: is .*positive/),
    )
  await t.rejects(
    attempt(config("nvfp4-pack-quantized", { ...nv, group_size: 32 }), four),
    tsqError("ERR_UNSUPPORTED", /group_size is 32; nvfp4-pack-quantized is read with groups of 16/),
  )
  const refuses = (scheme: Scheme, shape: [number, number] = [8, 32], traits = {}) =>
    compressedTensors.refuses(module, shape, scheme, traits)
  t.match(refuses({ ...nvfp4, codebook: "nf4" }), /not of the code book nf4/)
  t.match(refuses({ ...nvfp4, scaleType: "f32" }), /e2m1 with scales of FP8/)
  t.match(refuses(nvfp4, [8, 24]), /scale for each 16 columns, and this tensor has 24/)
  t.match(refuses(nvfp4, [8, 32], { groupIndex: true }), /no reordered columns/)
  t.match(refuses(mxfp4, [8, 32], { inputScale: true }), /scale per input/)
  t.match(refuses(e4m3({ granularity: "flat", groupSize: 16, runLength: 16 })), /runs across rows/)
  t.match(refuses(int8({ activations: { ...dynamicToken("int8"), dynamic: false } })), /static scales .* not per token/)
  t.match(refuses({ ...nvfp4, activations: { ...localGroup, type: "e5m2" } }), /no activations of FP8 E5M2/)
  const uneven = new QuantizedTensor({ ...fp8, scheme: { ...fp8.scheme, granularity: "tensor" } })
  await t.rejects(
    compressedTensors.write(module, uneven, { scaleType: "f32" }),
    tsqError("ERR_FORMAT", /scales differ where its scheme says/),
  )
  const odd = randomFloats(numbers, [8, 32], e4m3({ granularity: "group", groupSize: 32 }))
  const powers = new QuantizedTensor({
    ...odd,
    scheme: { ...odd.scheme, scaleType: "e8m0" },
    scales: odd.scales.map(() => 3),
  })
  await t.rejects(
    compressedTensors.write(module, powers, { scaleType: "f32" }),
    tsqError("ERR_UNSUPPORTED", /not all powers of two/),
  )
})
