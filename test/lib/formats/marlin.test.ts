import t from "tap"
import type { IntegerScheme } from "../../../lib/core/scheme.ts"
import { sharedBytes } from "../../../lib/core/tensor.ts"
import { marlin } from "../../../lib/formats/marlin.ts"
import { detectFormat } from "../../../lib/formats/registry.ts"
import { native } from "../../../lib/native.ts"
import { random, tsqError, vector } from "../containers/support.ts"
import { checkpointOf, contents, find, randomTensor, summaryOf, transpose, written } from "./support.ts"

const module = "model.layers.0.mlp.up_proj"
const scheme: IntegerScheme = { bits: 4, symmetric: true, granularity: "group", groupSize: 128, scaleType: "f16" }

t.test("vectors: the permutation and a tile", async t => {
  const { perm, scale_perm_grouped_64: grouped, scale_perm_per_channel_32: single } = vector("marlin-perm")
  // A tile whose codes tell where they come from: the low, the middle and the top 4 bits of the place.
  const found = new Array<number>(1024).fill(0)
  for (const shift of [0, 4, 8]) {
    const codes = sharedBytes(1024)
    // Squares of 16 by 16, each with its rows along k.
    for (let i = 0; i < 1024; i++) {
      const [square, row, column] = [i >> 8, (i >> 4) & 15, i & 15]
      codes[(16 * square + column) * 16 + row] = (i >> shift) & 15
    }
    const tiles = sharedBytes(512)
    await native.packTiles(codes, 0, 64, 16, tiles)
    for (let i = 0; i < 1024; i++) found[i]! += ((tiles[i >> 1]! >> (4 * (i & 1))) & 15) << shift
  }
  t.same(found, perm)
  for (const [groups, wanted] of [
    [2, grouped],
    [1, single],
  ] as const) {
    const scales = new Float32Array(new SharedArrayBuffer(groups * 64 * 4)).map((_, i) => i % 64)
    const source = new Float32Array(new SharedArrayBuffer(groups * 64 * 4))
    source.set(scales)
    const out = new Float32Array(new SharedArrayBuffer(groups * 64 * 4))
    await native.orderMarlinScales(source, groups, 64, true, out)
    t.same([...out.subarray(0, wanted.length)], wanted)
  }
  const tile = vector("marlin-tile")
  const codes = sharedBytes(1024)
  codes.set(transpose(tile.codes_KxN).flat())
  const tiles = sharedBytes(512)
  await native.packTiles(codes, 0, 64, 16, tiles)
  t.same([...new Uint32Array(Uint8Array.from(tiles).buffer)], tile.words.flat().map(Number))
})

t.test("random layers survive", async t => {
  const numbers = random(23)
  const { below, pick } = numbers
  for (let i = 0; i < 8; i++) {
    const shape: [number, number] = [256 * (1 + below(2)), 128 * (1 + below(3))]
    const granularity = pick(["group", "channel"] as const)
    const own = { ...scheme, granularity, groupSize: granularity === "group" ? 128 : shape[1] }
    const q = randomTensor(numbers, shape, own)
    const { reader, warnings, config, tensors } = await written(t, marlin, { [module]: q })
    t.same(find(tensors, `${module}.B`).shape, [shape[1] / 16, 2 * shape[0]])
    t.same(reader.modules, [module])
    t.same(reader.tensorNames(module), [`${module}.B`, `${module}.s`])
    t.same(contents(await reader.read(module)), contents(q), `[${shape}] ${granularity}`)
    t.same(warnings, [])
    t.match(config, { quant_method: "gptq", is_marlin_format: true, group_size: granularity === "group" ? 128 : -1 })
    t.equal(detectFormat(config), marlin)
  }
})

t.test("what the format cannot hold", async t => {
  const refuses = (shape: [number, number], change: Partial<IntegerScheme> = {}, extra = {}, name = "m") =>
    marlin.refuses(name, shape, { ...scheme, ...change }, extra)
  t.equal(refuses([256, 128]), null)
  t.match(refuses([256, 128], { symmetric: false }), /not asymmetric ones of 4/)
  t.match(refuses([256, 128], { bits: 8 }), /not 8/)
  t.match(refuses([256, 128], { groupSize: 64 }), /not groups of 64/)
  t.match(refuses([256, 192]), /k = 192 is not a multiple of 128/)
  t.match(refuses([128, 128]), /n = 128 is not a multiple of 256/)
  t.match(refuses([256, 128], {}, { groupIndex: true }), /g_idx/)
  t.match(refuses([256, 128], {}, {}, "lm_head"), /head/)
  await t.rejects(
    marlin.write("m", randomTensor(random(1), [64, 128], scheme), { scaleType: "f16" }),
    tsqError("ERR_UNSUPPORTED", /^m: n = 64/),
  )
  const q = randomTensor(random(1), [256, 256], scheme)
  const whole = randomTensor(random(1), [256, 256], { ...scheme, granularity: "channel", groupSize: 256 })
  const options = { scaleType: "f16" } as const
  t.throws(
    () => marlin.configuration(summaryOf({ m: q }, ["lm_head", "layers.1.q_proj"]), options),
    tsqError("ERR_UNSUPPORTED", /layers\.1\.q_proj is unquantized/),
  )
  t.throws(
    () => marlin.configuration(summaryOf({ m: q, o: whole }), options),
    tsqError("ERR_UNSUPPORTED", /one group size for all modules/),
  )
})

t.test("checkpoints that are not what they say", async t => {
  const numbers = random(2)
  const tensors = await marlin.write("m", randomTensor(numbers, [256, 256], scheme), { scaleType: "f16" })
  const config = { quant_method: "marlin", group_size: 128 }
  const read = async (change: object, files = tensors) => {
    const checkpoint = await checkpointOf(t, { ...config, ...change }, files)
    return marlin.reader(checkpoint, checkpoint.quantizationConfig!, () => {}).read("m")
  }
  t.same((await read({})).shape, [256, 256], "the oldest configuration")
  await t.rejects(read({ group_size: -1 }), tsqError("ERR_SHAPE", /m\.s is \[2, 256\], expected \[1, 256\]/))
  await t.rejects(read({ bits: 8 }), tsqError("ERR_UNSUPPORTED", /8 bits/))
  await t.rejects(read({ sym: false }), tsqError("ERR_UNSUPPORTED", /not symmetric/))
  await t.rejects(read({}, [tensors[0]!]), tsqError("ERR_FORMAT", /m\.s is missing/))
  await t.rejects(
    read({}, [{ ...tensors[0]!, shape: [256, 32] }, tensors[1]!]),
    tsqError("ERR_SHAPE", /n a multiple of 64/),
  )
})
