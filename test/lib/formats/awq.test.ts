import t from "tap"
import type { IntegerScheme } from "../../../lib/core/scheme.ts"
import { pack, unpack } from "../../../lib/formats/arrays.ts"
import { awq } from "../../../lib/formats/awq.ts"
import type { NamedTensor } from "../../../lib/formats/format.ts"
import { native } from "../../../lib/native.ts"
import { random, tsqError, vector } from "../containers/support.ts"
import {
  checkpointOf,
  contents,
  dequantized,
  find,
  fromColumns,
  halves,
  hexRows,
  randomTensor,
  wordBytes,
  written,
} from "./support.ts"

const module = "model.layers.0.mlp.up_proj"
const config = { quant_method: "awq", bits: 4, group_size: 8, zero_point: true, version: "gemm" }
const scheme: IntegerScheme = { bits: 4, symmetric: false, granularity: "group", groupSize: 32, scaleType: "f16" }

const vectorTensors = (): NamedTensor[] => {
  const v = vector("awq-gemm")
  return [
    { name: `${module}.qweight`, dtype: "I32", shape: [16, 4], data: wordBytes(v.qweight) },
    { name: `${module}.qzeros`, dtype: "I32", shape: [2, 4], data: wordBytes(v.qzeros) },
    { name: `${module}.scales`, dtype: "F16", shape: [2, 32], data: halves(v.scales_GxN.flat()) },
  ]
}

t.test("vectors: written and read", async t => {
  const v = vector("awq-gemm")
  const tensors = await awq.write(module, fromColumns(v), { scaleType: "bf16" })
  t.same(hexRows(tensors, `${module}.qweight`), v.qweight)
  t.same(hexRows(tensors, `${module}.qzeros`), v.qzeros)
  t.same(Buffer.from(find(tensors, `${module}.scales`).data as Uint8Array), Buffer.from(halves(v.scales_GxN.flat())))
  const checkpoint = await checkpointOf(t, config, vectorTensors())
  const reader = awq.reader(checkpoint, config, () => t.fail("warned"))
  t.same(reader.modules, [module])
  t.same(reader.tensorNames(module), [`${module}.qweight`, `${module}.qzeros`, `${module}.scales`])
  const q = await reader.read(module)
  t.same(dequantized(q), v.dequant_weight_NxK)
  t.same(contents(q), contents(fromColumns(v)))
})

t.test("vectors: the word", async t => {
  const v = vector("awq-word")
  const words = await pack(Uint8Array.from(v.codes), 1, 8, 4, { interleave: true })
  t.equal((words[0] as number) >>> 0, Number(v.word))
  t.same([...(await unpack(words, 1, 8, 4, { interleave: true }))], v.codes)
})

t.test("random layers survive", async t => {
  const numbers = random(11)
  const { below, pick } = numbers
  for (let i = 0; i < 60; i++) {
    const groupSize = pick([8, 16, 32, 48])
    const shape: [number, number] = [8 * (1 + below(12)), groupSize * (1 + below(5))]
    const granularity = pick(["group", "group", "channel"] as const)
    const own: IntegerScheme = {
      ...scheme,
      symmetric: pick([true, false]),
      granularity,
      groupSize: granularity === "group" ? groupSize : shape[1],
    }
    const q = randomTensor(numbers, shape, own)
    const { reader, tensors } = await written(t, awq, { [module]: q })
    t.same(contents(await reader.read(module)), contents(q), `[${shape}] ${granularity}`)
    if (own.symmetric)
      t.ok(
        hexRows(tensors, `${module}.qzeros`)
          .flat()
          .every(word => word === "0x88888888"),
        "symmetric is zero point 8",
      )
  }
})

t.test("what the format cannot hold", async t => {
  const refuses = (shape: [number, number], change: Partial<IntegerScheme> = {}, extra = {}) =>
    awq.refuses("m", shape, { ...scheme, ...change }, extra)
  t.equal(refuses([64, 96]), null)
  t.equal(refuses([64, 96], { symmetric: true }), null)
  t.match(refuses([64, 96], { bits: 8 }), /4 bits, not 8/)
  t.match(refuses([172, 64]), /n = 172 is not a multiple of 8/)
  t.match(refuses([64, 172]), /k = 172 is not a multiple of the group size 32/)
  t.match(refuses([64, 96], {}, { groupIndex: true }), /g_idx/)
  t.match(refuses([64, 96], {}, { inputScale: true }), /scale per input/)
  t.match(awq.refuses("model.embed_tokens", [64, 96], scheme), /embeddings/)
  const numbers = random(1)
  await t.rejects(
    awq.write("m", randomTensor(numbers, [12, 32], scheme), { scaleType: "f16" }),
    tsqError("ERR_UNSUPPORTED", /^m: n = 12/),
  )
  const tiny = randomTensor(numbers, [8, 32], { ...scheme, scaleType: "bf16" })
  tiny.scales[3] = 2 ** -40
  await t.rejects(
    awq.write("m", tiny, { scaleType: "bf16" }),
    tsqError("ERR_UNSUPPORTED", /m: its bf16 scales cannot be stored exactly/),
  )
})

