import t from "tap"
import { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import type { IntegerScheme } from "../../../lib/core/scheme.ts"
import { pack, unpack } from "../../../lib/formats/arrays.ts"
import { compressedTensors } from "../../../lib/formats/compressed-tensors.ts"
import type { NamedTensor } from "../../../lib/formats/format.ts"
import { random, tsqError, vector, vectorsOf } from "../containers/support.ts"
import {
  checkpointOf,
  contents,
  dequantized,
  find,
  halves,
  hexRows,
  ints,
  randomTensor,
  wordBytes,
  written,
} from "./support.ts"

const module = "model.layers.0.mlp.up_proj"
const scheme: IntegerScheme = { bits: 4, symmetric: true, granularity: "group", groupSize: 16, scaleType: "bf16" }

interface ConfigChange {
  weights?: object
  group?: object
  [key: string]: unknown
}

const configOf = ({ weights = {}, group = {}, ...outer }: ConfigChange = {}) => ({
  quant_method: "compressed-tensors",
  format: "pack-quantized",
  quantization_status: "compressed",
  config_groups: {
    group_0: {
      targets: ["Linear"],
      weights: { num_bits: 4, type: "int", symmetric: true, strategy: "group", group_size: 16, ...weights },
      ...group,
    },
  },
  ignore: ["lm_head"],
  version: "0.17.0",
  ...outer,
})

const shapeTensor = (n: number, k: number): NamedTensor => ({
  name: `${module}.weight_shape`,
  dtype: "I64",
  shape: [2],
  data: new Uint8Array(BigInt64Array.of(BigInt(n), BigInt(k)).buffer),
})

t.test("vectors: rows of signed values", async t => {
  for (const v of vectorsOf("ct-pack-").filter(v => v.words)) {
    const codes = Uint8Array.from(v.values, (value: number) => value + 2 ** (v.bits - 1))
    const words = await pack(codes, 1, codes.length, v.bits)
    t.same([...new Uint32Array(words.buffer)], v.words.map(Number), v.id)
    t.same(await unpack(words, 1, codes.length, v.bits), codes, v.id)
    // The same through a file of one row.
    const q = new QuantizedTensor({
      scheme: { ...scheme, bits: v.bits, granularity: "channel", groupSize: codes.length },
      shape: [1, codes.length],
      codes,
      scales: Float32Array.of(1),
      zeros: null,
    })
    const { reader, tensors } = await written(t, compressedTensors, { [module]: q }, { scaleType: "bf16" })
    t.same(hexRows(tensors, `${module}.weight_packed`)[0], v.words)
    t.same(dequantized(await reader.read(module))[0], v.values)
  }
})

t.test("vectors: an asymmetric layer, written and read", async t => {
  const v = vector("ct-pack-quantized-asym")
  const [n, k] = [v.out_features, v.in_features]
  const q = new QuantizedTensor({
    scheme: { ...scheme, symmetric: false },
    shape: [n, k],
    codes: Uint8Array.from(v.values_NxK.flat(), (value: number) => value + 8),
    scales: Float32Array.from(v.weight_scale_NxG.flat()),
    zeros: Uint8Array.from(v.zero_points_NxG.flat(), (value: number) => value + 8),
  })
  const { tensors } = await written(t, compressedTensors, { [module]: q }, { scaleType: "bf16" })
  t.same(hexRows(tensors, `${module}.weight_packed`), v.weight_packed)
  t.same(hexRows(tensors, `${module}.weight_zero_point`), v.weight_zero_point)
  t.same(find(tensors, `${module}.weight_shape`), shapeTensor(n, k))
  t.match(find(tensors, `${module}.weight_scale`), { dtype: "BF16", shape: [16, 2] })
  const checkpoint = await checkpointOf(t, configOf({ weights: { symmetric: false } }), [
    { name: `${module}.weight_packed`, dtype: "I32", shape: [16, 4], data: wordBytes(v.weight_packed) },
    { name: `${module}.weight_zero_point`, dtype: "I32", shape: [2, 2], data: wordBytes(v.weight_zero_point) },
    { name: `${module}.weight_scale`, dtype: "F16", shape: [16, 2], data: halves(v.weight_scale_NxG.flat()) },
    shapeTensor(n, k),
  ])
  const reader = compressedTensors.reader(checkpoint, checkpoint.quantizationConfig!, () => t.fail("warned"))
  t.same(reader.modules, [module])
  const back = await reader.read(module)
  t.same(dequantized(back), v.dequant_weight_NxK)
  t.same(contents(back), contents(q, { scaleType: "f16" }))
})

/** One row, packed in either layout. */
const rowFile = (
  t: Parameters<typeof checkpointOf>[0],
  words: string[],
  values: number[],
  bits: number,
  version: string | undefined,
) =>
  checkpointOf(t, configOf({ weights: { num_bits: bits, strategy: "channel", group_size: null }, version }), [
    { name: `${module}.weight_packed`, dtype: "I32", shape: [1, words.length], data: wordBytes([words]) },
    { name: `${module}.weight_scale`, dtype: "F16", shape: [1, 1], data: halves([1]) },
    shapeTensor(1, values.length),
  ])

t.test("vectors: the layout of releases before 0.17", async t => {
  const v = vector("ct-pack-3bit-legacy-vs-dense")
  const read = async (words: string[], version: string | undefined) => {
    const checkpoint = await rowFile(t, words, v.values, v.bits, version)
    const warnings: string[] = []
    const q = await compressedTensors
      .reader(checkpoint, checkpoint.quantizationConfig!, message => warnings.push(message))
      .read(module)
    return { values: dequantized(q)[0], warnings }
  }
  for (const version of ["0.17.0", "0.18.2", "1.0"])
    t.same(await read(v.words_dense, version), { values: v.values, warnings: [] }, version)
  for (const version of ["0.16.9", "0.9"])
    t.same(await read(v.words_legacy, version), { values: v.values, warnings: [] }, version)
  t.match(await read(v.words_legacy, undefined), { values: v.values, warnings: [/version is missing/] })
})

/** A row in the old layout: floor(32 / bits) fields a word. */
function wholeWords(codes: number[], bits: number): number[] {
  const fields = Math.floor(32 / bits)
  const words: number[] = new Array(Math.ceil(codes.length / fields)).fill(0)
  for (const [i, code] of codes.entries()) words[Math.floor(i / fields)]! |= code << (bits * (i % fields))
  return words
}

t.test("the old layout, with zero points, told apart by its columns whatever the version says", async t => {
  const numbers = random(21)
  for (const bits of [3, 5, 6, 7] as const) {
    const [n, k] = [40, 96]
    const q = randomTensor(numbers, [n, k], { ...scheme, bits, symmetric: false, groupSize: 32 })
    const packed = Array.from({ length: n }, (_, row) =>
      wholeWords([...q.codes.subarray(row * k, (row + 1) * k)], bits),
    )
    const zeros = [0, 1, 2].map(group =>
      wholeWords(
        Array.from({ length: n }, (_, row) => q.zeros![row * 3 + group]!),
        bits,
      ),
    )
    const rows = zeros[0]!.length
    const checkpoint = await checkpointOf(
      t,
      configOf({ weights: { num_bits: bits, symmetric: false, group_size: 32 }, version: "0.17.0" }),
      [
        { name: `${module}.weight_packed`, dtype: "I32", shape: [n, packed[0]!.length], data: ints(packed.flat()) },
        {
          name: `${module}.weight_zero_point`,
          dtype: "I32",
          shape: [rows, 3],
          data: ints(Array.from({ length: rows * 3 }, (_, i) => zeros[i % 3]![Math.floor(i / 3)]!)),
        },
        { name: `${module}.weight_scale`, dtype: "F16", shape: [n, 3], data: halves(q.scales) },
        shapeTensor(n, k),
      ],
    )
    const reader = compressedTensors.reader(checkpoint, checkpoint.quantizationConfig!, () => t.fail("warned"))
    t.same(contents(await reader.read(module)), contents(q, { scaleType: "f16" }), `${bits} bits`)
  }
})

t.test("random layers survive, in every width and strategy", async t => {
  const numbers = random(31)
  const { below, pick } = numbers
  for (let i = 0; i < 120; i++) {
    const bits = (2 + below(7)) as IntegerScheme["bits"]
    const granularity = pick(["group", "group", "channel", "tensor"] as const)
    const symmetric = granularity === "tensor" || pick([true, false])
    const groupSize = pick([1, 4, 16, 43])
    const shape: [number, number] = [
      1 + below(70),
      granularity === "group" ? groupSize * (1 + below(5)) : 1 + below(200),
    ]
    const own: IntegerScheme = {
      bits,
      symmetric,
      granularity,
      groupSize: granularity === "group" ? groupSize : shape[1],
      scaleType: pick(["f16", "bf16", "f32"] as const),
    }
    const ordered = granularity === "group" && shape[1] >= 2 * groupSize && groupSize > 1 && below(3) === 0
    const q = randomTensor(numbers, shape, own, { ordered })
    const { reader, warnings } = await written(t, compressedTensors, { [module]: q }, { scaleType: own.scaleType })
    t.same(contents(await reader.read(module)), contents(q), `${bits} bits [${shape}] ${granularity} ${symmetric}`)
    t.same(warnings, [])
  }
})

t.test("zero points of one scale become those of every channel", async t => {
  const q = randomTensor(random(8), [24, 40], { ...scheme, symmetric: false, granularity: "tensor", groupSize: 40 })
  const { reader, config } = await written(t, compressedTensors, { [module]: q }, { scaleType: "bf16" })
  t.match(config, { config_groups: { group_0: { weights: { strategy: "channel" } } } })
  t.same(contents(await reader.read(module)), contents(q, { granularity: "channel" }))
})

t.test("scales: the model's dtype where that is exact, otherwise their own", async t => {
  const q = randomTensor(random(8), [8, 16], { ...scheme, scaleType: "f16" })
  const dtypeOf = async () => find(await compressedTensors.write("m", q, { scaleType: "bf16" }), "m.weight_scale").dtype
  t.equal(await dtypeOf(), "BF16")
  q.scales[1] = 1 + 2 ** -10
  t.equal(await dtypeOf(), "F16")
})

t.test("what the format cannot hold", async t => {
  const refuses = (shape: [number, number], change: Partial<IntegerScheme> = {}, extra = {}) =>
    compressedTensors.refuses("m", shape, { ...scheme, ...change }, extra)
  t.equal(refuses([172, 64]), null)
  t.equal(refuses([64, 172], { granularity: "channel", groupSize: 172 }), null)
  t.equal(refuses([64, 172]), null, "a shorter last group is held")
  t.match(refuses([64, 172], { granularity: "channel", groupSize: 172 }, { groupIndex: true }), /only with groups/)
  t.match(refuses([64, 64], {}, { inputScale: true }), /scale per input/)
})

// -------------------------------------------------------------------------------------------------------- configuration

const summary = (
  modules: Record<string, Partial<IntegerScheme & { hasGroupIndex: boolean }>>,
  unquantized: string[] = [],
) => ({
  modules: new Map(
    Object.entries(modules).map(([name, change]) => [name, { ...scheme, hasGroupIndex: false, ...change }]),
  ),
  unquantized,
  damp: null,
  version: "0.1.0",
})
const configure = (...args: Parameters<typeof summary>) =>
  compressedTensors.configuration(summary(...args), { scaleType: "bf16" })

t.test("a uniform configuration", async t => {
  t.same(configure({ "model.layers.0.a": {}, "model.layers.1.a": {} }, ["lm_head", "model.layers.0.b"]), {
    quantizationConfig: {
      quant_method: "compressed-tensors",
      format: "pack-quantized",
      quantization_status: "compressed",
      config_groups: {
        group_0: {
          targets: ["Linear"],
          weights: {
            num_bits: 4,
            type: "int",
            symmetric: true,
            group_size: 16,
            strategy: "group",
            block_structure: null,
            dynamic: false,
            actorder: null,
            observer: "minmax",
            observer_kwargs: {},
          },
          input_activations: null,
          output_activations: null,
        },
      },
      ignore: ["lm_head", "model.layers.0.b"],
      kv_cache_scheme: null,
      global_compression_ratio: null,
      version: "0.17.0",
    },
    files: {},
  })
  t.match(configure({ a: { granularity: "channel", hasGroupIndex: false } }).quantizationConfig, {
    ignore: ["lm_head"],
    config_groups: { group_0: { weights: { strategy: "channel", group_size: null } } },
  })
  t.match(configure({ a: { hasGroupIndex: true } }).quantizationConfig, {
    config_groups: { group_0: { weights: { actorder: "group" } } },
  })
  t.match(configure({ a: {}, lm_head: {}, "model.embed_tokens": {} }).quantizationConfig, {
    ignore: [],
    config_groups: { group_0: { targets: ["Linear", "model.embed_tokens"] } },
  })
  t.throws(() => configure({}), tsqError("ERR_FORMAT", /no module is quantized/))
})

t.test("mixed schemes: a group each, read back module by module", async t => {
  const numbers = random(41)
  const tensors: Record<string, QuantizedTensor> = {}
  for (let layer = 0; layer < 12; layer++)
    for (const name of ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"]) {
      const bits = name === "mlp.down_proj" && (layer < 2 || layer > 9) ? 8 : name === "self_attn.o_proj" ? 3 : 4
      tensors[`model.layers.${layer}.${name}`] = randomTensor(numbers, [8, 32], {
        ...scheme,
        bits,
        symmetric: bits !== 3,
      })
    }
  tensors["model.embed_tokens"] = randomTensor(numbers, [20, 32], {
    ...scheme,
    bits: 8,
    granularity: "channel",
    groupSize: 32,
  })
  const { reader, config, warnings } = await written(t, compressedTensors, tensors, { scaleType: "bf16" }, [
    "lm_head",
    "model.layers.3.mlp.up_proj",
  ])
  for (const [name, q] of Object.entries(tensors)) t.same(contents(await reader.read(name)), contents(q), name)
  t.same(warnings, [])
  const groups = Object.values(config.config_groups as Record<string, { targets: string[] }>)
  t.same(
    groups.map(group => group.targets),
    [
      [
        "re:^model\\.layers\\.\\d+\\.self_attn\\.q_proj$",
        "re:^model\\.layers\\.(?:2|3|4|5|6|7|8|9)\\.mlp\\.down_proj$",
      ],
      ["re:^model\\.layers\\.\\d+\\.self_attn\\.o_proj$"],
      ["re:^model\\.layers\\.(?:0|1|10|11)\\.mlp\\.down_proj$"],
      ["re:^model\\.embed_tokens$"],
    ],
  )
})

t.test("targets and ignore", async t => {
  const numbers = random(51)
  const four = randomTensor(numbers, [8, 32], scheme)
  const eight = randomTensor(numbers, [8, 32], { ...scheme, bits: 8 })
  const tensors = [
    ...(await compressedTensors.write("a.x", four, { scaleType: "bf16" })),
    ...(await compressedTensors.write("a.y", eight, { scaleType: "bf16" })),
  ]
  const weights = (bits: number) => ({
    num_bits: bits,
    type: "int",
    symmetric: true,
    strategy: "group",
    group_size: 16,
  })
  const open = async (config_groups: object, ignore: string[] = []) => {
    const checkpoint = await checkpointOf(t, configOf({ config_groups, ignore }), tensors)
    return compressedTensors.reader(checkpoint, checkpoint.quantizationConfig!, () => {})
  }
  // Names and patterns win over the class, wherever they stand.
  for (const target of ["a.y", "re:.*y$", "re:a\\."]) {
    const reader = await open({
      group_0: { targets: ["Linear"], weights: weights(target === "re:a\\." ? 8 : 4) },
      group_1: { targets: target === "re:a\\." ? ["a.x"] : [target], weights: weights(target === "re:a\\." ? 4 : 8) },
    })
    t.same(contents(await reader.read("a.x")), contents(four), target)
    t.same(contents(await reader.read("a.y")), contents(eight), target)
  }
  const partial = await open({ group_0: { targets: ["re:x"], weights: weights(4) } })
  await t.rejects(
    partial.read("a.x"),
    tsqError("ERR_FORMAT", /a\.x: is stored packed, and no config group/),
    "patterns match from the start",
  )
  for (const ignored of ["a.x", "re:.*\\.x", "Linear"])
    await t.rejects(
      (await open({ group_0: { targets: ["Linear"], weights: weights(4) } }, [ignored])).read("a.x"),
      tsqError("ERR_FORMAT", /a\.x: is stored packed although .*ignore lists/),
    )
  const embedding = await open({ group_0: { targets: ["Embedding"], weights: weights(4) } })
  await t.rejects(embedding.read("a.x"), tsqError("ERR_FORMAT", /no config group/))
})

t.test("other formats and settings are refused, by name", async t => {
  const q = randomTensor(random(1), [8, 32], scheme)
  const tensors = await compressedTensors.write(module, q, { scaleType: "bf16" })
  const read = async (change: ConfigChange) => {
    const checkpoint = await checkpointOf(t, configOf(change), tensors)
    const warnings: string[] = []
    const tensor = await compressedTensors
      .reader(checkpoint, checkpoint.quantizationConfig!, message => warnings.push(message))
      .read(module)
    return { tensor, warnings }
  }
  t.same(contents((await read({})).tensor), contents(q))
  for (const format of ["marlin-24", "sparse-24-bitmask", "mixed-precision"])
    await t.rejects(read({ format }), tsqError("ERR_UNSUPPORTED", new RegExp(`the format "${format}"`)))
  await t.rejects(
    read({ format: "mixed-precision", group: { format: "nvfp4-pack-quantized" } }),
    tsqError("ERR_UNSUPPORTED", /4-bit int; of nvfp4-pack-quantized 4-bit floats/),
  )
  t.same(contents((await read({ format: "mixed-precision", group: { format: "pack-quantized" } })).tensor), contents(q))
  t.same(contents((await read({ weights: { strategy: "GROUP", type: "INT" } })).tensor), contents(q), "in either case")
  t.same(
    contents((await read({ weights: { strategy: undefined } })).tensor),
    contents(q),
    "inferred from the group size",
  )
  await t.rejects(read({ sparsity_config: { format: "sparse-24-bitmask" } }), tsqError("ERR_UNSUPPORTED", /sparse/))
  await t.rejects(read({ weights: { type: "float" } }), tsqError("ERR_UNSUPPORTED", /4-bit float/))
  await t.rejects(read({ weights: { num_bits: 1 } }), tsqError("ERR_UNSUPPORTED", /1-bit int/))
  await t.rejects(read({ weights: { strategy: "block" } }), tsqError("ERR_UNSUPPORTED", /strategy is "block"/))
  await t.rejects(
    read({ weights: { strategy: "tensor", symmetric: false } }),
    tsqError("ERR_UNSUPPORTED", /one scale for the whole tensor/),
  )
  await t.rejects(read({ weights: { group_size: null } }), tsqError("ERR_FORMAT", /needs a positive group_size/))
  await t.rejects(read({ group: { weights: null } }), tsqError("ERR_FORMAT", /no config group with weights/))
  await t.rejects(read({ group: { weights: 4 } }), tsqError("ERR_FORMAT", /weights is number 4/))
  await t.rejects(read({ group: { targets: "Linear" } }), tsqError("ERR_FORMAT", /targets is string/))
  await t.rejects(read({ config_groups: [] }), tsqError("ERR_FORMAT", /config_groups is an array/))
  await t.rejects(
    read({ weights: { num_bits: 8 } }),
    tsqError("ERR_SHAPE", /weight_packed is \[8, 4\], expected \[8, 8\]/),
  )
  await t.rejects(read({ weights: { group_size: 8 } }), tsqError("ERR_SHAPE", /weight_scale has 16 scales/))
  await t.rejects(read({ weights: { symmetric: false } }), tsqError("ERR_FORMAT", /weight_zero_point is missing/))
  const inputs = { num_bits: 8, type: "int", strategy: "token", dynamic: true }
  const beside = await read({ kv_cache_scheme: { num_bits: 8 }, group: { input_activations: inputs } })
  t.same(beside.warnings, [], "running says that they are not used")
  t.match(beside.tensor.scheme.activations, { type: "int8", dynamic: true, granularity: "token" })
})

t.test("checkpoints that are not what they say", async t => {
  const q = randomTensor(random(1), [8, 32], scheme)
  const tensors = await compressedTensors.write(module, q, { scaleType: "bf16" })
  const read = async (
    change: (tensors: NamedTensor[]) => NamedTensor[],
    config = configOf({ weights: { actorder: "group" } }),
  ) => {
    const checkpoint = await checkpointOf(t, config, change(tensors))
    return compressedTensors.reader(checkpoint, config, () => {}).read(module)
  }
  const other = (replacement: NamedTensor) => (list: NamedTensor[]) => [
    ...list.filter(tensor => tensor.name !== replacement.name),
    replacement,
  ]
  await t.rejects(
    read(other(shapeTensor(9, 32))),
    tsqError("ERR_CORRUPT", /weight_shape holds \[9, 32\], .*weight_packed has 8 rows/),
  )
  await t.rejects(read(other(shapeTensor(8, -32))), tsqError("ERR_CORRUPT", /weight_shape holds/))
  await t.rejects(
    read(other(shapeTensor(8, 64))),
    tsqError("ERR_SHAPE", /weight_packed is \[8, 4\], expected \[8, 8\]/),
  )
  await t.rejects(
    read(list => list.filter(tensor => !tensor.name.endsWith("weight_shape"))),
    tsqError("ERR_FORMAT", /weight_shape is missing/),
  )
  const index = (values: number[]) =>
    other({ name: `${module}.weight_g_idx`, dtype: "I32", shape: [values.length], data: ints(values) })
  await t.rejects(
    read(index([...new Array(31).fill(0), 2])),
    tsqError("ERR_CORRUPT", /weight_g_idx: column 31 belongs to group 2/),
  )
  t.equal((await read(index(new Array(32).fill(-1)))).groupIndex, null, "an index that was never set")
  const shuffled = Array.from({ length: 32 }, (_, i) => (i + 1) % 2)
  t.same([...(await read(index(shuffled))).groupIndex!], shuffled)
})
