import t from "tap"
import { codebook } from "../../../lib/core/codebooks.ts"
import { QuantizedTensor } from "../../../lib/core/quantized-tensor.ts"
import type { Scheme } from "../../../lib/core/scheme.ts"
import { sharedBytes, sharedFloats } from "../../../lib/core/tensor.ts"
import { bitsandbytes } from "../../../lib/formats/bitsandbytes.ts"
import { blockScheme } from "../../../lib/formats/bitsandbytes-reader.ts"
import type { NamedTensor } from "../../../lib/formats/format.ts"
import { detectFormat } from "../../../lib/formats/registry.ts"
import { doubleQuantized, dynamicMap, int8Levels, levelScales } from "../../../lib/formats/scale-levels.ts"
import { dequantizeAsync } from "../../../lib/kernels/dequantize.ts"
import { roundBlockwise, roundInt8 } from "../../../lib/rounding/blockwise.ts"
import { random, tsqError, vector } from "../containers/support.ts"
import { checkpointOf, contents, find, summaryOf, written } from "./support.ts"

const module = "model.layers.0.mlp.up_proj"
const f16 = { scaleType: "f16" } as const

const shared = (values: ArrayLike<number>): Float32Array => {
  const out = sharedFloats(values.length)
  out.set(values)
  return out
}

const blocks = (type: "nf4" | "fp4", k: number, size = 64): Scheme => blockScheme(type, size, k)

const quantized = (weight: number[][], type: "nf4" | "fp4", size = 64): Promise<QuantizedTensor> =>
  roundBlockwise(shared(weight.flat()), [weight.length, weight[0]!.length], blocks(type, weight[0]!.length, size))

const hex = (tensor: NamedTensor): string => Buffer.from(tensor.data as Uint8Array).toString("hex")
const floatsOf = (tensor: NamedTensor): number[] => [
  ...new Float32Array(Uint8Array.from(tensor.data as Uint8Array).buffer),
]
const bytes = (tensors: NamedTensor[]) =>
  Object.fromEntries(tensors.map(each => [each.name, `${each.dtype} [${each.shape}] ${hex(each)}`]))

t.test("vectors: code books and the dynamic map", async t => {
  for (const name of ["nf4", "fp4"] as const)
    t.same(
      [...codebook(name)].map(x => x + 0),
      vector(`bnb-${name}-table`).values,
    )
  t.same([...dynamicMap()], vector("bnb-dynamic-map-256").values.map(Math.fround))
})

t.test("vectors: NF4 and FP4 are rounded, written and read", async t => {
  for (const type of ["nf4", "fp4"] as const) {
    const v = vector(`bnb-${type}-bytes`)
    const q = await quantized(v.weight, type)
    const { tensors, reader, warnings, config } = await written(t, bitsandbytes, { [module]: q })
    t.equal(hex(find(tensors, `${module}.weight`)), v.bytes)
    t.same(find(tensors, `${module}.weight`).shape, v.shape)
    t.same(floatsOf(find(tensors, `${module}.weight.absmax`)), v.absmax)
    t.same(
      [...(await dequantizeAsync(q))].map(x => x + 0),
      v.dequant_f32.flat().map((x: number) => x + 0),
    )
    const back = await reader.read(module)
    t.same(contents(back), contents(q))
    t.same([...(await dequantizeAsync(back))], [...(await dequantizeAsync(q))])
    t.same(warnings, [])
    t.match(config, {
      load_in_4bit: true,
      load_in_8bit: false,
      bnb_4bit_quant_type: type,
      bnb_4bit_use_double_quant: false,
    })
    t.equal(detectFormat(config), bitsandbytes)
  }
})

