// What inspectModel says about dense and quantized checkpoints.
import { statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { type GgufMetadata, type GgufValue, ggmlTypeNamed } from "../../../lib/containers/gguf-types.ts"
import { GgufWriter } from "../../../lib/containers/gguf-writer.ts"
import { inspectModel } from "../../../lib/quantize/inspect-model.ts"
import { quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { metadataTable } from "../../../lib/report/tables.ts"
import { fable, folder, smallCheckpoint } from "./support.ts"

t.test("a dense checkpoint", async t => {
  const found = await inspectModel(fable)
  t.match(found, {
    architecture: "llama",
    format: "safetensors",
    scheme: null,
    bitsPerWeight: 16,
    fileBitsPerWeight: 16,
    context: 512,
    batch: 1,
  })
  t.equal(found.parameters, 2048 * 256 + 256 + 6 * (2 * 256 + 256 * 256 * 2 + 2 * 128 * 256 + 3 * 768 * 256))
  t.equal(found.weightBytes, 2 * found.parameters)
  t.ok(Math.abs(statSync(join(fable, "model.safetensors")).size - found.weightBytes) < 20_000)
  t.equal(found.tensors.length, 6 * 9 + 2)
  t.match(
    found.tensors.find(({ name }) => name === "model.norm.weight"),
    { shape: [256], dtype: "BF16", scheme: null, bytes: 512 },
  )
  // Keys and values of 6 layers, 4 heads of 32, in f32.
  t.equal(found.kvCacheBytes, 2 * 6 * 4 * 32 * 4 * 512)
  const more = await inspectModel(fable, { context: 1000, batch: 3 })
  t.equal(more.kvCacheBytes, 2 * 6 * 4 * 32 * 4 * 1008 * 3)
})

t.test("a quantized checkpoint", async t => {
  const out = join(folder(t), "out")
  const overrides = [{ pattern: "v_proj", scheme: "w8a16" }] as const
  await quantizeModel(fable, out, { groupSize: 64, format: "compressed-tensors", overrides })
  const found = await inspectModel(out)
  t.match(found, { format: "compressed-tensors", scheme: "mixed", parameters: (await inspectModel(fable)).parameters })
  const [up, v] = ["mlp.up_proj", "self_attn.v_proj"].map(name =>
    found.tensors.find(tensor => tensor.name === `model.layers.0.${name}`),
  )
  t.match(up, { shape: [768, 256], dtype: null, scheme: "w4a16 g64 symmetric" })
  t.match(v, { shape: [128, 256], dtype: null, scheme: "w8a16 g64 symmetric" })
  // 4-bit codes, bf16 scales, and the shape that the format stores.
  t.equal(up!.bytes, (768 * 256) / 2 + 2 * 768 * 4 + 16)
  const [weights, eight] = [6 * 786_432, 6 * 128 * 256]
  t.equal(found.bitsPerWeight, 4.25 + (4 * eight) / weights)
  t.equal(
    found.weightBytes,
    found.tensors.reduce((sum, tensor) => sum + tensor.bytes, 0),
  )
  t.equal(found.fileBitsPerWeight, (found.weightBytes * 8) / found.parameters)
})

t.test("bad input", async t => {
  await t.rejects(inspectModel(join(fable, "absent")), { code: "ERR_IO" })
  await t.rejects(inspectModel(fable, { context: 0 }), { code: "ERR_OPTION", message: /context/ })
  await t.rejects(inspectModel(fable, { batch: 1.5 }), { code: "ERR_OPTION", message: /batch/ })
  await t.rejects(inspectModel(fable, { contxt: 5 } as never), {
    code: "ERR_OPTION",
    message: /did you mean "context"/,
  })
  const gguf = join(folder(t), "model.gguf")
  writeFileSync(gguf, "GGUF")
  await t.rejects(inspectModel(gguf), { code: "ERR_CORRUPT", message: /model\.gguf: ends at byte 4/ })
})

t.test("a single safetensors file", async t => {
  const found = await inspectModel(join(smallCheckpoint(t), "model.safetensors"))
  t.match(found, { architecture: "unknown", format: "safetensors", bitsPerWeight: 16, kvCacheBytes: 0 })
  t.equal(found.tensors.length, 3 * 9 + 2)
})

t.test("a GGUF file", async t => {
  const path = join(folder(t), "m.gguf")
  const metadata: GgufMetadata = new Map<string, GgufValue>([
    ["general.architecture", { type: "string", value: "llama" }],
    ["large", { type: "u64", value: 2n ** 63n }],
    ["small", { type: "i64", value: -5n }],
    ["none", { type: "f32", value: Number.POSITIVE_INFINITY }],
    ["flags", { type: "array", of: "bool", value: Uint8Array.of(1, 0) }],
    ["tokens", { type: "array", of: "string", value: Array.from({ length: 300 }, (_, i) => `t${i}`) }],
    ["nested", { type: "array", of: "array", value: [{ type: "array", of: "i8", value: Int8Array.of(1, 2, 3) }] }],
    ["template", { type: "string", value: "x\n".repeat(100) }],
  ])
  const tensors = [
    { name: "norm", type: ggmlTypeNamed("F32")!, shape: [256] },
    { name: "q", type: ggmlTypeNamed("Q4_K")!, shape: [4, 256] },
    { name: "odd", type: ggmlTypeNamed("IQ2_XS")!, shape: [1, 256] },
  ]
  const writer = await GgufWriter.create(path, { metadata, tensors })
  for (const [name, bytes] of [
    ["norm", 1024],
    ["q", 576],
    ["odd", 74],
  ] as const)
    await writer.write(name, new Uint8Array(bytes))
  await writer.finish()
  const found = await inspectModel(path)
  t.match(found, {
    architecture: "llama",
    parameters: 6 * 256,
    format: "gguf",
    scheme: "mixed",
    bitsPerWeight: (8 * (576 + 74)) / (5 * 256),
    fileBitsPerWeight: (8 * 1674) / (6 * 256),
    weightBytes: 1674,
  })
  t.strictSame(found.tensors[1], { name: "q", shape: [4, 256], dtype: "Q4_K", scheme: null, bytes: 576 })
  t.strictSame(found.metadata!.slice(1, 7), [
    { key: "large", type: "u64", value: "9223372036854775808" },
    { key: "small", type: "i64", value: -5 },
    { key: "none", type: "f32", value: "Infinity" },
    { key: "flags", type: "array of bool", value: [true, false], length: 2 },
    { key: "tokens", type: "array of string", value: ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"], length: 300 },
    { key: "nested", type: "array of array", value: ["array of i8, 3 elements"], length: 1 },
  ])
  t.doesNotThrow(() => JSON.stringify(found))
  const text = metadataTable(found.metadata!)
  t.match(text, /^flags +array of bool +\[true,false\] of 2$/m)
  t.match(text, /^template +string +"x\\nx\\n.*…$/m)
  t.ok(
    text.split("\n").every(line => line.length < 120),
    "no long lines",
  )
  t.equal(text.split("\n").length, 9, "a line a field")
})
