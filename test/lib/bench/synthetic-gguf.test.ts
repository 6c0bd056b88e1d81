// Made-up GGUF files: the container read by its description alone, and that every tensor has the type and size of its mixture.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { modelShape } from "../../../lib/bench/shapes.ts"
import { blockType, randomBlocks, writeSyntheticGguf } from "../../../lib/bench/synthetic-gguf.ts"
import { syntheticModel } from "../../../lib/bench/synthetic-model.ts"
import { syntheticVocabulary } from "../../../lib/bench/synthetic-tokenizer.ts"
import { type GgufMetadata, type GgufValue, ggmlTypeNamed } from "../../../lib/containers/gguf-types.ts"
import { type GgufTensorPlan, GgufWriter } from "../../../lib/containers/gguf-writer.ts"

/** A reader of what the writer writes, by the format's description alone. */
function parse(file: Buffer) {
  let at = 0
  /** Where the next `count` bytes begin. */
  const skip = (count: number) => {
    at += count
    return at - count
  }
  const u32 = () => file.readUInt32LE(skip(4))
  const u64 = () => Number(file.readBigUInt64LE(skip(8)))
  const string = () => {
    const length = u64()
    const begin = skip(length)
    return file.toString("utf8", begin, begin + length)
  }
  const value = (type: number): unknown => {
    if (type === 4) return u32()
    if (type === 5) return file.readInt32LE(skip(4))
    if (type === 6) return file.readFloatLE(skip(4))
    if (type === 7) return file[skip(1)] === 1
    if (type === 8) return string()
    if (type !== 9) throw new Error(`type ${type} at ${at}`)
    const element = u32()
    return Array.from({ length: u64() }, () => value(element))
  }
  const magic = file.toString("latin1", 0, 4)
  at = 4
  const version = u32()
  const [tensorCount, keyCount] = [u64(), u64()]
  const metadata: Record<string, unknown> = {}
  for (let i = 0; i < keyCount; i++) {
    const key = string()
    metadata[key] = value(u32())
  }
  const tensors = Array.from({ length: tensorCount }, () => {
    const name = string()
    const dimensions = Array.from({ length: u32() }, u64)
    return { name, dimensions, type: u32(), offset: u64() }
  })
  return { magic, version, metadata, tensors, data: Math.ceil(at / 32) * 32 }
}

async function write(path: string, metadata: GgufMetadata, tensors: (GgufTensorPlan & { data: Uint8Array })[]) {
  const writer = await GgufWriter.create(path, { metadata, tensors })
  try {
    for (const { name, data } of tensors) await writer.write(name, data)
    await writer.finish()
  } finally {
    await writer.discard()
  }
}

t.test("container", async t => {
  const directory = t.testdir()
  const path = join(directory, "x.gguf")
  const [q4_0, f32] = [ggmlTypeNamed("Q4_0")!, ggmlTypeNamed("F32")!]
  const metadata: Record<string, GgufValue> = {
    "general.architecture": { type: "string", value: "llama" },
    count: { type: "u32", value: 4_000_000_000 },
    base: { type: "f32", value: 0.5 },
    flag: { type: "bool", value: true },
    words: { type: "array", of: "string", value: ["é", ""] },
    kinds: { type: "array", of: "i32", value: Int32Array.of(-1, 3) },
    below: { type: "i32", value: -7 },
  }
  await write(path, new Map(Object.entries(metadata)), [
    { name: "a", shape: [3, 32], type: q4_0, data: new Uint8Array(54).fill(1) },
    { name: "b", shape: [2], type: f32, data: new Uint8Array(8).fill(2) },
  ])
  const file = readFileSync(path)
  const { data, ...rest } = parse(file)
  t.strictSame(rest, {
    magic: "GGUF",
    version: 3,
    metadata: {
      "general.architecture": "llama",
      ...{ count: 4_000_000_000, base: 0.5, flag: true, words: ["é", ""], kinds: [-1, 3], below: -7 },
    },
    tensors: [
      { name: "a", dimensions: [32, 3], type: 2, offset: 0 },
      { name: "b", dimensions: [2], type: 0, offset: 64 },
    ],
  })
  t.equal(file.length, data + 96)
  const empty = join(directory, "empty.gguf")
  await write(empty, new Map(), [])
  t.equal(readFileSync(empty).length, 32)
  t.strictSame([file[data + 53], file[data + 54], file[data + 64]], [1, 0, 2])
  await t.rejects(write(path, new Map(), []), { code: "ERR_OPTION", message: /exists already/ }, "never over a file")
  const wrong = { name: "a", shape: [2], type: f32, data: new Uint8Array(9) }
  const tooMany = { code: "ERR_SHAPE", message: /tensor "a" needs 8 bytes: 0 have come, then 9/ }
  await t.rejects(write(join(directory, "y.gguf"), new Map(), [wrong]), tooMany)
})

