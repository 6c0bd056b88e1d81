import t from "tap"
import type { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import type { IntegerScheme } from "../../../lib/core/scheme.ts"
import { pack, packPlanes, unpack, unpackPlanes } from "../../../lib/formats/arrays.ts"
import { gptqVersions } from "../../../lib/formats/format.ts"
import { gptq } from "../../../lib/formats/gptq.ts"
import { random, tsqError, vector, vectorsOf } from "../containers/support.ts"
import {
  checkpointOf,
  contents,
  dequantized,
  find,
  fromColumns,
  halves,
  hexRows,
  ints,
  randomTensor,
  summaryOf,
  wordBytes,
  written,
} from "./support.ts"

const layers = ["gptq-4bit-asym", "gptq-4bit-sym", "gptq-8bit-sym", "gptq-2bit-asym", "gptq-3bit-asym"]
const module = "model.layers.0.mlp.up_proj"

t.test("vectors: layers are written word for word, v1 and v2", async t => {
  for (const id of layers) {
    const v = vector(id)
    const q = fromColumns(v)
    for (const version of ["v1", "v2"] as const) {
      const tensors = await gptq.write(module, q, { scaleType: "f16", gptqVersion: version })
      t.same(hexRows(tensors, `${module}.qweight`), v.qweight, id)
      t.same(hexRows(tensors, `${module}.qzeros`), v[`qzeros_${version}`], id)
      t.same(find(tensors, `${module}.g_idx`).data, ints(v.g_idx), id)
      t.match(find(tensors, `${module}.scales`), {
        dtype: "F16",
        shape: [v.in_features / v.group_size, v.out_features],
      })
      t.same(
        Buffer.from(find(tensors, `${module}.scales`).data as Uint8Array),
        Buffer.from(halves(v.scales_GxN.flat())),
        id,
      )
    }
  }
})

/** The checkpoint of a vector, with the zero points of one version and a configuration that may say another. */
const vectorCheckpoint = (
  t: Parameters<typeof checkpointOf>[0],
  id: string,
  stored: "v1" | "v2",
  config: object = {},
) => {
  const v = vector(id)
  const [rows, cols] = [v.qweight.length, v.out_features]
  const zeros: string[][] = v[`qzeros_${stored}`]
  return checkpointOf(
    t,
    {
      quant_method: "gptq",
      bits: v.bits,
      group_size: v.group_size,
      sym: v.sym,
      desc_act: false,
      checkpoint_format: stored === "v1" ? "gptq" : "gptq_v2",
      ...config,
    },
    [
      { name: `${module}.qweight`, dtype: "I32", shape: [rows, cols], data: wordBytes(v.qweight) },
      { name: `${module}.qzeros`, dtype: "I32", shape: [zeros.length, zeros[0]!.length], data: wordBytes(zeros) },
      { name: `${module}.scales`, dtype: "F16", shape: [v.scales_GxN.length, cols], data: halves(v.scales_GxN.flat()) },
      { name: `${module}.g_idx`, dtype: "I32", shape: [v.in_features], data: ints(v.g_idx) },
      { name: `${module}.bias`, dtype: "F16", shape: [cols], data: halves(new Array(cols).fill(1)) },
    ],
  )
}

const readVector = async (
  t: Parameters<typeof checkpointOf>[0],
  id: string,
  stored: "v1" | "v2",
  config: object = {},
): Promise<{ q: QuantizedTensor; warnings: string[] }> => {
  const checkpoint = await vectorCheckpoint(t, id, stored, config)
  const warnings: string[] = []
  const reader = gptq.reader(checkpoint, checkpoint.quantizationConfig!, message => warnings.push(message))
  return { q: await reader.read(module), warnings }
}

t.test("vectors: layers are read, v1 and v2", async t => {
  for (const id of layers)
    for (const version of ["v1", "v2"] as const) {
      const { q, warnings } = await readVector(t, id, version)
      t.same(dequantized(q), vector(id).dequant_weight_NxK, `${id} ${version}`)
      t.same(contents(q), contents(fromColumns(vector(id))))
      t.same(warnings, [])
    }
})

t.test("vectors: words", async t => {
  for (const v of vectorsOf("gptq-word")) {
    const words = await pack(Uint8Array.from(v.codes), 1, v.codes.length, v.bits)
    t.same([...new Uint32Array(words.buffer)], v.words.map(Number), v.id)
    t.same([...(await unpack(words, 1, v.codes.length, v.bits))], v.codes, v.id)
  }
})

t.test("vectors: planar words", async t => {
  for (const v of vectorsOf("gptq-planar")) {
    const words = await packPlanes(Uint8Array.from(v.codes), 1, v.codes.length, v.bits)
    t.same([...new Uint32Array(words.buffer)], v.words.map(Number), v.id)
    t.same([...(await unpackPlanes(words, 1, v.codes.length, v.bits))], v.codes, v.id)
  }
})

t.test("planar files: 3 bits lie otherwise, 5 to 7 bits always so", async t => {
  const numbers = random(17)
  const scheme = (bits: IntegerScheme["bits"], symmetric: boolean): IntegerScheme => ({
    bits,
    symmetric,
    granularity: "group",
    groupSize: 32,
    scaleType: "f16",
  })
  for (const [bits, symmetric] of [
    [3, true],
    [3, false],
    [5, true],
    [6, false],
    [7, false],
  ] as const) {
    const q = randomTensor(numbers, [64, 96], scheme(bits, symmetric))
    const { config, reader, checkpoint } = await written(
      t,
      gptq,
      { [module]: q },
      { scaleType: "f16", gptqVersion: "planar" },
    )
    t.match(config, { bits, checkpoint_format: "gptq_p", format: "gptq_p" })
    t.same(contents(await reader.read(module)), contents(q))
    if (bits === 3) continue
    const undeclared = { ...config, checkpoint_format: "gptq_v2", format: "gptq_v2" }
    t.same(contents(await gptq.reader(checkpoint, undeclared, () => t.fail("warned")).read(module)), contents(q))
  }
  t.match(gptq.refuses("m", [32, 32], scheme(5, true), { gptqVersion: "v2" }), /2, 3, 4 or 8 bits, not 5.*"planar"/)
  t.equal(gptq.refuses("m", [32, 32], scheme(5, true), { gptqVersion: "planar" }), null)
})

t.test("symmetric files: the values decide between v1 and v2", async t => {
  for (const id of ["gptq-4bit-sym", "gptq-8bit-sym"]) {
    const { q, warnings } = await readVector(t, id, "v1", { checkpoint_format: "gptq_v2" })
    t.same(contents(q), contents(fromColumns(vector(id))))
    t.match(warnings, [/is GPTQ v1, although the configuration says v2/])
    const other = await readVector(t, id, "v2", { checkpoint_format: undefined })
    t.same(contents(other.q), contents(fromColumns(vector(id))))
    t.match(other.warnings, [/is GPTQ v2, although the configuration says v1/])
  }
  const claimed = await readVector(t, "gptq-4bit-asym", "v2", { sym: true })
  t.match(claimed.warnings, [/says symmetric, yet the zero points differ/])
  t.same(dequantized(claimed.q), vector("gptq-4bit-asym").dequant_weight_NxK)
  const later = await readVector(t, "gptq-4bit-sym", "v1", { format: "gptq", checkpoint_format: undefined })
  t.same(later.warnings, [], "either key declares the version")
})

t.test("the zero point 0 in v1", async t => {
  const v = vector("gptq-v1-zero-zero-trap")
  const row: number[] = Array.from({ length: 32 }, (_, i) => v.zeros[i % 8])
  const q = fromColumns({ ...vector("gptq-4bit-asym"), zeros_GxN: [row, new Array(32).fill(1)] })
  await t.rejects(
    gptq.write(module, q, { scaleType: "f16" }),
    tsqError("ERR_UNSUPPORTED", /up_proj: a zero point is 0, which gptq v1 cannot store/),
  )
  const tensors = await gptq.write(module, q, { scaleType: "f16", gptqVersion: "v2" })
  t.equal(hexRows(tensors, `${module}.qzeros`)[0]![0], v.word_v2)
  t.match(gptq.refuses(module, q.shape, q.scheme, { zeros: q.zeros }), /zero point is 0/)
  t.equal(gptq.refuses(module, q.shape, q.scheme, { zeros: q.zeros, gptqVersion: "v2" }), null)
  // Files that hold it are read field by field.
  const readWord = async (word: string) => {
    const checkpoint = await checkpointOf(
      t,
      { quant_method: "gptq", bits: 4, group_size: 32, sym: false, desc_act: false },
      [
        { name: "m.qweight", dtype: "I32", shape: [4, 8], data: new Uint8Array(128) },
        { name: "m.qzeros", dtype: "I32", shape: [1, 1], data: wordBytes([[word]]) },
        { name: "m.scales", dtype: "F16", shape: [1, 8], data: halves(new Array(8).fill(1)) },
      ],
    )
    const warnings: string[] = []
    const q = await gptq.reader(checkpoint, checkpoint.quantizationConfig!, message => warnings.push(message)).read("m")
    t.match(warnings, [/a zero point of 0 is stored in GPTQ v1/])
    return [...q.zeros!]
  }
  t.same(await readWord(v.word_v1_per_field_mod16), v.readback.per_field_masked)
  t.same(await readWord(v.word_v1_autogptq_or), v.readback.autogptq_or_masked)
  t.same(await readWord(v.word_v1_whole_word_subtract), v.readback.whole_word_masked)
})

t.test("random layers survive, in every width, group and version", async t => {
  const numbers = random(3)
  const { below, pick } = numbers
  for (let i = 0; i < 80; i++) {
    const gptqVersion = pick(gptqVersions)
    const bits = gptqVersion === "planar" ? pick([2, 3, 4, 5, 6, 7, 8] as const) : pick([2, 3, 4, 8] as const)
    const shape: [number, number] = [32 * (1 + below(4)), 32 * (1 + below(6))]
    const granularity = pick(["group", "group", "channel"] as const)
    const divisors = [8, 16, 32, 64, 96].filter(size => shape[1] % size === 0)
    const symmetric = pick([true, false])
    const scheme: IntegerScheme = {
      bits,
      symmetric,
      granularity,
      groupSize: granularity === "group" ? pick(divisors) : shape[1],
      scaleType: pick(["f16", "bf16"] as const),
    }
    const ordered = granularity === "group" && scheme.groupSize < shape[1] && below(3) === 0
    const q = randomTensor(numbers, shape, scheme, { ordered, minZero: gptqVersion === "v1" ? 1 : 0 })
    const { reader, warnings } = await written(t, gptq, { [module]: q }, { scaleType: "bf16", gptqVersion })
    t.same(reader.modules, [module])
    const back = await reader.read(module)
    t.same(contents(back), contents(q, { scaleType: "f16" }), `${bits} bits [${shape}] ${gptqVersion}`)
    t.same(warnings, [])
  }
})

t.test("vectors: activation order", async t => {
  const v = vector("gptq-g-idx-desc-act")
  const groupIndex = new Int32Array(16)
  v.perm.forEach((column: number, i: number) => {
    groupIndex[column] = Math.floor(i / v.group_size)
  })
  t.same([...groupIndex], v.g_idx)
  const numbers = random(9)
  const scheme: IntegerScheme = { bits: 4, symmetric: true, granularity: "group", groupSize: 8, scaleType: "f16" }
  const q = randomTensor(numbers, [32, 32], scheme, { ordered: true })
  // Whatever the flag says, an index that goes up and down is followed.
  for (const desc_act of [true, false]) {
    const tensors = await gptq.write(module, q, { scaleType: "f16" })
    t.same(find(tensors, `${module}.g_idx`).data, ints(q.groupIndex!))
    const checkpoint = await checkpointOf(
      t,
      { quant_method: "gptq", bits: 4, group_size: 8, sym: true, desc_act },
      tensors,
    )
    t.same(
      contents(await gptq.reader(checkpoint, checkpoint.quantizationConfig!, () => t.fail("warned")).read(module)),
      contents(q),
    )
  }
  const { config } = await written(t, gptq, { a: q, b: randomTensor(numbers, [32, 32], scheme) })
  t.equal(config.desc_act, true)
  t.notOk(config.dynamic, "one flag does for all")
})

t.test("an index that tells nothing is ignored, a wrong one refused", async t => {
  const base = vector("gptq-4bit-asym")
  const withIndex = async (index: number[] | null, config: object = {}) => {
    const checkpoint = await checkpointOf(
      t,
      {
        quant_method: "gptq",
        bits: 4,
        group_size: 16,
        sym: false,
        desc_act: false,
        checkpoint_format: "gptq_v2",
        ...config,
      },
      [
        { name: "m.qweight", dtype: "I32", shape: [4, 32], data: wordBytes(base.qweight) },
        { name: "m.qzeros", dtype: "I32", shape: [2, 4], data: wordBytes(base.qzeros_v2) },
        { name: "m.scales", dtype: "F16", shape: [2, 32], data: halves(base.scales_GxN.flat()) },
        ...(index ? [{ name: "m.g_idx", dtype: "I32", shape: [index.length], data: ints(index) }] : []),
      ],
    )
    const warnings: string[] = []
    const reader = gptq.reader(checkpoint, checkpoint.quantizationConfig!, message => warnings.push(message))
    return { q: await reader.read("m"), warnings, names: reader.tensorNames("m") }
  }
  const zeros = new Array(32).fill(0)
  t.match(await withIndex(zeros), { q: { groupIndex: null }, warnings: [/m\.g_idx: differs from column \/ 16/] })
  t.same([...(await withIndex(zeros, { desc_act: true })).q.groupIndex!], zeros)
  const missing = await withIndex(null)
  t.equal(missing.q.groupIndex, null)
  t.same(missing.names, ["m.qweight", "m.qzeros", "m.scales"])
  await t.rejects(
    withIndex([...zeros.slice(1), 2]),
    tsqError("ERR_CORRUPT", /m\.g_idx: column 31 belongs to group 2, expected 0 to 1/),
  )
  await t.rejects(withIndex([-1, ...zeros.slice(1)]), tsqError("ERR_CORRUPT", /column 0 belongs to group -1/))
  await t.rejects(withIndex([0]), tsqError("ERR_SHAPE", /m\.g_idx is \[1\], expected \[32\]/))
})

t.test("what the format cannot hold", async t => {
  const scheme: IntegerScheme = { bits: 4, symmetric: true, granularity: "group", groupSize: 32, scaleType: "f16" }
  const refuses = (shape: [number, number], change: Partial<IntegerScheme> = {}, extra = {}) =>
    gptq.refuses("m", shape, { ...scheme, ...change }, extra)
  t.equal(refuses([64, 96]), null)
  t.equal(refuses([64, 96], { granularity: "channel", groupSize: 96 }), null)
  t.match(refuses([64, 172]), /k = 172 is not a multiple of 32/)
  t.match(refuses([172, 64]), /n = 172 is not a multiple of 32/)
  t.match(refuses([64, 96], { groupSize: 64 }), /k = 96 is not a multiple of the group size 64/)
  for (const bits of [5, 6, 7] as const) t.match(refuses([64, 96], { bits }), /2, 3, 4 or 8 bits, not/)
  t.match(refuses([64, 96], {}, { inputScale: true }), /scale per input/)
  t.match(gptq.refuses("model.embed_tokens", [64, 96], scheme), /embeddings/)
  const q = randomTensor(random(1), [32, 40], { ...scheme, groupSize: 8 })
  await t.rejects(gptq.write("m", q, { scaleType: "f16" }), tsqError("ERR_UNSUPPORTED", /^m: k = 40/))
})

t.test("scales: exact or refused", async t => {
  const numbers = random(2)
  const make = (scaleType: IntegerScheme["scaleType"], scale: number) => {
    const q = randomTensor(numbers, [32, 32], {
      bits: 4,
      symmetric: true,
      granularity: "group",
      groupSize: 32,
      scaleType,
    })
    q.scales[5] = scale
    return q
  }
  const dtypeOf = async (q: QuantizedTensor) => find(await gptq.write("m", q, { scaleType: "bf16" }), "m.scales").dtype
  t.equal(await dtypeOf(make("bf16", 2 ** -16)), "F16", "a bf16 scale that f16 holds")
  t.equal(await dtypeOf(make("bf16", 2 ** -40)), "BF16", "one that f16 would round to 0")
  t.equal(await dtypeOf(make("f32", 2 ** -10)), "F16")
  await t.rejects(dtypeOf(make("f32", 0.1)), tsqError("ERR_UNSUPPORTED", /m: its f32 scales cannot be stored exactly/))
  const { reader } = await written(t, gptq, { m: make("bf16", 2 ** -40) }, { scaleType: "bf16" })
  t.equal((await reader.read("m")).scheme.scaleType, "bf16")
})

t.test("checkpoints that are not what they say", async t => {
  const read = async (id: string, config: object) => (await readVector(t, id, "v1", config)).q
  await t.rejects(read("gptq-4bit-asym", { bits: 8 }), tsqError("ERR_SHAPE", /qzeros is \[2, 4\], expected/))
  await t.rejects(read("gptq-4bit-asym", { bits: 3 }), tsqError("ERR_SHAPE", /no whole words of 3-bit codes/))
  await t.rejects(
    read("gptq-4bit-asym", { group_size: 8 }),
    tsqError("ERR_SHAPE", /qzeros is \[2, 4\], expected \[4, 4\]/),
  )
  await t.rejects(read("gptq-4bit-asym", { bits: 5 }), tsqError("ERR_SHAPE", /no whole words of 5-bit codes/))
  await t.rejects(read("gptq-4bit-asym", { bits: 9 }), tsqError("ERR_UNSUPPORTED", /9 bits/))
  await t.rejects(
    read("gptq-4bit-asym", { bits: "4" }),
    tsqError("ERR_FORMAT", /quantization_config\.bits is string "4"/),
  )
  await t.rejects(
    read("gptq-4bit-asym", { bits: undefined }),
    tsqError("ERR_FORMAT", /quantization_config\.bits is nothing/),
  )
  await t.rejects(read("gptq-4bit-asym", { group_size: 0 }), tsqError("ERR_FORMAT", /group_size/))
  await t.rejects(read("gptq-4bit-asym", { sym: 1 }), tsqError("ERR_FORMAT", /quantization_config\.sym/))
  await t.rejects(read("gptq-4bit-asym", { dynamic: [] }), tsqError("ERR_FORMAT", /dynamic is an array/))
  await t.rejects(
    read("gptq-4bit-asym", { dynamic: { "+:(": {} } }),
    tsqError("ERR_FORMAT", /not a regular expression/),
  )
  for (const checkpoint_format of ["bitblas", "marlin"])
    await t.rejects(
      read("gptq-4bit-asym", { checkpoint_format }),
      tsqError("ERR_UNSUPPORTED", new RegExp(`"${checkpoint_format}"`)),
    )
  const checkpoint = await checkpointOf(t, {}, [
    { name: "m.qweight", dtype: "F32", shape: [4, 32], data: new Uint8Array(512) },
  ])
  await t.rejects(
    gptq.reader(checkpoint, { bits: 4 }, () => {}).read("m"),
    tsqError("ERR_DTYPE", /m\.qweight is F32, expected I32/),
  )
  const lone = await checkpointOf(t, {}, [
    { name: "m.qweight", dtype: "I32", shape: [4, 32], data: new Uint8Array(512) },
  ])
  await t.rejects(gptq.reader(lone, { bits: 4 }, () => {}).read("m"), tsqError("ERR_FORMAT", /m\.qzeros is missing/))
})

// -------------------------------------------------------------------------------------------------------- configuration

/** Every linear of a model of `layers` layers. */
const linears = (layers: number) =>
  Array.from({ length: layers }, (_, i) =>
    [
      "self_attn.q_proj",
      "self_attn.k_proj",
      "self_attn.v_proj",
      "self_attn.o_proj",
      "mlp.gate_proj",
      "mlp.up_proj",
      "mlp.down_proj",
    ].map(name => `model.layers.${i}.${name}`),
  ).flat()

const schemeOf = (change: Partial<IntegerScheme> = {}): IntegerScheme => ({
  bits: 4,
  symmetric: true,
  granularity: "group",
  groupSize: 128,
  scaleType: "f16",
  ...change,
})

const configOf = (modules: Record<string, Partial<IntegerScheme>>, unquantized: string[] = [], options = {}) =>
  gptq.configuration(
    {
      modules: new Map(
        Object.entries(modules).map(([name, change]) => [name, { ...schemeOf(change), hasGroupIndex: false }]),
      ),
      unquantized,
      damp: 0.01,
      version: "0.1.0",
    },
    { scaleType: "f16", ...options },
  )

const all = (change: Partial<IntegerScheme> = {}, layers = 12) =>
  Object.fromEntries(linears(layers).map(name => [name, change]))

t.test("a uniform configuration has what every loader needs", async t => {
  const { quantizationConfig, files } = configOf(all(), ["lm_head"])
  t.same(quantizationConfig, {
    quant_method: "gptq",
    bits: 4,
    group_size: 128,
    sym: true,
    desc_act: false,
    static_groups: false,
    true_sequential: true,
    lm_head: false,
    checkpoint_format: "gptq",
    format: "gptq",
    pack_dtype: "int32",
    damp_percent: 0.01,
    model_name_or_path: null,
    model_file_base_name: null,
    meta: { quantizer: ["tsq-native:0.1.0"] },
  })
  t.same(files, { "quantize_config.json": quantizationConfig })
  t.match(configOf(all({ granularity: "channel", groupSize: 4096 }), [], { gptqVersion: "v2" }).quantizationConfig, {
    group_size: -1,
    checkpoint_format: "gptq_v2",
    format: "gptq_v2",
  })
  t.throws(() => configOf({}), tsqError("ERR_FORMAT", /no module is quantized/))
  const summary = summaryOf({ m: randomTensor(random(1), [32, 32], schemeOf({ groupSize: 32 })) }, [], 0)
  t.notOk(
    "damp_percent" in gptq.configuration(summary, { scaleType: "f16" }).quantizationConfig,
    "transformers refuses 0",
  )
})

t.test("optimum's list of modules in a block", async t => {
  const without = (name: string) =>
    [linears(2).filter(module => !module.includes(name)), linears(2).filter(module => module.includes(name))] as const
  const [kept, skipped] = without("o_proj")
  const scheme = Object.fromEntries(kept.map(module => [module, {}]))
  t.ok(configOf(scheme, skipped).quantizationConfig.modules_in_block_to_quantize)
  t.notOk(
    configOf({ ...scheme, lm_head: {} }, skipped).quantizationConfig.modules_in_block_to_quantize,
    "vLLM would leave the head out",
  )
  t.notOk(
    configOf(all(), ["model.layers.12.self_attn.o_proj"]).quantizationConfig.modules_in_block_to_quantize,
    "blocks differ",
  )
})

/** How vLLM looks a module up: the first rule that matches from the start of its (fused) name. */
function lookUp(
  dynamic: Record<string, Record<string, unknown>>,
  name: string,
): Record<string, unknown> | false | null {
  for (const [key, value] of Object.entries(dynamic))
    if (new RegExp(`^(?:${key.slice(2)})`).test(name)) return key.startsWith("-:") ? false : value
  return null
}

t.test("rules for modules left unquantized match plain and fused names, and nothing else", async t => {
  const names = linears(12)
  const skipped = names.filter(name =>
    /layers\.(1|10)\.self_attn\.[qkv]_proj|layers\.3\.mlp\.(gate|up)_proj|layers\.5\.self_attn\.q_proj|o_proj/.test(
      name,
    ),
  )
  const modules = Object.fromEntries(names.filter(name => !skipped.includes(name)).map(name => [name, {}]))
  const dynamic = configOf(modules, [...skipped, "lm_head"]).quantizationConfig.dynamic as Record<
    string,
    Record<string, unknown>
  >
  for (const name of names) t.equal(lookUp(dynamic, name), skipped.includes(name) ? false : null, name)
  for (let i = 0; i < 12; i++) {
    t.equal(
      lookUp(dynamic, `model.layers.${i}.self_attn.qkv_proj`),
      i === 1 || i === 10 ? false : null,
      "half of a fused layer is not the layer",
    )
    t.equal(lookUp(dynamic, `model.layers.${i}.mlp.gate_up_proj`), i === 3 ? false : null)
  }
  t.ok(Object.keys(dynamic).includes("-:^model\\.layers\\.\\d+\\.self_attn\\.o_proj$"), "one rule for all layers")
  t.ok(Object.keys(dynamic).length <= 5, Object.keys(dynamic).join(" "))
  const uniform = configOf(
    Object.fromEntries(names.filter(name => !name.includes("o_proj")).map(name => [name, {}])),
    names.filter(name => name.includes("o_proj")),
  )
  t.same(uniform.quantizationConfig.modules_in_block_to_quantize, [
    ["self_attn.q_proj"],
    ["self_attn.k_proj"],
    ["self_attn.v_proj"],
    ["mlp.gate_proj"],
    ["mlp.up_proj"],
    ["mlp.down_proj"],
  ])
})

t.test("mixed settings become rules and are read back", async t => {
  const numbers = random(4)
  const tensors: Record<string, QuantizedTensor> = {}
  for (const name of linears(3)) {
    const eight = name.includes("down_proj")
    const scheme = schemeOf({
      bits: eight ? 8 : 4,
      groupSize: name.includes(".1.") ? 16 : 32,
      symmetric: !name.includes("o_proj"),
    })
    tensors[name] = randomTensor(numbers, [32, 64], scheme, { minZero: 1 })
  }
  tensors.lm_head = randomTensor(numbers, [64, 64], schemeOf({ bits: 8, granularity: "channel", groupSize: 64 }))
  const { reader, config, warnings } = await written(t, gptq, tensors, { scaleType: "f16" })
  t.match(config, { bits: 4, group_size: 32, sym: true, lm_head: true })
  const dynamic = config.dynamic as Record<string, Record<string, unknown>>
  t.same(lookUp(dynamic, "model.layers.0.mlp.down_proj"), { bits: 8 })
  t.same(lookUp(dynamic, "model.layers.1.mlp.down_proj"), { bits: 8, group_size: 16 })
  t.same(lookUp(dynamic, "model.layers.1.self_attn.qkv_proj"), { group_size: 16 })
  t.same(lookUp(dynamic, "model.layers.0.self_attn.qkv_proj"), null)
  t.same(lookUp(dynamic, "lm_head"), { bits: 8, group_size: -1 })
  t.same([...reader.modules].sort(), Object.keys(tensors).sort())
  for (const [name, q] of Object.entries(tensors)) t.same(contents(await reader.read(name)), contents(q), name)
  t.same(warnings, [])
})

t.test("dynamic: negative rules first, then the first that matches; tensors are believed", async t => {
  const numbers = random(6)
  const q = randomTensor(numbers, [32, 32], schemeOf({ bits: 8, groupSize: 32 }))
  const tensors = [
    ...(await gptq.write("model.layers.0.a", q, { scaleType: "f16" })),
    ...(await gptq.write("model.layers.0.b", q, { scaleType: "f16" })),
  ]
  const dynamic = { ".*\\.a$": { bits: 8 }, "+:.*\\.a": { bits: 2 }, "+:.*\\.[ab]": { bits: 8 }, "-:.*\\.b": {} }
  const checkpoint = await checkpointOf(
    t,
    { quant_method: "gptq", bits: 4, group_size: 32, sym: true, desc_act: false, dynamic },
    tensors,
  )
  const warnings: string[] = []
  const reader = gptq.reader(checkpoint, checkpoint.quantizationConfig!, message => warnings.push(message))
  t.same(contents(await reader.read("model.layers.0.a")), contents(q))
  t.same(contents(await reader.read("model.layers.0.b")), contents(q))
  t.match(warnings, [/model\.layers\.0\.b is stored quantized although quantization_config\.dynamic/])
})

t.test("detection", async t => {
  t.ok(gptq.detect({ quant_method: "gptq" }))
  t.ok(gptq.detect({ bits: 4, group_size: 128, desc_act: false }), "an old quantize_config.json")
  t.notOk(gptq.detect({ quant_method: "awq", bits: 4, desc_act: false }))
  t.notOk(gptq.detect({ bits: 4, zero_point: true }))
})

t.test("names: the bias stays a dense tensor", async t => {
  const checkpoint = await vectorCheckpoint(t, "gptq-4bit-sym", "v1")
  const reader = gptq.reader(checkpoint, checkpoint.quantizationConfig!, () => {})
  t.same(
    reader.tensorNames(module),
    ["qweight", "qzeros", "scales", "g_idx"].map(name => `${module}.${name}`),
  )
})
