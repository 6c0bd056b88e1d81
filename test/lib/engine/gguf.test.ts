// Models in GGUF files: the same as the checkpoint that they were made of.
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import t from "tap"
import { type GgmlType, ggmlTypeNamed } from "../../../lib/containers/gguf-types.ts"
import { loadModel } from "../../../lib/engine/load-model.ts"
import type { Model } from "../../../lib/engine/model.ts"
import { decodeBlocks, encodeBlocks } from "../../../lib/formats/gguf-blocks.ts"
import { contentOf, type GgufContent, writeGguf } from "./gguf-files.ts"

const fable = fileURLToPath(new URL("../../../models/fable-5m", import.meta.url))
const prompt = "Once there was a fox who"

const folder = t.testdir()
let files = 0
async function written(content: GgufContent, options = {}): Promise<string> {
  const path = join(folder, `${files++}.gguf`)
  await writeGguf(path, content, options)
  return path
}

async function use<T>(path: string, work: (model: Model) => Promise<T>): Promise<T> {
  const model = await loadModel(path)
  try {
    return await work(model)
  } finally {
    model.dispose()
  }
}

async function continuation(model: Model): Promise<string> {
  let text = ""
  for await (const { text: piece } of model.generate(prompt, { maxTokens: 24, temperature: 0 })) text += piece
  return text
}

/** ||a - b|| / ||b|| */
function distance(a: Float32Array, b: Float32Array): number {
  let [difference, norm] = [0, 0]
  for (const [i, expected] of b.entries()) {
    difference += (a[i]! - expected) ** 2
    norm += expected ** 2
  }
  return Math.sqrt(difference / norm)
}

const logits = async (model: Model): Promise<Float32Array> => {
  const tensor = await model.forward(model.tokenizer.encode(prompt))
  return tensor.data as Float32Array
}

t.test("a file of floats is the checkpoint", async t => {
  const expected = await use(fable, async model => ({
    ids: model.tokenizer.encode(prompt),
    text: await continuation(model),
    logits: await logits(model),
    eos: model.eosTokenIds,
    context: model.maxContext,
  }))
  for (const type of ["F32", "F16"]) {
    const found = await use(await written(await contentOf(fable, type)), async model => ({
      ids: model.tokenizer.encode(prompt),
      text: await continuation(model),
      logits: await logits(model),
      eos: model.eosTokenIds,
      context: model.maxContext,
    }))
    t.same(found.ids, expected.ids)
    t.equal(found.text, expected.text, type)
    t.same([found.eos, found.context], [expected.eos, expected.context])
    // Weights of the checkpoint are bf16, which f16 does not hold exactly.
    t.ok(distance(found.logits, expected.logits) < (type === "F32" ? 1e-6 : 1e-3), `${type} logits`)
  }
})

t.test("every type of blocks runs as its decoded values do", async t => {
  const floats = await contentOf(fable, "F32")
  const names = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
  for (const name of [...names, "IQ4_NL", "IQ4_XS", "MXFP4", "TQ1_0", "TQ2_0"]) {
    const type = ggmlTypeNamed(name) as GgmlType
    const blocks = {
      ...floats,
      tensors: floats.tensors.map(each => (each.shape.length === 1 ? each : { ...each, type })),
    }
    const decoded = { ...floats, tensors: [...floats.tensors] }
    for (const [i, tensor] of blocks.tensors.entries())
      if (tensor.type === type)
        decoded.tensors[i] = {
          ...decoded.tensors[i]!,
          values: await decodeBlocks(tensor, await encodeBlocks(tensor, tensor.values)),
        }
    const expected = await use(await written(decoded), logits)
    const path = await written(blocks)
    await use(path, async model => {
      t.ok(distance(await logits(model), expected) < 5e-6, name)
      t.equal(model.bitsPerWeight, (8 * type.blockBytes) / type.blockSize)
      t.ok(model.weights.quantizedModules.length > 28)
    })
  }
})

t.test("a long text is encoded off the event loop", async t => {
  const text = "The fox went home. ".repeat(1200)
  await use(await written(await contentOf(fable, "Q8_0")), async model => {
    t.same(await model.tokenizer.encodeAsync(text), model.tokenizer.encode(text))
  })
})

t.test("any part of a split file opens all of it", async t => {
  const content = await contentOf(fable, "Q8_0")
  const whole = await use(await written(content), logits)
  await written(content, { maxPartBytes: 2 << 20 })
  const parts = readdirSync(folder).filter(name => /-of-/.test(name))
  t.ok(parts.length > 2)
  for (const part of [parts[0]!, parts.at(-1)!])
    t.equal(await use(join(folder, part), async m => distance(await logits(m), whole)), 0)
})

t.test("what is refused", async t => {
  const content = await contentOf(fable, "Q8_0")
  const without = (name: string) => ({ ...content, tensors: content.tensors.filter(each => each.name !== name) })
  const path = await written(content)
  const refused = (given: string, code: string, message: RegExp, options = {}) =>
    t.rejects(loadModel(given, options), { code, message })
  await refused(path, "ERR_UNSUPPORTED", /cache is for checkpoint folders/, { cache: true })
  await refused(join(folder, "none.gguf"), "ERR_IO", /none\.gguf/)
  await refused(await written(without("blk.1.ffn_up.weight")), "ERR_FORMAT", /"blk\.1\.ffn_up\.weight" is missing/)
  const narrow = content.tensors.map(each =>
    each.name === "blk.0.attn_norm.weight" ? { ...each, shape: [32], values: each.values.subarray(0, 32) } : each,
  )
  await refused(await written({ ...content, tensors: narrow }), "ERR_SHAPE", /attn_norm\.weight is \[32\], expected \[/)
  const sinks = { ...content.tensors[0]!, name: "blk.0.attn_sinks.weight" }
  const more = { ...content, tensors: [...content.tensors, sinks] }
  await refused(await written(more), "ERR_UNSUPPORTED", /"blk\.0\.attn_sinks\.weight" would not be used/)
  const other = new Map(content.metadata).set("general.architecture", { type: "string", value: "mamba" })
  await refused(await written({ ...content, metadata: other }), "ERR_UNSUPPORTED", /mamba/)
})