t.test("mixtures", async t => {
  const types = (name: string, mixture: "q4_0" | "q4_k_m") => {
    const shape = modelShape(name)
    const found = new Map(
      syntheticModel(shape).matrices.map(matrix => [matrix.gguf, blockType(mixture, shape, matrix).id]),
    )
    return (...names: string[]) => names.map(each => found.get(each))
  }
  // 2 Q4_0, 6 Q5_0, 8 Q8_0, 12 Q4_K, 14 Q6_K.
  const small = types("llama-3.2-1b", "q4_0")
  t.strictSame(small("token_embd", "output", "blk.0.attn_v", "blk.15.ffn_down"), [14, undefined, 2, 2])
  const medium = types("llama-3.2-1b", "q4_k_m")
  t.strictSame(medium("token_embd", "blk.0.attn_q", "blk.0.attn_v", "blk.1.ffn_down"), [14, 12, 14, 14])
  // 16 layers: the first two, the last two, and every third between them.
  const finer = Array.from({ length: 16 }, (_, i) => i).filter(i => medium(`blk.${i}.ffn_down`)[0] === 14)
  t.strictSame(finer, [0, 1, 4, 7, 10, 13, 14, 15])
  t.strictSame(types("llama-3-8b", "q4_0")("token_embd", "output"), [2, 14], "a head of its own")
  t.strictSame(types("qwen2.5-0.5b", "q4_k_m")("token_embd", "blk.0.attn_q", "blk.0.attn_v"), [8, 6, 8], "rows of 896")
})

t.test("blocks hold small scales", async t => {
  const shape = modelShape("llama-3.2-1b")
  for (const [gguf, mixture, size, at] of [
    ["blk.0.attn_q", "q4_0", 18, 0],
    ["blk.0.attn_q", "q4_k_m", 144, 2],
    ["token_embd", "q4_0", 210, 208],
  ] as const) {
    const matrix = syntheticModel(shape).matrices.find(each => each.gguf === gguf)!
    const type = blockType(mixture, shape, matrix)
    const bytes = randomBlocks(gguf, type, 4, 2048)
    t.equal(bytes.length, (4 * 2048 * size) / type.blockSize)
    t.strictSame(bytes, randomBlocks(gguf, type, 4, 2048), "the same every time")
    const halves = Array.from({ length: bytes.length / size }, (_, i) => bytes[i * size + at + 1]!)
    // Positive, and of an exponent below 1: neither infinite nor a NaN.
    t.ok(
      halves.every(high => high < 0x3c),
      `${gguf} ${mixture}`,
    )
    t.ok(new Set(bytes).size > 200, "codes are random")
  }
})

t.test("a whole file", async t => {
  const path = join(t.testdir(), "m.gguf")
  const shape = { ...modelShape("qwen2.5-0.5b"), hidden: 64, intermediate: 96, layers: 1, vocabulary: 300, headDim: 32 }
  await writeSyntheticGguf(path, { ...shape, heads: 2, kvHeads: 1, tied: false }, "q4_0")
  const file = readFileSync(path)
  const { metadata, tensors, data } = parse(file)
  t.match(metadata, {
    "general.architecture": "qwen2",
    "qwen2.embedding_length": 64,
    "qwen2.attention.head_count_kv": 1,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.eos_token_id": 299,
  })
  t.strictSame(metadata["tokenizer.ggml.tokens"], syntheticVocabulary(300).tokens)
  const embedding = tensors.find(({ name }) => name === "token_embd.weight")
  t.strictSame(embedding, { name: "token_embd.weight", dimensions: [64, 300], type: 2, offset: 0 })
  t.ok(tensors.some(({ name }) => name === "blk.0.attn_k.bias"))
  // The head is the last matrix: Q6_K needs 256 columns, Q8_0 takes 34 bytes for 32.
  t.match(
    tensors.find(({ name }) => name === "output.weight"),
    { type: 8 },
  )
  const last = tensors.at(-1)!
  t.equal(file.length, data + last.offset + 64 * 4, "a norm of 64 numbers ends the file")
})