t.test("vectors: double quantization", async t => {
  const v = vector("bnb-nf4-nested")
  const q = await doubleQuantized(await quantized(v.weight, "nf4"))
  const { levels } = q
  t.equal(levels!.shift, v.nested_offset)
  t.same([...levels!.supers], v.nested_absmax_f32)
  t.same([...levels!.codes], v.absmax_u8)
  t.same([...(await levelScales(levels!))], v.absmax_reconstructed_f32)
  const { tensors, reader, warnings, config } = await written(t, bitsandbytes, { [module]: q })
  t.equal(hex(find(tensors, `${module}.weight`)), v.packed)
  t.same(contents(await reader.read(module)), contents(q))
  t.same((await reader.read(module)).levels, levels)
  t.same(warnings, [])
  t.equal(config.bnb_4bit_use_double_quant, true)
  const asked = await bitsandbytes.write(module, await quantized(v.weight, "nf4"), { ...f16, doubleQuantization: true })
  t.same(bytes(asked), bytes(tensors), "as an option of writing")

  const state = vector("bnb-nf4-state-dict")
  const names = { uint8: "U8", float32: "F32" } as Record<string, string>
  const wanted = Object.fromEntries(
    Object.entries(state.tensors as Record<string, { dtype: string; shape: number[] }>).map(
      ([name, { dtype, shape }]) => [name, `${names[dtype]} [${shape}]`],
    ),
  )
  const found = Object.fromEntries(
    tensors.map(each => [each.name.slice(module.length + 1), `${each.dtype} [${each.shape}]`]),
  )
  const suffix = "weight.quant_state.bitsandbytes__nf4"
  t.same(Object.keys(found).sort(), Object.keys(wanted).sort())
  for (const name of Object.keys(wanted)) if (name !== suffix) t.equal(found[name], wanted[name], name)
  const text = Buffer.from(find(tensors, `${module}.${suffix}`).data as Uint8Array).toString()
  const offset = /"nested_offset": [\d.e-]+/
  t.equal(text.replace(offset, ""), state.quant_state_json.replace(offset, ""), "another weight's offset")
})

t.test("quant_state is read and written as Python writes it", async t => {
  const q = await doubleQuantized(await quantized(vector("bnb-nf4-nested").weight, "nf4"))
  for (const [shift, text] of [
    [0.5, "0.5"],
    [1, "1.0"],
    [0, "0.0"],
    [Math.fround(2 ** -15), "3.0517578125e-05"],
    [2 ** 60, "1.152921504606847e+18"],
  ] as const) {
    const levels = { ...q.levels!, shift }
    const tensors = await bitsandbytes.write("m", new QuantizedTensor({ ...q, codebook: null, levels }), f16)
    const state = Buffer.from(find(tensors, "m.weight.quant_state.bitsandbytes__nf4").data as Uint8Array).toString()
    t.match(state, `"nested_offset": ${text}}`)
  }
})

t.test("vectors: LLM.int8()", async t => {
  const v = vector("bnb-int8-row")
  const [n, k] = [2, 4] as const
  const q = await roundInt8(shared(v.weight_f16.flat()), [n, k])
  const { tensors, reader, config, warnings } = await written(t, bitsandbytes, { [module]: q })
  t.same(
    [...new Int8Array(Uint8Array.from(find(tensors, `${module}.weight`).data as Uint8Array).buffer)],
    v.weight_i8.flat(),
  )
  t.same(floatsOf(find(tensors, `${module}.SCB`)), v.SCB)
  t.match(find(tensors, `${module}.weight_format`), { dtype: "U8", shape: [] })
  const back = await reader.read(module)
  t.same(contents(back), contents(q))
  const expected = v.dequant.flat()
  for (const [i, x] of [...(await dequantizeAsync(back))].entries()) t.ok(Math.abs(x - expected[i]) <= 2 ** -22, `${x}`)
  t.match(config, { load_in_4bit: false, load_in_8bit: true })
  t.notOk("llm_int8_threshold" in config, "a float that JSON.stringify would write as 6")
  t.same(warnings, [])
  t.equal(back.scheme.activations!.threshold, 6)
  const withThreshold = async (threshold: unknown) => {
    const checkpoint = await checkpointOf(t, { ...config, llm_int8_threshold: threshold }, tensors)
    const heard: string[] = []
    const made = bitsandbytes.reader(checkpoint, checkpoint.quantizationConfig!, message => heard.push(message))
    const read = await made.read(module)
    const again = await written(t, bitsandbytes, { [module]: read })
    return { threshold: read.scheme.activations!.threshold, heard, again: again.config.llm_int8_threshold }
  }
  t.same(await withThreshold(5.5), { threshold: 5.5, heard: [], again: 5.5 })
  t.match(await withThreshold(0), {
    threshold: undefined,
    heard: [/threshold is 0, and written again .* 6/],
    again: undefined,
  })
  t.match(await withThreshold("six"), {
    threshold: 6,
    heard: [/threshold is string "six"; 6 is taken/],
    again: undefined,
  })
  await t.rejects(
    bitsandbytes.write("m", new QuantizedTensor({ ...q, levels: { ...int8Levels(shared([1, 2])), shift: 1 } }), f16),
    tsqError("ERR_UNSUPPORTED", /m: its scales in two levels are not the SCB \/ 127/),
  )
})

