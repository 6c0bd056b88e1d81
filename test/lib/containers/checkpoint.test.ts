import {
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import t from "tap"
import { Checkpoint } from "../../../lib/containers/checkpoint.ts"
import { SafetensorsWriter } from "../../../lib/containers/safetensors-writer.ts"
import { native } from "../../../lib/native.ts"
import { folder, rawFile, tsqError, writeCheckpoint } from "./support.ts"

const floats = (name: string, ...values: number[]) => ({
  name,
  dtype: "F32",
  shape: [values.length],
  data: new Uint8Array(Float32Array.from(values).buffer),
})
const index = "model.safetensors.index.json"

/** Tensors a, b, c in three shards. */
async function sharded(directory: string): Promise<string> {
  const writer = new SafetensorsWriter(directory, { maxShardBytes: 8 })
  for (const name of ["a", "b", "c"]) await writer.add(floats(name, 1, 2))
  await writer.finish()
  writeFileSync(join(directory, "config.json"), "{}")
  return directory
}

const editIndex = (
  directory: string,
  edit: (index: { weight_map: Record<string, unknown>; metadata?: object }) => unknown,
) => {
  const path = join(directory, index)
  const value = JSON.parse(readFileSync(path, "utf8"))
  writeFileSync(path, JSON.stringify(edit(value) ?? value))
}

t.test("tensors of every type", async t => {
  const directory = folder(t)
  await writeCheckpoint(directory, { model_type: "x" }, [
    floats("f32", 1.5, -2),
    { name: "f16", dtype: "F16", shape: [2, 1], data: new Uint8Array(Uint16Array.of(0x3c00, 0xc000).buffer) },
    { name: "bf16", dtype: "BF16", shape: [1], data: new Uint8Array(Uint16Array.of(0x3f80).buffer) },
    { name: "i8", dtype: "I8", shape: [2], data: new Uint8Array(Int8Array.of(-1, 2).buffer) },
    { name: "i32", dtype: "I32", shape: [1], data: new Uint8Array(Int32Array.of(-7).buffer) },
    { name: "i64", dtype: "I64", shape: [1], data: new Uint8Array(BigInt64Array.of(5n).buffer) },
    { name: "none", dtype: "F32", shape: [0, 4], data: new Uint8Array(0) },
  ])
  const handles = native.handleCount()
  const checkpoint = await Checkpoint.open(directory)
  t.same(checkpoint.config, { model_type: "x" })
  t.equal(checkpoint.quantizationConfig, null)
  t.same(await checkpoint.floats("f32"), Float32Array.of(1.5, -2))
  t.same(await checkpoint.floats("f16"), Float32Array.of(1, -2))
  t.same(await checkpoint.floats("bf16"), Float32Array.of(1))
  t.same(await checkpoint.floats("none"), new Float32Array(0))
  t.ok((await checkpoint.floats("f32")).buffer instanceof SharedArrayBuffer)
  t.same(await checkpoint.tensor("i8").toArray(), Int8Array.of(-1, 2))
  t.same(await checkpoint.tensor("i32").toArray(), Int32Array.of(-7))
  t.equal(checkpoint.tensor("f16").device, "mapped")
  t.same(new BigInt64Array((await checkpoint.readBytes("i64")).buffer), BigInt64Array.of(5n))
  t.throws(() => checkpoint.tensor("i64"), tsqError("ERR_DTYPE", /i64 is I64/))
  await t.rejects(checkpoint.floats("i32"), tsqError("ERR_DTYPE", /i32 is I32, expected F32/))
  t.throws(() => checkpoint.entry("nope"), tsqError("ERR_FORMAT", /tensor nope is missing/))
  t.equal(checkpoint.has("nope"), false)
  checkpoint.dispose()
  await t.rejects(checkpoint.readBytes("i64"), tsqError("ERR_OPTION", /disposed/))
  t.equal(native.handleCount(), handles)
})

t.test("a tensor that is not aligned in its file", async t => {
  const directory = folder(t)
  const header = JSON.stringify({
    odd: { dtype: "U8", shape: [1], data_offsets: [0, 1] },
    f: { dtype: "F32", shape: [2], data_offsets: [1, 9] },
  })
  const data = Buffer.concat([Buffer.of(9), Buffer.from(Float32Array.of(3, 4).buffer)])
  for (const padding of ["", " ", "  ", "   "]) {
    writeFileSync(join(directory, "model.safetensors"), rawFile(header + padding, data))
    writeFileSync(join(directory, "config.json"), "{}")
    const checkpoint = await Checkpoint.open(directory)
    t.same(await checkpoint.floats("f"), Float32Array.of(3, 4))
    t.same(await checkpoint.tensor("f").toArray(), Float32Array.of(3, 4))
    checkpoint.dispose()
  }
})

t.test("sharded", async t => {
  const directory = await sharded(folder(t))
  const checkpoint = await Checkpoint.open(directory)
  t.same(checkpoint.names, ["a", "b", "c"])
  t.same(await checkpoint.floats("c"), Float32Array.of(1, 2))
  t.match(checkpoint.entry("b").file.path, /model-00002-of-00003\.safetensors$/)
  checkpoint.dispose()
  editIndex(directory, value => ({ weight_map: value.weight_map }))
  ;(await Checkpoint.open(directory)).dispose()
  t.pass("metadata may be missing")
})

t.test("sharded: what is wrong is said, and nothing stays mapped", async t => {
  const handles = native.handleCount()
  const refused = async (name: string, damage: (directory: string) => void, code: string, message: RegExp) => {
    const directory = await sharded(folder(t))
    damage(directory)
    await t.rejects(Checkpoint.open(directory), tsqError(code, message), name)
  }
  const shard = "model-00002-of-00003.safetensors"
  await refused(
    "a missing shard",
    at => rmSync(join(at, shard)),
    "ERR_IO",
    /1 of 3 shards are missing \(model-00002-of-00003/,
  )
  await refused(
    "a truncated shard",
    at => writeFileSync(join(at, shard), readFileSync(join(at, shard)).subarray(0, -1)),
    "ERR_CORRUPT",
    /00002.*truncated/,
  )
  await refused(
    "a tensor elsewhere",
    at => editIndex(at, value => void Object.assign(value.weight_map, { a: shard })),
    "ERR_FORMAT",
    /tensor a should lie in model-00002/,
  )
  await refused(
    "a tensor nowhere",
    at => editIndex(at, value => void Object.assign(value.weight_map, { d: shard })),
    "ERR_FORMAT",
    /tensor d should lie in/,
  )
  const empty = { dtype: "U8", shape: [0], data_offsets: [0, 0] }
  const inTwo = (at: string) => {
    // b is now said to lie in a file that holds a as well.
    writeFileSync(join(at, "both.safetensors"), rawFile(JSON.stringify({ a: empty, b: empty })))
    editIndex(at, value => void Object.assign(value.weight_map, { b: "both.safetensors" }))
  }
  await refused("a tensor in two shards", inTwo, "ERR_FORMAT", /tensor a lies in two shards/)
  for (const file of [
    "../x.safetensors",
    "a/b.safetensors",
    "a\\b.safetensors",
    "..safetensors",
    "/etc/passwd",
    "x.bin",
    "",
    5,
    null,
  ])
    await refused(
      `file name ${file}`,
      at => editIndex(at, value => void Object.assign(value.weight_map, { a: file })),
      "ERR_FORMAT",
      /tensor a is said to lie in/,
    )
  await refused("no map", at => editIndex(at, () => ({})), "ERR_FORMAT", /weight_map is nothing/)
  await refused(
    "a map of the wrong type",
    at => editIndex(at, () => ({ weight_map: [] })),
    "ERR_FORMAT",
    /weight_map is an array/,
  )
  await refused("not JSON", at => writeFileSync(join(at, index), "{"), "ERR_CORRUPT", /index\.json: not valid JSON/)
  await refused(
    "a tensor twice",
    at => writeFileSync(join(at, index), `{"weight_map":{"a":"${shard}","a":"${shard}"}}`),
    "ERR_CORRUPT",
    /twice/,
  )
  await refused(
    "no index",
    at => rmSync(join(at, index)),
    "ERR_FORMAT",
    /3 safetensors files and no model\.safetensors\.index\.json/,
  )
  t.equal(native.handleCount(), handles)
})

t.test("the single file wins over an index left behind", async t => {
  const directory = await sharded(folder(t))
  const other = folder(t)
  await writeCheckpoint(other, {}, [floats("only", 1)])
  copyFileSync(join(other, "model.safetensors"), join(directory, "model.safetensors"))
  const checkpoint = await Checkpoint.open(directory)
  t.same(checkpoint.names, ["only"])
  checkpoint.dispose()
  // Old GPTQ checkpoints have one file of another name.
  renameSync(join(other, "model.safetensors"), join(other, "gptq_model-4bit-128g.safetensors"))
  const old = await Checkpoint.open(other)
  t.same(old.names, ["only"])
  old.dispose()
})

t.test("folders that are no checkpoint", async t => {
  const directory = folder(t)
  await t.rejects(Checkpoint.open(join(directory, "none")), tsqError("ERR_IO", /none: there is no such folder/))
  writeFileSync(join(directory, "file"), "")
  await t.rejects(Checkpoint.open(join(directory, "file")), tsqError("ERR_IO", /is a file/))
  await t.rejects(Checkpoint.open(directory), tsqError("ERR_FORMAT", /has no config\.json/))
  writeFileSync(join(directory, "config.json"), "{")
  await t.rejects(Checkpoint.open(directory), tsqError("ERR_CORRUPT", /config\.json: not valid JSON/))
  writeFileSync(join(directory, "config.json"), "[]")
  await t.rejects(Checkpoint.open(directory), tsqError("ERR_CORRUPT", /expected a JSON object/))
  writeFileSync(join(directory, "config.json"), '{"quantization_config": "gptq"}')
  await t.rejects(Checkpoint.open(directory), tsqError("ERR_FORMAT", /quantization_config is string "gptq"/))
  writeFileSync(join(directory, "config.json"), "{}")
  await t.rejects(Checkpoint.open(directory), tsqError("ERR_FORMAT", /has no model\.safetensors/))
  writeFileSync(join(directory, "pytorch_model.bin"), "")
  await t.rejects(Checkpoint.open(directory), tsqError("ERR_UNSUPPORTED", /pytorch_model\.bin; only safetensors/))
})

t.test("where the quantization is declared", async t => {
  const directory = folder(t)
  const declared = async (config: object, files: Record<string, object> = {}) => {
    await writeCheckpoint(directory, config, [])
    for (const [name, value] of Object.entries(files)) writeFileSync(join(directory, name), JSON.stringify(value))
    const checkpoint = await Checkpoint.open(directory)
    checkpoint.dispose()
    for (const name of readdirSync(directory)) rmSync(join(directory, name))
    return checkpoint.quantizationConfig
  }
  t.equal(await declared({}), null)
  t.same(await declared({ quantization_config: { bits: 4 } }, { "quantize_config.json": { bits: 8 } }), { bits: 4 })
  t.same(await declared({ compression_config: { format: "x" } }), { format: "x" })
  t.same(await declared({}, { "quantize_config.json": { bits: 8 } }), { bits: 8 })
  t.same(await declared({}, { "quant_config.json": { w_bit: 4 } }), { w_bit: 4 })
})

t.test("companion files", async t => {
  const directory = folder(t)
  await writeCheckpoint(directory, {}, [])
  const expected = [
    "LICENSE",
    "additional_chat_templates/rag.jinja",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "tokenizer.json",
    "vocab.json",
  ]
  mkdirSync(join(directory, "additional_chat_templates"))
  mkdirSync(join(directory, "checkpoints"))
  for (const name of [
    ...expected.filter(name => name !== "vocab.json"),
    "checkpoints/x.json",
    "quantize_config.json",
    "quantization-report.json",
    "pytorch_model.bin",
    ".gitattributes",
    "model.gguf",
    index,
  ])
    writeFileSync(join(directory, name), "{}")
  // Model caches keep links to their files.
  symlinkSync(join(directory, "merges.txt"), join(directory, "vocab.json"))
  const checkpoint = await Checkpoint.open(directory)
  t.same(checkpoint.companionFiles(), expected)
  checkpoint.dispose()
  symlinkSync(join(directory, "gone"), join(directory, "broken.json"))
  await t.rejects(Checkpoint.open(directory), tsqError("ERR_IO", /broken\.json/))
})

t.test("config.json is at hand as it was written", async t => {
  const directory = folder(t)
  await writeCheckpoint(directory, {}, [])
  const text = '{\n  "rms_norm_eps": 1e-05,\n  "final_logit_softcapping": 30.0\n}\n'
  writeFileSync(join(directory, "config.json"), text)
  const checkpoint = await Checkpoint.open(directory)
  t.equal(checkpoint.configText, text)
  t.same(checkpoint.config, { rms_norm_eps: 1e-5, final_logit_softcapping: 30 })
  checkpoint.dispose()
})
