// Layers as ONNX MatMulNBits nodes: the operator's vectors, round trips, and what is refused.
import { readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { OnnxFile } from "../../../lib/containers/onnx.ts"
import { onnxModelBytes } from "../../../lib/containers/onnx-bytes.ts"
import type { OnnxTensor } from "../../../lib/containers/onnx-types.ts"
import { QuantizedTensor, type QuantizedTensorInit } from "../../../lib/core/quantized-tensor.ts"
import type { IntegerScheme } from "../../../lib/core/scheme.ts"
import { OnnxReader, readOnnx, writeOnnx } from "../../../lib/formats/onnx.ts"
import { operator } from "../../../lib/formats/onnx-linear.ts"
import { dequantize } from "../../../lib/kernels/dequantize.ts"
import { folder, random, tsqError, type Vector, vector } from "../containers/support.ts"
import { dequantized, halves, randomTensor } from "./support.ts"

const floats = (values: ArrayLike<number>) => new Uint8Array(Float32Array.from(values).buffer)
const hex = (rows: string[][]) => Buffer.from(rows.flat().join(""), "hex")

/** Codes of a vector: its own, or the bytes that they are at 8 bits. */
function tensorOf(v: Vector): QuantizedTensor {
  const codes = v.codes_NxK?.flat() ?? [...hex(v.B)]
  const zeros = v.zero_points.flatMap((row: number[] | string) =>
    typeof row === "string" ? [...Buffer.from(row, "hex")] : row,
  )
  const scheme = {
    bits: v.bits,
    symmetric: false,
    granularity: "group",
    groupSize: v.block_size,
    scaleType: "f32",
  } as const
  return new QuantizedTensor({
    ...{ scheme, shape: [v.N, v.K], codes: Uint8Array.from(codes) },
    ...{ scales: Float32Array.from(v.scales.flat()), zeros: Uint8Array.from(zeros) },
  })
}

t.test("vectors: written and read", async t => {
  const path = join(folder(t), "m.onnx")
  for (const id of ["onnx-matmulnbits-4bit", "onnx-matmulnbits-8bit"]) {
    const v = vector(id)
    await writeOnnx(path, { up: tensorOf(v) }, { force: true })
    const file = await OnnxFile.open(path, [operator])
    const blocks = Math.ceil(v.K / v.block_size)
    t.same(file.initializer("up.qweight").shape, [v.N, blocks, (v.block_size * v.bits) / 8])
    t.same(Buffer.from(await file.read("up.qweight")), hex(v.B))
    t.same(Buffer.from(await file.read("up.qzeros")), hex([v.zero_points_packed ?? v.zero_points]))
    t.match(file.nodes[0], {
      inputs: ["up.input", "up.qweight", "up.scales", "up.qzeros"],
      attributes: { K: v.K, N: v.N, bits: v.bits, block_size: v.block_size, accuracy_level: 0 },
    })
    file.dispose()
    const { up } = await readOnnx(path)
    t.same(dequantized(up!.weight), v.dequant_NxK)
    t.equal(up!.bias, null)
  }
})

t.test("random layers survive, with groups as blocks that they are made of", async t => {
  const path = join(folder(t), "m.onnx")
  const numbers = random(3)
  const { below, pick } = numbers
  for (let i = 0; i < 60; i++) {
    const layers: Record<string, { weight: QuantizedTensor; bias: Float32Array | null }> = {}
    for (let layer = 0; layer < 3; layer++) {
      const k = pick([40, 64, 100, 172, 192, 256, 300])
      const granularity = pick(["group", "group", "channel", "tensor"] as const)
      const groupSize = granularity === "group" ? pick([16, 32, 48, 96]) : k
      const bits = pick([2, 4, 8] as const)
      const symmetric = below(2) === 0
      const shape: [number, number] = [1 + below(20), k]
      if (granularity === "group" && groupSize > k) continue
      const scheme: IntegerScheme = { bits, symmetric, granularity, groupSize, scaleType: "f32" }
      const ordered = bits === 4 && symmetric && granularity === "group" && below(2) === 0
      const bias = below(2) ? Float32Array.from({ length: shape[0] }, () => below(100) / 8) : null
      layers[`layer.${layer}`] = { weight: randomTensor(numbers, shape, scheme, { ordered }), bias }
    }
    if (Object.keys(layers).length === 0) continue
    const type = pick(["f32", "f16"] as const)
    await writeOnnx(path, layers, { force: true, type, externalData: below(2) === 0 })
    const back = await readOnnx(path)
    t.same(Object.keys(back), Object.keys(layers))
    for (const [name, { weight, bias }] of Object.entries(layers)) {
      const read = back[name]!
      t.same(read.bias && [...read.bias], bias && [...bias])
      t.same(read.weight.codes, weight.codes)
      t.same(dequantized(read.weight), dequantized(weight))
      t.match(read.weight.scheme, { bits: weight.scheme.bits, symmetric: weight.scheme.symmetric, scaleType: type })
    }
    // What was read can be written again.
    await writeOnnx(path, back, { force: true })
  }
})

const tensor = (
  init: Partial<Omit<QuantizedTensorInit, "scheme">> & { scheme?: Partial<IntegerScheme> } = {},
): QuantizedTensor => {
  const scheme = {
    bits: 4,
    symmetric: true,
    granularity: "group",
    groupSize: 32,
    scaleType: "f16",
    ...init.scheme,
  } as IntegerScheme
  const groups = Math.ceil(64 / scheme.groupSize)
  return new QuantizedTensor({
    ...{
      shape: [2, 64],
      codes: new Uint8Array(128).fill(3),
      scales: new Float32Array(2 * groups).fill(0.5),
      zeros: null,
    },
    ...init,
    scheme,
  })
}

t.test("zero points that are floats", async t => {
  const path = join(folder(t), "m.onnx")
  const offsets = Float32Array.of(0, 1.25, -0.5, 3)
  const weight = tensor({ scheme: { symmetric: false }, offsets })
  await writeOnnx(path, { up: weight }, { type: "f16" })
  const file = await OnnxFile.open(path, [operator])
  t.match(file.initializer("up.zeros"), { type: "f16", shape: [2, 2] })
  t.same(Buffer.from(await file.read("up.zeros")), Buffer.from(halves([0, -2.5, 1, -6])))
  file.dispose()
  const { up } = await readOnnx(path)
  t.equal(up!.weight.zeros, null)
  t.same(dequantize(up!.weight).data, dequantize(weight).data)
})

t.test("what the operator, or onnxruntime, cannot hold", async t => {
  const path = join(folder(t), "m.onnx")
  const refused = (value: QuantizedTensor, text: RegExp, options = {}) =>
    t.rejects(writeOnnx(path, { "mlp.up": value }, options), tsqError("ERR_UNSUPPORTED", text))
  await refused(tensor({ scheme: { bits: 3 } }), /^mlp\.up: MatMulNBits has codes of 2, 4 or 8 bits, not 3/)
  await refused(
    tensor({ scheme: { groupSize: 24 }, scales: new Float32Array(6) }),
    /power of two from 16 columns.*groups of 24/,
  )
  await refused(tensor({ inputScale: new Float32Array(64).fill(2) }), /scale per input/)
  const groupIndex = Int32Array.from({ length: 64 }, (_, i) => i % 2)
  await refused(tensor({ scheme: { bits: 2 }, codes: new Uint8Array(128), groupIndex }), /g_idx/)
  const zeros = new Uint8Array(4)
  await refused(tensor({ scheme: { symmetric: false }, zeros, groupIndex }), /g_idx/)
  const offsets = new Float32Array(4).fill(1)
  await refused(tensor({ scheme: { bits: 8, symmetric: false }, offsets }), /floats for codes of 8 bits/)
  await refused(
    tensor({ scheme: { symmetric: false }, scales: new Float32Array(4), offsets }),
    /group 0 adds 1 to codes whose scale is 0/,
  )
  await refused(tensor({ scales: new Float32Array(4).fill(0.1) }), /scales cannot be stored as f16/, { type: "f16" })
  const book = {
    bits: 4,
    symmetric: true,
    granularity: "group",
    groupSize: 32,
    scaleType: "f32",
    codebook: "nf4",
  } as const
  await refused(new QuantizedTensor({ ...tensor(), scheme: book, codebook: null }), /not codes of the code book nf4/)
  t.strictSame(readdirSync(join(path, "..")), [], "and nothing is left behind")
})

t.test("options and values that are none", async t => {
  const path = join(folder(t), "m.onnx")
  const refused = (layers: unknown, options: object, code: string, text: RegExp) =>
    t.rejects(writeOnnx(path, layers as never, options), tsqError(code, text))
  await refused(null, {}, "ERR_OPTION", /the layers are null/)
  await refused({}, {}, "ERR_OPTION", /no layers/)
  await refused({ up: 3 }, {}, "ERR_OPTION", /"up" is 3, expected a QuantizedTensor/)
  await refused({ up: { weight: tensor(), bias: [1, 2] } }, {}, "ERR_DTYPE", /bias of "up" is an array of 2/)
  await refused(
    { up: { weight: tensor(), bias: new Float32Array(3) } },
    {},
    "ERR_SHAPE",
    /bias has 3 elements, expected 2/,
  )
  await refused({ up: tensor() }, { type: "f64" }, "ERR_OPTION", /"type" is "f64"/)
  await refused({ up: tensor() }, { accuracyLevel: 5 }, "ERR_OPTION", /"accuracyLevel" is 5/)
  await refused({ up: tensor() }, { accuracy: 5 }, "ERR_OPTION", /unknown option "accuracy"/)
})

t.test("nodes that are not as the operator has them", async t => {
  const path = join(folder(t), "m.onnx")
  const shapes: Record<string, OnnxTensor> = {
    w: { name: "w", type: "u8", shape: [2, 2, 16] },
    s: { name: "s", type: "f32", shape: [2, 2] },
    z: { name: "z", type: "u8", shape: [2, 1] },
    g: { name: "g", type: "i32", shape: [64] },
  }
  const bytes: Record<string, Uint8Array> = {
    w: new Uint8Array(64),
    s: floats([1, 2, 3, 4]),
    z: new Uint8Array(2),
    g: new Uint8Array(256),
  }
  const write = (attributes: Record<string, number>, inputs: string[], changed: Record<string, OnnxTensor> = {}) => {
    const initializers = Object.values({ ...shapes, ...changed })
    const all = { K: 64, N: 2, bits: 4, block_size: 32, ...attributes }
    const given = Object.fromEntries(Object.entries(all).filter(([, value]) => !Number.isNaN(value)))
    const node = { ...operator, name: "", inputs: ["x", ...inputs], outputs: ["y"], attributes: given }
    const size = { u8: 1, i32: 4, f32: 4, f16: 2, bf16: 2 }
    writeFileSync(
      path,
      onnxModelBytes({ name: "g", nodes: [node], initializers, inputs: [], outputs: [] }, name => {
        const { type, shape } = initializers.find(each => each.name === name)!
        const count = shape.reduce((product, each) => product * each, 1) * size[type]
        return bytes[name]!.length === count ? bytes[name]! : new Uint8Array(count)
      }),
    )
  }
  const refused = async (code: string, text: RegExp, ...model: Parameters<typeof write>) => {
    write(...model)
    await t.rejects(readOnnx(path), tsqError(code, text))
  }
  write({ bits: Number.NaN }, ["w", "s", "z", "g"])
  const read = (await readOnnx(path)).y!
  t.match(read.weight.scheme, { bits: 4, symmetric: false, groupSize: 32 })
  t.same(
    [...read.weight.groupIndex!],
    Array(64).fill(0),
    "bits are 4 where they are not given, names come from outputs",
  )

  await refused("ERR_CORRUPT", /y: the attribute K is missing/, { K: Number.NaN }, ["w", "s"])
  await refused("ERR_CORRUPT", /bits is 3, expected 2, 4 or 8/, { bits: 3 }, ["w", "s"])
  await refused("ERR_CORRUPT", /block_size is 24/, { block_size: 24 }, ["w", "s"])
  await refused("ERR_CORRUPT", /block_size is 8/, { block_size: 8 }, ["w", "s"])
  await refused(
    "ERR_SHAPE",
    /initializer w is \[2, 2, 16\], expected \d+ elements/,
    { N: 2 ** 31 - 1, K: 2 ** 31 - 1 },
    ["w", "s"],
  )
  await refused("ERR_UNSUPPORTED", /weight_prepacked 1/, { weight_prepacked: 1 }, ["w", "s"])
  await refused("ERR_CORRUPT", /codes or scales are missing/, {}, ["w"])
  await refused("ERR_FORMAT", /"other" is no initializer/, {}, ["w", "other"])
  await refused("ERR_DTYPE", /initializer s is u8, expected f32, f16 or bf16/, {}, ["w", "s"], {
    s: { name: "s", type: "u8", shape: [4] },
  })
  await refused("ERR_SHAPE", /initializer s is \[3\], expected 4/, {}, ["w", "s"], {
    s: { name: "s", type: "f32", shape: [3] },
  })
  await refused("ERR_SHAPE", /initializer z is \[2, 2\], expected 2/, {}, ["w", "s", "z"], {
    z: { name: "z", type: "u8", shape: [2, 2] },
  })
  bytes.g = new Uint8Array(Int32Array.from({ length: 64 }, (_, i) => i).buffer)
  await refused("ERR_CORRUPT", /column 2 belongs to group 2, expected 0 to 1/, {}, ["w", "s", "", "g"])

  writeFileSync(
    path,
    onnxModelBytes({ name: "g", nodes: [], initializers: [], inputs: [], outputs: [] }, () => new Uint8Array(0)),
  )
  await t.rejects(readOnnx(path), tsqError("ERR_FORMAT", /no MatMulNBits node/))
  write({}, ["w", "s"])
  const reader = await OnnxReader.open(path)
  await t.rejects(reader.read("z"), tsqError("ERR_OPTION", /no MatMulNBits node "z"/))
  reader.dispose()
})