t.test("random weights survive, at any block size, within rows and across them", async t => {
  const { next, below, pick } = random(5)
  for (let i = 0; i < 30; i++) {
    const size = pick([32, 64, 64, 128, 4096])
    const [n, k] = [2 * (1 + below(20)), pick([64, 128, 192, 100, 37, 1])]
    const weight = shared(Array.from({ length: n * k }, () => (below(9) === 0 ? 0 : next() - 0.5)))
    const type = pick(["nf4", "fp4"] as const)
    const q = await roundBlockwise(weight, [n, k], blocks(type, k, size))
    const nested = below(2) === 0
    const first = await written(t, bitsandbytes, { [module]: nested ? await doubleQuantized(q) : q })
    const read = await first.reader.read(module)
    t.same(contents(read), contents(nested ? await doubleQuantized(q) : q), `[${n}, ${k}] ${type} ${size} ${nested}`)
    const second = await written(t, bitsandbytes, { [module]: read })
    t.same(bytes(second.tensors), bytes(first.tensors), "and again, the same bytes")
    t.same(second.config, first.config)
  }
})

t.test("a code book that nobody knows is taken from the file, and not written", async t => {
  const q = await quantized(vector("bnb-nf4-bytes").weight, "nf4")
  const tensors = await bitsandbytes.write("m", q, f16)
  const own = Float32Array.from(codebook("nf4"), (x, i) => (i === 3 ? -0.4 : x))
  const changed = tensors.map(each =>
    each.name.endsWith(".quant_map") ? { ...each, data: new Uint8Array(own.buffer) } : each,
  )
  const checkpoint = await checkpointOf(t, { quant_method: "bitsandbytes" }, changed)
  const warnings: string[] = []
  const reader = bitsandbytes.reader(checkpoint, { quant_method: "bitsandbytes" }, message => warnings.push(message))
  const back = await reader.read("m")
  t.equal(back.scheme.codebook, "custom")
  t.same([...back.codebook!], [...own])
  t.match(warnings, [/quant_map does not hold the values of nf4/])
  await t.rejects(bitsandbytes.write("m", back, f16), tsqError("ERR_UNSUPPORTED", /not the code book custom/))
})

t.test("what the format cannot hold", async t => {
  const scheme = blocks("nf4", 128)
  const refuses = (shape: [number, number], change: Partial<Scheme> = {}, extra = {}, name = "m") =>
    bitsandbytes.refuses(name, shape, { ...scheme, ...change }, extra)
  t.equal(refuses([3, 128]), null)
  const { codebook: _, ...whole } = scheme
  t.match(bitsandbytes.refuses("m", [3, 128], whole), /4-bit whole numbers with f32 scales/)
  t.match(refuses([3, 128], { codebook: "e2m1" }), /not the code book e2m1/)
  t.match(refuses([3, 128], { groupSize: 16 }), /not 16/)
  t.match(refuses([3, 100], {}), /k = 100 is not a multiple of the group size 64/)
  t.match(refuses([3, 37], { granularity: "flat", groupSize: 1, runLength: 64 }), /111 is odd/)
  t.match(refuses([3, 128], { scaleType: "e8m0" }), /no e8m0 scales/)
  t.match(refuses([3, 128], { granularity: "tensor", groupSize: 128 }), /not one a tensor/)
  t.match(refuses([3, 128], {}, { groupIndex: true }), /g_idx/)
  t.match(refuses([3, 128], {}, { inputScale: true }), /scale per input/)
  t.match(refuses([3, 128], {}, {}, "lm_head"), /quantized head/)
  const [nf4, fp4] = await Promise.all([
    quantized(vector("bnb-nf4-bytes").weight, "nf4"),
    quantized(vector("bnb-fp4-bytes").weight, "fp4"),
  ])
  t.throws(
    () => bitsandbytes.configuration(summaryOf({ a: nf4, b: fp4 }), f16),
    tsqError("ERR_UNSUPPORTED", /one kind of weights for all modules, and these have nf4 and fp4/),
  )
  t.throws(() => bitsandbytes.configuration(summaryOf({}), f16), tsqError("ERR_FORMAT", /no module is quantized/))
  const { quantizationConfig } = bitsandbytes.configuration(
    summaryOf({ "layers.0.o_proj": nf4 }, ["lm_head", "layers.0.q_proj", "layers.0.k_proj", "layers.0.v_proj"]),
    { scaleType: "bf16" },
  )
  t.match(quantizationConfig, {
    bnb_4bit_compute_dtype: "bfloat16",
    llm_int8_skip_modules: ["lm_head", "layers.0.q_proj", "layers.0.k_proj", "layers.0.v_proj", "layers.0.qkv_proj"],
  })
})