const configOf = (modules: Record<string, Partial<IntegerScheme>>, unquantized: string[] = []) =>
  awq.configuration(
    {
      modules: new Map(
        Object.entries(modules).map(([name, change]) => [name, { ...scheme, ...change, hasGroupIndex: false }]),
      ),
      unquantized,
      damp: null,
      version: "0.1.0",
    },
    { scaleType: "f16" },
  )

t.test("configuration", async t => {
  const names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(name => `model.layers.1.${name}`)
  const { quantizationConfig, files } = configOf(
    { "model.layers.1.mlp.up_proj": {}, "model.layers.11.self_attn.q_proj": {} },
    ["lm_head", ...names],
  )
  const skipped = ["lm_head", ...names, "model.layers.1.self_attn.qkv_proj"]
  t.same(quantizationConfig, {
    quant_method: "awq",
    bits: 4,
    group_size: 32,
    zero_point: true,
    version: "gemm",
    modules_to_not_convert: skipped,
  })
  t.same(files, {
    "quant_config.json": {
      zero_point: true,
      q_group_size: 32,
      w_bit: 4,
      version: "GEMM",
      modules_to_not_convert: skipped,
    },
  })
  t.equal(configOf({ m: {} }).quantizationConfig.modules_to_not_convert, null)
  t.match(
    configOf({ m: { granularity: "channel", groupSize: 96 }, lm_head: { granularity: "channel", groupSize: 64 } })
      .quantizationConfig,
    { group_size: -1, lm_head: true },
  )
  t.throws(
    () => configOf({ a: {}, b: { groupSize: 64 } }),
    tsqError("ERR_UNSUPPORTED", /one group size.*a has 32, b has 64/),
  )
  t.throws(
    () => configOf({ "layers.0.mlp.gate_proj": {} }, ["layers.0.mlp.gate"]),
    tsqError("ERR_UNSUPPORTED", /cannot leave layers\.0\.mlp\.gate unquantized/),
  )
  t.throws(() => configOf({}), tsqError("ERR_FORMAT", /no module is quantized/))
})

