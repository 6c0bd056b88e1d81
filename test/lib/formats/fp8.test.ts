// FP8 checkpoints of Hugging Face and vLLM (fp8, fbgemm_fp8) and of ModelOpt, NVFP4 among them.
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import type { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import type { Scheme } from "../../../lib/core/scheme.ts"
import { fbgemmFp8 } from "../../../lib/formats/fbgemm-fp8.ts"
import type { CheckpointFormat, NamedTensor } from "../../../lib/formats/format.ts"
import { fp8 } from "../../../lib/formats/fp8.ts"
import { modelopt } from "../../../lib/formats/modelopt.ts"
import { detectFormat } from "../../../lib/formats/registry.ts"
import { folder, random, tsqError, vector, writeCheckpoint } from "../containers/support.ts"
import {
  dynamicGroup,
  dynamicToken,
  e4m3,
  floatContents,
  floatValues,
  localGroup,
  nvfp4,
  randomFloats,
  staticTensor,
} from "./float-support.ts"
import { checkpointOf, find, summaryOf, written } from "./support.ts"

const module = "model.layers.0.mlp.up_proj"
const floats = (values: ArrayLike<number>): Uint8Array => new Uint8Array(Float32Array.from(values).buffer)
const options = { scaleType: "f32" } as const

const block = (rest: Partial<Scheme> = {}) =>
  e4m3({ granularity: "block", groupSize: 128, blockRows: 128, activations: dynamicGroup(128), ...rest })
const tensor = (k: number, activations = dynamicToken("e4m3")) =>
  e4m3({ granularity: "tensor", groupSize: k, activations })
const channel = (k: number) => e4m3({ granularity: "channel", groupSize: k, activations: dynamicToken("e4m3") })

interface Case {
  format: CheckpointFormat
  shape: [number, number]
  scheme: Scheme
  /** Names after the module's, dtypes and shapes. */
  tensors: Record<string, [string, number[]]>
  config: object
}

const cases: Record<string, Case> = {
  "fp8 in blocks, cut at the edges": {
    format: fp8,
    shape: [200, 320],
    scheme: block(),
    tensors: { weight: ["F8_E4M3", [200, 320]], weight_scale_inv: ["F32", [2, 3]] },
    config: { quant_method: "fp8", activation_scheme: "dynamic", weight_block_size: [128, 128] },
  },
  "fp8 in blocks wider than the matrix": {
    format: fp8,
    shape: [40, 96],
    scheme: block({ groupSize: 96 }),
    tensors: { weight: ["F8_E4M3", [40, 96]], weight_scale_inv: ["F32", [1, 1]] },
    config: { weight_block_size: [128, 128] },
  },
  "fp8 with scales of bf16": {
    format: fp8,
    shape: [128, 256],
    scheme: block({ scaleType: "bf16" }),
    tensors: { weight: ["F8_E4M3", [128, 256]], weight_scale_inv: ["BF16", [1, 2]] },
    config: { weight_block_size: [128, 128] },
  },
  "fp8 for the tensor": {
    format: fp8,
    shape: [24, 48],
    scheme: tensor(48),
    tensors: { weight: ["F8_E4M3", [24, 48]], weight_scale: ["F32", []] },
    config: { quant_method: "fp8", activation_scheme: "dynamic", weight_block_size: undefined },
  },
  "fp8 with static activations": {
    format: fp8,
    shape: [24, 48],
    scheme: tensor(48, staticTensor("e4m3")),
    tensors: { weight: ["F8_E4M3", [24, 48]], weight_scale: ["F32", []], input_scale: ["F32", []] },
    config: { activation_scheme: "static" },
  },
  fbgemm_fp8: {
    format: fbgemmFp8,
    shape: [24, 48],
    scheme: channel(48),
    tensors: { weight: ["F8_E4M3", [24, 48]], weight_scale: ["F32", [24, 1]] },
    config: { quant_method: "fbgemm_fp8", activation_scale_ub: 1200 },
  },
  "ModelOpt FP8": {
    format: modelopt,
    shape: [24, 48],
    scheme: tensor(48, staticTensor("e4m3")),
    tensors: { weight: ["F8_E4M3", [24, 48]], weight_scale: ["F32", []], input_scale: ["F32", []] },
    config: { quant_method: "modelopt", quant_algo: "FP8" },
  },
  "ModelOpt by channel": {
    format: modelopt,
    shape: [24, 48],
    scheme: channel(48),
    tensors: { weight: ["F8_E4M3", [24, 48]], weight_scale: ["F32", [24]] },
    config: { quant_algo: "FP8_PER_CHANNEL_PER_TOKEN" },
  },
  "ModelOpt in blocks": {
    format: modelopt,
    shape: [256, 384],
    scheme: e4m3({ granularity: "block", groupSize: 128, blockRows: 128 }),
    tensors: { weight: ["F8_E4M3", [256, 384]], weight_scale: ["F32", [2, 1, 3, 1]] },
    config: { quant_algo: "FP8_PB_WO" },
  },
  "ModelOpt NVFP4": {
    format: modelopt,
    shape: [24, 48],
    scheme: { ...nvfp4, activations: localGroup },
    tensors: {
      weight: ["U8", [24, 24]],
      weight_scale: ["F8_E4M3", [24, 3]],
      weight_scale_2: ["F32", []],
      input_scale: ["F32", []],
    },
    config: { quant_algo: "NVFP4", group_size: 16 },
  },
  "ModelOpt NVFP4 of weights": {
    format: modelopt,
    shape: [24, 48],
    scheme: nvfp4,
    tensors: { weight: ["U8", [24, 24]], weight_scale: ["F8_E4M3", [24, 3]], weight_scale_2: ["F32", []] },
    config: { quant_algo: "W4A16_NVFP4" },
  },
}

t.test("written as the engines have them, and read back", async t => {
  const numbers = random(21)
  for (const [name, { format, shape, scheme, tensors, config }] of Object.entries(cases)) {
    const q = randomFloats(numbers, shape, scheme, { divides: false, global: 5 / 8192 })
    const file = await written(t, format, { [module]: q }, options, ["lm_head", "model.layers.0.mlp.down_proj"])
    t.same(
      Object.fromEntries(file.tensors.map(({ name, dtype, shape }) => [name.slice(module.length + 1), [dtype, shape]])),
      tensors,
      name,
    )
    t.match(file.config, config, name)
    t.equal(detectFormat(file.config), format)
    t.same(file.reader.modules, [module])
    t.same(file.reader.tensorNames(module).length, Object.keys(tensors).length)
    t.same(floatContents(await file.reader.read(module)), floatContents(q), name)
    t.same(file.warnings, [])
  }
})

t.test("vector: NVFP4's global scale is a multiplier here", async t => {
  const v = vector("ct-nvfp4")
  const n = v.weight_NxK.length
  const tensors: NamedTensor[] = [
    { name: `${module}.weight`, dtype: "U8", shape: [n, 16], data: Buffer.from(v.weight_packed.join(""), "hex") },
    {
      name: `${module}.weight_scale`,
      dtype: "F8_E4M3",
      shape: [n, 2],
      data: Uint8Array.from(v.weight_scale_bytes.flat()),
    },
    { name: `${module}.weight_scale_2`, dtype: "F32", shape: [], data: floats([v.modelopt_weight_scale_2]) },
  ]
  const config = { quant_method: "modelopt", quant_algo: "W4A16_NVFP4", ignore: ["lm_head"] }
  const checkpoint = await checkpointOf(t, config, tensors)
  const q = await modelopt.reader(checkpoint, config, () => t.fail("warned")).read(module)
  t.same([...q.codes], v.codes.flat())
  const values = floatValues(q).flat()
  const expected = v.dequant_f32.flat() as number[]
  t.ok(values.every((value, i) => Math.abs(value - expected[i]!) <= 2e-7 * Math.abs(expected[i]!)))
  const again = await modelopt.write(module, q, options)
  for (const { name, data } of tensors)
    t.same(Buffer.from(find(again, name).data as Uint8Array), Buffer.from(data as Uint8Array))
})

t.test("hf_quant_config.json: written, and read where config.json says nothing", async t => {
  const q = randomFloats(random(22), [24, 48], nvfp4, { divides: false, global: 2 ** -11 })
  const { quantizationConfig, files } = modelopt.configuration(
    summaryOf({ [module]: q }, ["model.layers.1.a"]),
    options,
  )
  t.same(files, {
    "hf_quant_config.json": {
      producer: { name: "modelopt", version: "tsq-native 0.1.0" },
      quantization: {
        quant_algo: "W4A16_NVFP4",
        kv_cache_quant_algo: null,
        group_size: 16,
        exclude_modules: ["model.layers.1.a", "lm_head"],
      },
    },
  })
  t.match(quantizationConfig, { quant_method: "modelopt", ignore: ["model.layers.1.a", "lm_head"], group_size: 16 })
  const directory = folder(t)
  await writeCheckpoint(directory, {}, await modelopt.write(module, q, options))
  writeFileSync(join(directory, "hf_quant_config.json"), JSON.stringify(files["hf_quant_config.json"]))
  const checkpoint = await Checkpoint.open(directory)
  t.teardown(() => checkpoint.dispose())
  t.equal(detectFormat(checkpoint.quantizationConfig), modelopt)
  const reader = modelopt.reader(checkpoint, checkpoint.quantizationConfig!, () => t.fail("warned"))
  t.same(floatContents(await reader.read(module)), floatContents(q))
})

t.test("what is listed as left alone, and is not", async t => {
  const q = randomFloats(random(23), [24, 48], tensor(48))
  const channelled = randomFloats(random(23), [24, 48], channel(48))
  const warnings = async (format: CheckpointFormat, q: QuantizedTensor, change: object) => {
    const { quantizationConfig } = format.configuration(summaryOf({ [module]: q }), options)
    const config = { ...quantizationConfig, ...change }
    const checkpoint = await checkpointOf(t, config, await format.write(module, q, options))
    const found: string[] = []
    format.reader(checkpoint, config, text => found.push(text))
    return found
  }
  const said = [/up_proj is stored quantized although quantization_config lists it/]
  t.match(await warnings(fp8, q, { ignored_layers: [module] }), said)
  t.match(await warnings(fp8, q, { modules_to_not_convert: [module] }), said)
  t.match(await warnings(fbgemmFp8, channelled, { modules_to_not_convert: [module] }), said)
  for (const pattern of ["model.layers.0*", "*up_proj", "model.layers.0.mlp", "model.layers.?.mlp.up_proj"])
    t.match(await warnings(modelopt, channelled, { ignore: [pattern] }), said, pattern)
  for (const pattern of ["model.layers.1*", "lm_head", "model.layers.0.mlp.up", "[up]*", ".*"])
    t.same(await warnings(modelopt, channelled, { ignore: [pattern] }), [], pattern)
})

t.test("a file has one setting, and names that can be told apart", async t => {
  const numbers = random(24)
  const a = randomFloats(numbers, [24, 48], tensor(48))
  const b = randomFloats(numbers, [24, 48], block({ groupSize: 48 }))
  t.throws(
    () => fp8.configuration(summaryOf({ a, b }), options),
    tsqError("ERR_UNSUPPORTED", /fp8 has the same settings for all modules: a has .*, b has/),
  )
  t.throws(() => fp8.configuration(summaryOf({}), options), tsqError("ERR_FORMAT", /no module is quantized/))
  t.throws(
    () => fp8.configuration(summaryOf({ "model.gate_proj": a }, ["model.gate"]), options),
    tsqError("ERR_UNSUPPORTED", /fp8 cannot leave model\.gate unquantized and quantize model\.gate_proj/),
  )
  t.same(fp8.configuration(summaryOf({ a }, ["b"]), options).quantizationConfig, {
    quant_method: "fp8",
    fmt: "e4m3",
    activation_scheme: "dynamic",
    modules_to_not_convert: ["b"],
    ignored_layers: ["b"],
  })
})

t.test("tensors that a format cannot hold", async t => {
  const int8: Scheme = { bits: 8, symmetric: true, granularity: "channel", groupSize: 48, scaleType: "f32" }
  const refuses = (format: CheckpointFormat, scheme: Scheme, traits = {}) =>
    format.refuses(module, [24, 48], scheme, traits)
  t.match(refuses(fp8, int8), /fp8 stores FP8 E4M3, not whole numbers/)
  t.match(refuses(fp8, nvfp4), /not codes of e2m1/)
  t.match(refuses(fp8, channel(48)), /not for each channel/)
  t.match(refuses(fp8, e4m3({ granularity: "tensor", groupSize: 48 })), /those of this tensor are left as they are/)
  t.match(refuses(fp8, block({ groupSize: 32 })), /in groups as wide as the blocks/)
  t.match(
    refuses(fp8, e4m3({ granularity: "group", groupSize: 16, scaleType: "e8m0" })),
    /float scales, not powers of two/,
  )
  t.match(refuses(fp8, tensor(48), { groupIndex: true }), /no reordered columns/)
  t.match(refuses(fp8, tensor(48), { inputScale: true }), /scale per input/)
  t.match(refuses(fbgemmFp8, tensor(48)), /a scale for each output, not for each tensor/)
  t.match(
    refuses(fbgemmFp8, { ...channel(48), activations: staticTensor("e4m3") }),
    /activations e4m3 dynamic per token/,
  )
  t.match(refuses(modelopt, tensor(48)), /modelopt has FP8 for the tensor with static activations/)
  t.match(refuses(modelopt, { ...nvfp4, scaleType: "e8m0", groupSize: 32 }), /use compressed-tensors/)
  t.match(
    refuses(modelopt, e4m3({ granularity: "block", groupSize: 48, blockRows: 128 })),
    /whole blocks of 128 by 128/,
  )
  t.match(modelopt.refuses(module, [8, 24], nvfp4), /scale for each 16 columns, and this tensor has 24/)
  await t.rejects(
    fp8.write(module, randomFloats(random(1), [24, 48], channel(48)), options),
    tsqError("ERR_UNSUPPORTED", /up_proj: fp8 has a scale/),
  )
})

t.test("NVFP4 goes between divisors and multipliers only where both give the same scales", t => {
  const numbers = random(25)
  const powers = randomFloats(numbers, [8, 32], nvfp4, { divides: true, global: 1024 })
  const others = randomFloats(numbers, [8, 32], nvfp4, { divides: true, global: 3 })
  t.equal(modelopt.refuses(module, [8, 32], nvfp4, { levels: powers.levels }), null)
  t.match(
    modelopt.refuses(module, [8, 32], nvfp4, { levels: others.levels }),
    /modelopt multiplies with the global scale where this tensor's scales are divided by it/,
  )
  t.end()
})

t.test("files that are not what they say", async t => {
  const q = randomFloats(random(26), [24, 48], block({ groupSize: 48 }))
  const tensors = await fp8.write(module, q, options)
  const config = { quant_method: "fp8", activation_scheme: "dynamic", weight_block_size: [128, 128] }
  const read = async (settings: object, list = tensors) => {
    const checkpoint = await checkpointOf(t, settings, list)
    return detectFormat(checkpoint.quantizationConfig)!
      .reader(checkpoint, settings as never, () => {})
      .read(module)
  }
  t.same(floatContents(await read(config)), floatContents(q))
  await t.rejects(
    read({ ...config, weight_block_size: null }),
    tsqError("ERR_FORMAT", /has weight_scale_inv, and .*no weight_block_size/),
  )
  await t.rejects(
    read({ ...config, weight_block_size: [128] }),
    tsqError("ERR_FORMAT", /weight_block_size is an array/),
  )
  await t.rejects(read({ ...config, weight_block_size: [16, 128] }), tsqError("ERR_SHAPE", /has 1 scales, expected 2/))
  await t.rejects(read({ ...config, fmt: "e5m2" }), tsqError("ERR_UNSUPPORTED", /fmt is "e5m2"/))
  await t.rejects(read({ ...config, activation_scheme: "none" }), tsqError("ERR_FORMAT", /activation_scheme is "none"/))
  await t.rejects(
    read({ quant_method: "modelopt", quant_algo: "MIXED_PRECISION" }),
    tsqError("ERR_UNSUPPORTED", /quant_algo is string "MIXED_PRECISION"; of ModelOpt checkpoints FP8/),
  )
  await t.rejects(
    read({ quant_method: "modelopt", quant_algo: "nvfp4", group_size: 32 }),
    tsqError("ERR_UNSUPPORTED", /group_size is 32/),
  )
  const single = await fp8.write(module, randomFloats(random(26), [24, 48], tensor(48)), options)
  await t.rejects(
    read({ quant_method: "fp8", activation_scheme: "static" }, single),
    tsqError("ERR_FORMAT", /input_scale is missing/),
  )
  const named = [...single, { name: `${module}.activation_scale`, dtype: "F32", shape: [1], data: floats([0.25]) }]
  const other = await read({ quant_method: "fp8", activation_scheme: "static" }, named)
  t.same(other.activation, { scale: Float32Array.of(0.25), zero: null }, "the name that transformers has")
  await t.rejects(
    read({ quant_method: "fbgemm_fp8" }, single),
    tsqError("ERR_SHAPE", /weight_scale has 1 scales, expected 24/),
  )
})