t.test("checkpoints that are not what they say", async t => {
  const config = { quant_method: "bitsandbytes" }
  const plain = await bitsandbytes.write("m", await quantized(vector("bnb-nf4-nested").weight, "nf4"), f16)
  const nested = await bitsandbytes.write("m", await quantized(vector("bnb-nf4-nested").weight, "nf4"), {
    ...f16,
    doubleQuantization: true,
  })
  const eight = await bitsandbytes.write("m", await roundInt8(shared([1, 2, 3, 4]), [2, 2]), f16)
  const read = async (tensors: NamedTensor[]) =>
    bitsandbytes.reader(await checkpointOf(t, config, tensors), config, () => {}).read("m")
  const without = (tensors: NamedTensor[], suffix: string) => tensors.filter(each => !each.name.endsWith(suffix))
  const withState = (tensors: NamedTensor[], change: Record<string, unknown>) =>
    tensors.map(each => {
      if (!each.name.includes("quant_state")) return each
      const state = { ...JSON.parse(Buffer.from(each.data as Uint8Array).toString()), ...change }
      const data = Buffer.from(JSON.stringify(state))
      return { ...each, shape: [data.length], data }
    })
  for (const suffix of [".absmax", ".quant_map"])
    await t.rejects(read(without(plain, suffix)), tsqError("ERR_FORMAT", /m\.weight\.\w+ is missing/))
  for (const suffix of [".nested_absmax", ".nested_quant_map"])
    await t.rejects(read(without(nested, suffix)), tsqError("ERR_FORMAT", /nested_\w+ is missing/))
  await t.rejects(read(without(plain, "m.weight")), tsqError("ERR_FORMAT", /m\.weight is missing/))
  for (const [change, message] of [
    [{ blocksize: 0 }, /blocksize is number 0, expected a positive integer/],
    [{ blocksize: "64" }, /blocksize is string "64"/],
    [{ blocksize: 32 }, /m\.weight\.absmax is \[12\], expected \[24\]/],
    [{ shape: [12] }, /shape is \[12\], expected two positive integers/],
    [{ shape: [12, 2 ** 53] }, /shape is/],
    [{ shape: [2 ** 52, 2 ** 52] }, /m\.weight is \[384, 1\] of 384 bytes/],
    [{ shape: [13, 64] }, /m\.weight is \[384, 1\] of 384 bytes, expected 416/],
    [{ quant_type: "fp4" }, /quant_type is string "fp4", expected "nf4"/],
  ] as const)
    await t.rejects(read(withState(plain, change)), { name: "TsqError", message })
  for (const [change, message] of [
    [{ nested_blocksize: 0 }, /nested_blocksize is number 0/],
    [{ nested_offset: null }, /nested_offset is null/],
    [{ nested_dtype: "float16" }, /nested_dtype/],
    [{ nested_blocksize: 4 }, /nested_absmax is \[1\], expected \[3\]/],
  ] as const)
    await t.rejects(read(withState(nested, change)), { name: "TsqError", message })
  const state = plain.find(each => each.name.includes("quant_state"))!
  const other = (data: Uint8Array) =>
    plain.map(each => (each === state ? { ...each, shape: [data.length], data } : each))
  await t.rejects(read(other(Buffer.from("{"))), tsqError("ERR_CORRUPT", /quant_state.*not valid JSON/))
  await t.rejects(read(other(Buffer.from("[]"))), tsqError("ERR_CORRUPT", /expected a JSON object/))
  await t.rejects(read(other(Buffer.alloc(1 << 17, 32))), tsqError("ERR_CORRUPT", /expected a short JSON text/))
  await t.rejects(
    read(eight.map(each => (each.name === "m.SCB" ? { ...each, shape: [1], data: new Uint8Array(4) } : each))),
    tsqError("ERR_SHAPE", /m\.SCB is \[1\], expected \[2\]/),
  )
  await t.rejects(
    read(eight.map(each => (each.name === "m.weight_format" ? { ...each, data: Uint8Array.of(2) } : each))),
    tsqError("ERR_UNSUPPORTED", /weight_format is 2/),
  )
  t.throws(() => bitsandbytes.reader(null as never, { quant_method: 7 }, () => {}), tsqError("ERR_FORMAT"))
})

t.test("scales that cannot be quantized twice", async t => {
  const scheme: Scheme = { ...blocks("nf4", 100), scaleType: "f32" }
  const scales = shared(Array.from({ length: 2 * (100 / scheme.groupSize) }, (_, i) => i + 1))
  const q = new QuantizedTensor({ scheme, shape: [2, 100], codes: sharedBytes(200), scales, zeros: null })
  await t.rejects(doubleQuantized(q), tsqError("ERR_UNSUPPORTED", /the same within a block/))
  await t.rejects(bitsandbytes.write("m", q, f16), tsqError("ERR_UNSUPPORTED", /m: groups of a block of 64 elements/))
})
