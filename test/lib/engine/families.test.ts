// What loading, caching and scoring must know of the families: names that vary, weights stored [in, out], constants that depend on the
// length of a text, capped logits.
import { mkdirSync, renameSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t, { type Test } from "tap"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { evaluateModel } from "../../../lib/evaluate/evaluate-model.ts"
import { families, familyForward, familyWeights } from "../models/support/family-models.ts"
import type { Weights } from "../models/support/float64-forward.ts"
import { random, writeCheckpoint } from "../models/support/tiny-checkpoint.ts"

const next = random(3)
const ids = Array.from({ length: 41 }, () => Math.floor(next() * 37))

/** The same weights in two files. */
function writeShards(directory: string, config: Record<string, unknown>, weights: Weights): void {
  const names = Object.keys(weights)
  const half = names.length >> 1
  const map: Record<string, string> = {}
  for (const [i, part] of [names.slice(0, half), names.slice(half)].entries()) {
    const file = `model-0000${i + 1}-of-00002.safetensors`
    writeCheckpoint(directory, config, Object.fromEntries(part.map(name => [name, weights[name]!])))
    renameSync(join(directory, "model.safetensors"), join(directory, file))
    for (const name of part) map[name] = file
  }
  writeFileSync(join(directory, "model.safetensors.index.json"), JSON.stringify({ weight_map: map }))
}

function made(t: Test, name: string, sharded = false) {
  const config = families[name]!
  const directory = join(t.testdir(), "model")
  mkdirSync(directory)
  const weights = familyWeights(config, 23)
  if (sharded) writeShards(directory, config, weights)
  else writeCheckpoint(directory, config, weights)
  return { config, directory, weights, expected: familyForward(config, weights, ids) }
}

async function logitsOf(directory: string, options = {}): Promise<Float32Array> {
  const model = await loadModel(directory, options)
  try {
    return (await model.forward(ids)).data as Float32Array
  } finally {
    model.dispose()
  }
}

for (const name of [
  "phi3, longrope beyond its first context",
  "gemma3, text half of a multimodal checkpoint",
  "gpt_neox",
  "gpt2",
  "gpt2, names without transformer., scales by layer",
])
  t.test(`${name}: in shards, and from a cache file`, async t => {
    const { directory, expected } = made(t, name, true)
    const options = { cache: true, cacheDir: join(directory, "cache") }
    const first = await logitsOf(directory, options)
    const flat = expected.flatMap(row => [...row])
    t.ok(flat.every((value, i) => Math.abs(value - first[i]!) < 1e-4))
    t.same(await logitsOf(directory, { ...options, cache: "read" }), first, "the cache file holds the same")
  })

t.test("gemma3 under its newer names", async t => {
  const config = { ...families["gemma3, text half of a multimodal checkpoint"]!, newNames: true }
  const weights = familyWeights(config, 29)
  const directory = t.testdir()
  writeCheckpoint(directory, config, weights)
  const logits = await logitsOf(directory)
  t.ok(
    familyForward(config, weights, ids).every((row, i) =>
      row.every((x, j) => Math.abs(x - logits[i * 37 + j]!) < 1e-4),
    ),
  )
})

t.test("rounded as they are loaded, whatever the names", async t => {
  const pairs = [
    ["gpt2", (name: string) => name.replace("transformer.", "")],
    [
      "gemma3, text half of a multimodal checkpoint",
      (name: string) =>
        name.replace("language_model.model.", "model.language_model.").replace("language_model.lm_", "lm_"),
    ],
  ] as const
  for (const [name, renamed] of pairs) {
    const { directory, config, weights } = made(t, name)
    const other = join(directory, "other")
    const entries = Object.entries(weights).map(([tensor, value]) => [renamed(tensor), value] as const)
    writeCheckpoint(other, config, Object.fromEntries(entries))
    const options = { quantize: "w4a16" } as const
    t.same(await logitsOf(other, options), await logitsOf(directory, options), `${name}: embedding and head stay`)
  }
})

/** Mean negative log probability of every token after the first. */
function meanNll(logits: Float64Array[]): number {
  let total = 0
  for (let i = 0; i + 1 < ids.length; i++) {
    const row = logits[i]!
    const top = Math.max(...row)
    total += Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0)) + top - row[ids[i + 1]!]!
  }
  return total / (ids.length - 1)
}

for (const name of ["gemma2, soft caps that bite", "phi3, longrope beyond its first context", "gpt2"])
  t.test(`${name}: scores`, async t => {
    const { directory, expected } = made(t, name)
    const found = await evaluateModel(directory, { ids, window: ids.length, against: directory })
    t.ok(Math.abs(found.nll - meanNll(expected)) < 1e-5, `${found.nll} is close to ${meanNll(expected)}`)
    t.ok(
      Math.abs(found.against!.perplexity - found.perplexity) < 1e-9 * found.perplexity,
      "the reference is scored alike",
    )
    t.ok(found.against!.klMax < 1e-9, "and is the same model")
  })

t.test("positions end where the learned ones do", async t => {
  const { directory } = made(t, "gpt2")
  const model = await loadModel(directory)
  t.teardown(() => model.dispose())
  t.equal(model.maxContext, 64)
  const long = Array.from({ length: 65 }, (_, i) => i % 37)
  await t.rejects(model.forward(long), {
    code: "ERR_OPTION",
    message: /ids has 65 tokens, expected at most the context of 64/,
  })
  const { tokens, finishReason } = await model.complete(long.slice(0, 60), { maxTokens: 20, ignoreEos: true })
  t.equal(tokens.length, 4)
  t.equal(finishReason, "context")
})

t.test("weights of another shape, and missing ones, are named", async t => {
  const config = families.gpt2!
  const refused = async (change: (weights: Weights) => void, code: string, message: RegExp) => {
    const weights = familyWeights(config, 31)
    change(weights)
    const directory = join(t.testdir(), "model")
    writeCheckpoint(directory, config, weights)
    await t.rejects(loadModel(directory), { code, message })
  }
  const name = "transformer.h.1.attn.c_attn.weight"
  await refused(
    weights => {
      weights[name] = { ...weights[name]!, shape: [72, 24] }
    },
    "ERR_SHAPE",
    /h.1.attn.c_attn.weight is \[72, 24\], expected \[24, 72\] from config.json/,
  )
  await refused(weights => delete weights["transformer.h.0.ln_2.bias"], "ERR_FORMAT", /h.0.ln_2.bias is missing/)
  await refused(weights => delete weights["transformer.wpe.weight"], "ERR_FORMAT", /wpe.weight is missing/)
})