t.test("vectors: GEMV, padded zero points", async t => {
  const v = vector("awq-gemv")
  const [n, k] = [v.out_features, v.in_features]
  // The vector has the first two rows; the others repeat them.
  const every = <T>(rows: T[]): T[] => Array.from({ length: n }, (_, row) => rows[row % 2] as T)
  const scales = Array.from({ length: n }, (_, row) =>
    Array.from({ length: 32 }, (_, group) => (group < 2 ? (1 + row + group) / 64 : 0)),
  )
  const own = { ...config, version: "gemv", group_size: v.group_size }
  const tensors = [
    { name: `${module}.qweight`, dtype: "I32", shape: [n, k / 8], data: wordBytes(every(v.qweight_rows01)) },
    { name: `${module}.qzeros`, dtype: "I32", shape: [n, 4], data: wordBytes(every(v.qzeros_rows01)) },
    { name: `${module}.scales`, dtype: "F16", shape: v.scales_shape, data: halves(scales.flat()) },
  ]
  const checkpoint = await checkpointOf(t, own, tensors)
  const q = await awq.reader(checkpoint, own, () => t.fail("warned")).read(module)
  t.match(q.scheme, { bits: 4, symmetric: false, granularity: "group", groupSize: 32, scaleType: "f16" })
  t.same([...q.codes], every(v.codes_NxK_rows01).flat())
  t.same([...q.zeros!], every(v.zeros_rows01).flat())
  t.same(
    [...q.scales],
    scales.flatMap(row => row.slice(0, 2)),
  )
  const narrow = await checkpointOf(t, own, [tensors[0]!, { ...tensors[1]!, shape: [n * 4, 1] }, tensors[2]!])
  await t.rejects(
    awq.reader(narrow, own, () => {}).read(module),
    tsqError("ERR_SHAPE", /qzeros is \[128, 1\], expected \[32, 4\]/),
  )
  await t.rejects(
    awq.reader(checkpoint, { ...own, group_size: 16 }, () => {}).read(module),
    tsqError("ERR_UNSUPPORTED", /group_size is 16; in AWQ's GEMV layouts/),
  )
})

t.test("vectors: GEMV_FAST and llm-awq, zero points times scales", async t => {
  const v = vector("awq-gemv-fast")
  const [n, k] = [v.out_features, v.in_features]
  const rows = n / 4
  const words = Uint16Array.from({ length: rows * k }, (_, i) => Number(v.qweight_row0_u16[i % k]))
  const zeros = Array.from({ length: 32 }, (_, group) =>
    Array.from({ length: n }, (_, row) => (group < 2 ? (3 * row + 5 * group) % 16 : 0)),
  )
  // No power of two, so that the products are rounded.
  const scales = zeros.map((row, group) => row.map((_, i) => (group < 2 ? 0.01 + i / 977 : 0)))
  const half = (values: number[]) => {
    const out = new Float32Array(values.length)
    native.convert(new Uint16Array(halves(values).buffer), 1, out, 0, values.length)
    return [...out]
  }
  const stored = half(scales.flat())
  const products = stored.map((scale, i) => -scale * (zeros.flat()[i] as number))
  const tensorsOf = (negative: number[], name = "qzeros") => [
    { name: `${module}.qweight`, dtype: "I16", shape: [rows, k], data: new Uint8Array(words.buffer) },
    { name: `${module}.${name}`, dtype: "F16", shape: [32, n], data: halves(negative) },
    { name: `${module}.scales`, dtype: "F16", shape: [32, n], data: halves(stored) },
  ]
  for (const [name, own] of [
    ["qzeros", { ...config, version: "gemv_fast", group_size: v.group_size }],
    ["scaled_zeros", { ...config, backend: "llm-awq", version: "gemv", group_size: v.group_size }],
  ] as const) {
    const checkpoint = await checkpointOf(t, own, tensorsOf(products, name))
    const reader = awq.reader(checkpoint, own, () => t.fail("warned"))
    const q = await reader.read(module)
    t.same(reader.tensorNames(module).length, 3)
    for (let row = 0; row < n; row += 4)
      t.same([...q.codes.subarray(row * k, (row + 4) * k)], v.codes_NxK_rows0123.flat(), `${name}, row ${row}`)
    t.same([...q.zeros!], Array.from({ length: n }, (_, row) => [zeros[0]![row], zeros[1]![row]]).flat())
    t.same([...q.scales], Array.from({ length: n }, (_, row) => [stored[row], stored[n + row]]).flat())
  }
  const own = { ...config, version: "gemv_fast", group_size: v.group_size }
  const odd = await checkpointOf(t, own, tensorsOf(products.map((x, i) => (i === 7 ? x - stored[7]! / 3 : x))))
  await t.rejects(
    awq.reader(odd, own, () => {}).read(module),
    tsqError("ERR_CORRUPT", /qzeros: element 7 is .*no zero point from 0 to 15/),
  )
})

t.test("other layouts are refused, by name", async t => {
  const checkpoint = await checkpointOf(t, config, vectorTensors())
  const refused = (change: object, message: RegExp) =>
    t.throws(() => awq.reader(checkpoint, { ...config, ...change }, () => {}), tsqError("ERR_UNSUPPORTED", message))
  refused({ version: "marlin" }, /"marlin"; of AWQ checkpoints gemm, gemv, gemv_fast are read/)
  refused({ backend: "other" }, /"other"/)
  refused({ bits: 3 }, /3 bits/)
  refused({ zero_point: false }, /zero_point is false/)
  t.throws(
    () => awq.reader(checkpoint, { ...config, group_size: undefined }, () => {}),
    tsqError("ERR_FORMAT", /group_size/),
  )
  const own = awq.reader(checkpoint, { w_bit: 4, q_group_size: 8, zero_point: true, version: "GEMM" }, () => {})
  t.same(dequantized(await own.read(module)), vector("awq-gemm").dequant_weight_NxK, "AutoAWQ's own names")
  const divided = await checkpointOf(t, config, [
    ...vectorTensors(),
    { name: "model.layers.0.mlp.act.scales", dtype: "F16", shape: [1], data: new Uint8Array(2) },
  ])
  t.throws(() => awq.reader(divided, config, () => {}), tsqError("ERR_UNSUPPORTED", /act\.scales divides activations/))
})

t.test("checkpoints that are not what they say", async t => {
  const damaged = async (change: (tensors: NamedTensor[]) => NamedTensor[], own: object = {}) => {
    const checkpoint = await checkpointOf(t, { ...config, ...own }, change(vectorTensors()))
    return awq.reader(checkpoint, checkpoint.quantizationConfig!, () => {}).read(module)
  }
  const without = (suffix: string) => (tensors: NamedTensor[]) =>
    tensors.filter(tensor => !tensor.name.endsWith(suffix))
  await t.rejects(damaged(without("qzeros")), tsqError("ERR_FORMAT", /qzeros is missing/))
  await t.rejects(damaged(without("scales")), tsqError("ERR_FORMAT", /scales is missing/))
  await t.rejects(
    damaged(tensors => tensors, { group_size: 4 }),
    tsqError("ERR_SHAPE", /qzeros is \[2, 4\], expected \[4, 4\]/),
  )
  await t.rejects(
    damaged(tensors => [{ ...(tensors[0] as NamedTensor), dtype: "I16", shape: [16, 8] }, ...tensors.slice(1)]),
    tsqError("ERR_DTYPE", /qweight is I16, expected I32/),
  )
  await t.rejects(
    damaged(tensors => [{ ...(tensors[0] as NamedTensor), shape: [64] }, ...tensors.slice(1)]),
    tsqError("ERR_SHAPE", /expected a matrix/),
  )
})

t.test("detection", async t => {
  t.ok(awq.detect(config))
  t.ok(awq.detect({ w_bit: 4, q_group_size: 128, zero_point: true }), "a quant_config.json")
  t.notOk(awq.detect({ quant_method: "gptq", zero_point: true, bits: 4 }))
  t.notOk(awq.detect({ bits: 4, desc_act: false }))
})
