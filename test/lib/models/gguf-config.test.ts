import { readFileSync } from "node:fs"
import t from "tap"
import type { GgufMetadata, GgufValue } from "../../../lib/containers/gguf-types.ts"
import { configOfGguf } from "../../../lib/models/gguf-config.ts"
import { ggufOfConfig } from "../../../lib/models/gguf-config-writer.ts"
import { GgufNames, ropeNames } from "../../../lib/models/gguf-names.ts"
import { specialTokenFields, tokensKey } from "../../../lib/models/gguf-special.ts"
import { describeModel } from "../../../lib/models/registry.ts"
import { fable, ropeVectors, stories } from "./support/reference-models.ts"
import { randomWeights, tinyConfig } from "./support/tiny-checkpoint.ts"

type Config = Record<string, unknown>

/** The metadata of a configuration, and the same model described from it. */
function roundTrip(config: Config, fileType = 0) {
  const { metadata, computed } = ggufOfConfig(config, { name: "tiny", fileType })
  const { bosTokenIds, eosTokenIds, vocabularySize } = describeModel(config).config
  const all = new Map<string, GgufValue>([
    ...metadata,
    [tokensKey, { type: "array", of: "string", value: Array.from({ length: vocabularySize }, (_, id) => `t${id}`) }],
    ...specialTokenFields({ bos: bosTokenIds[0] ?? null, eos: eosTokenIds, unk: null, pad: null }).fields,
  ])
  const inGguf = new GgufNames(config.model_type as string)
  const names = new Set(Object.keys(randomWeights(config, 1)).map(name => inGguf.gguf(name)!))
  const tensors = { has: (name: string) => names.has(name) || computed.has(name), computed }
  return { metadata: all, config: configOfGguf(all, tensors, "tiny.gguf") }
}

/** What a program computes. Mistral comes back as the llama that it is. */
function computed(config: Config) {
  const { config: model, slots, sections, blocks, embedding, head } = describeModel(config)
  const { raw: _, architecture, ...rest } = model
  return {
    config: rest,
    architecture: architecture.replace("mistral", "llama"),
    slots,
    sections,
    blocks,
    embedding,
    head,
  }
}

const llama3 = {
  rope_type: "llama3",
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
}

const variants: Record<string, Config> = {
  llama: {},
  "llama, tied, biases, ids": {
    tie_word_embeddings: true,
    attention_bias: true,
    mlp_bias: true,
    bos_token_id: 1,
    eos_token_id: [5, 3, 4],
    rms_norm_eps: 1e-6,
    rope_theta: 500000,
    torch_dtype: "float32",
  },
  "llama, head_dim of its own, linear": { head_dim: 10, rope_scaling: { type: "linear", factor: 2.5 } },
  "mistral without a window": { model_type: "mistral", sliding_window: null, eos_token_id: 2 },
  qwen2: { model_type: "qwen2", rope_theta: 1000000, tie_word_embeddings: true },
  "qwen2, yarn as it comes": {
    model_type: "qwen2",
    rope_scaling: { type: "yarn", factor: 4, original_max_position_embeddings: 64 },
  },
  "qwen2, yarn in rope_parameters, no factor": {
    model_type: "qwen2",
    rope_theta: undefined,
    rope_parameters: { rope_type: "yarn", rope_theta: 1000, original_max_position_embeddings: 32 },
  },
  "qwen3, yarn with all its numbers": {
    model_type: "qwen3",
    head_dim: 16,
    rope_scaling: { rope_type: "yarn", factor: 3, beta_fast: 32, beta_slow: 1, attention_factor: 1.25 },
  },
  "qwen3, yarn by mscale": {
    model_type: "qwen3",
    rope_scaling: { rope_type: "yarn", factor: 40, mscale: 1, mscale_all_dim: 1, original_max_position_embeddings: 64 },
  },
  "qwen3, linear": { model_type: "qwen3", head_dim: 16, rope_scaling: { rope_type: "linear", factor: 4 } },
}

t.test("config.json comes back as the same program", async t => {
  for (const [name, changes] of Object.entries(variants)) {
    const config = { ...tinyConfig, ...changes }
    const { config: back } = roundTrip(config)
    t.same(computed(back), computed(config), name)
  }
})

t.test("a window that no text outgrows is none", async t => {
  const { config } = roundTrip({ ...tinyConfig, model_type: "mistral", sliding_window: 128 })
  t.equal(config.model_type, "llama")
})

t.test("llama3 scaling travels as factors", async t => {
  const config = { ...tinyConfig, rope_scaling: llama3, head_dim: 16 }
  const { config: back, metadata } = roundTrip(config)
  t.match(back.rope_scaling, { rope_type: "factors" })
  t.notOk([...metadata.keys()].some(key => key.includes("scaling")))
  const frequencies = (from: Config) =>
    describeModel(from).sections.flatMap(({ weights }) =>
      weights.flatMap(slot => (slot.kind === "constant" ? [...slot.values] : [])),
    )
  const [found, expected] = [frequencies(back), frequencies(config)]
  t.equal(found.length, 8)
  found.forEach((value, i) => {
    t.ok(Math.abs(value / expected[i]! - 1) < 2 ** -22, `${value} is ${expected[i]} but for rounding`)
  })
  const without = ({ sections: _, ...rest }: ReturnType<typeof computed>) => rest
  t.same(without(computed(back)), without(computed(config)))
})

t.test("the factors are those of an independent implementation", async t => {
  const { rope_theta, head_dim, gguf_rope_freqs, ...vector } = ropeVectors()["rope-llama3"]!
  const { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } = vector
  const rope_scaling = {
    rope_type: "llama3",
    factor,
    low_freq_factor,
    high_freq_factor,
    original_max_position_embeddings,
  }
  const { computed } = ggufOfConfig({ ...tinyConfig, rope_theta, head_dim, rope_scaling }, { name: "a", fileType: 0 })
  const expected = gguf_rope_freqs as number[]
  const ropeFactors = computed.get(ropeNames.factors)!
  t.equal(ropeFactors.length, expected.length)
  ropeFactors.forEach((value, i) => {
    t.ok(Math.abs(value / expected[i]! - 1) < 1e-5, `[${i}] ${value}`)
  })
})

for (const model of [fable, stories])
  t.test(model.name, { skip: model.skip }, async t => {
    const config = JSON.parse(readFileSync(`${model.directory}/config.json`, "utf8")) as Config
    const { config: back, metadata } = roundTrip(config, config.torch_dtype === "bfloat16" ? 32 : 0)
    t.same(computed(back), computed(config))
    t.same(metadata.get("general.architecture"), { type: "string", value: "llama" })
    t.notOk(metadata.has("general.quantization_version"), "nothing is quantized")
    t.ok(ggufOfConfig(config, { name: "a", fileType: 15 }).metadata.has("general.quantization_version"))
  })

t.test("defaults and habits of other writers", async t => {
  const { metadata } = roundTrip({ ...tinyConfig, num_key_value_heads: 4 })
  const read = (changes: Record<string, GgufValue | null>, tensors: string[] = ["output.weight"]) => {
    const changed = new Map<string, GgufValue>(metadata)
    for (const [key, value] of Object.entries(changes)) value ? changed.set(key, value) : changed.delete(key)
    return configOfGguf(changed, { has: name => tensors.includes(name) }, "tiny.gguf")
  }
  const absent = ["attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count"]
  const none = Object.fromEntries([...absent, "rope.freq_base", "vocab_size"].map(key => [`llama.${key}`, null]))
  t.match(read(none), { num_key_value_heads: 4, head_dim: 6, rope_theta: 10000, vocab_size: 37 })
  t.match(
    read({ "llama.block_count": { type: "u64", value: 3n }, "llama.context_length": { type: "i32", value: 9 } }),
    {
      num_hidden_layers: 3,
      max_position_embeddings: 9,
    },
  )
  t.match(
    read({
      "llama.feed_forward_length": { type: "array", of: "i32", value: Int32Array.of(40, 40, 40) },
      "llama.attention.layer_norm_rms_epsilon": { type: "f64", value: 1e-7 },
    }),
    { intermediate_size: 40, rms_norm_eps: 1e-7 },
  )
  const factor: GgufValue = { type: "f32", value: 4 }
  const scaling = (changes: Record<string, GgufValue | null>) => read(changes).rope_scaling
  t.same(scaling({ "llama.rope.scaling.factor": factor }), { rope_type: "linear", factor: 4 }, "no type: linear")
  t.same(scaling({ "llama.rope.scale_linear": factor }), { rope_type: "linear", factor: 4 }, "the old key")
  t.same(
    scaling({ "llama.rope.scaling.factor": factor, "llama.rope.scaling.type": { type: "string", value: "none" } }),
    null,
  )
  t.same(scaling({ "llama.rope.scaling.factor": { type: "f32", value: 0 } }), null)
  t.match(
    read({
      "llama.expert_count": { type: "u32", value: 0 },
      "llama.attention.sliding_window": { type: "u32", value: 9 },
    }),
    { model_type: "llama" },
    "what changes nothing is let through",
  )
  t.equal(read({}, []).tie_word_embeddings, true)
  t.equal(read({ "general.file_type": { type: "u32", value: 32 } }).torch_dtype, "bfloat16")
  t.equal(read({ "general.file_type": { type: "u32", value: 15 } }).torch_dtype, "float16")
})

t.test("ends of a generation: keys first, then control tokens that read like one", async t => {
  const tokens = ["<s>", "</s>", "<|eot_id|>", "<|im_end|>", "a"]
  const metadata: GgufMetadata = new Map<string, GgufValue>([
    ...roundTrip(tinyConfig).metadata,
    [tokensKey, { type: "array", of: "string", value: tokens }],
    ["tokenizer.ggml.token_type", { type: "array", of: "i32", value: Int32Array.of(3, 3, 3, 1, 1) }],
    ...specialTokenFields({ bos: 0, eos: [2, 4], unk: null, pad: null }).fields,
  ])
  const config = configOfGguf(metadata, { has: () => false }, "tiny.gguf")
  t.equal(config.bos_token_id, 0)
  t.same(config.eos_token_id, [2, 4, 1], "an ordinary token is left alone")
})

t.test("what GGUF cannot express is refused with the reason", async t => {
  const refuses = (changes: Config, message: RegExp) =>
    t.throws(() => ggufOfConfig({ ...tinyConfig, ...changes }, { name: "a", fileType: 0 }), {
      code: "ERR_UNSUPPORTED",
      message,
    })
  refuses({ model_type: "mistral", sliding_window: 9 }, /sliding window of 9.*set "sliding_window" to null/)
  refuses(
    { model_type: "qwen2", use_sliding_window: true, sliding_window: 9, max_window_layers: 1 },
    /sliding window of 9/,
  )
  refuses({ hidden_act: "gelu_new" }, /an activation that is not SiLU/)
  refuses({ head_dim: 8, partial_rotary_factor: 0.5 }, /a rotary embedding of 4 of 8 elements/)
  refuses({ model_type: "qwen3", attention_bias: true }, /a bias of self_attn.q_proj, for which architecture "qwen3"/)
  refuses(
    { model_type: "qwen2", head_dim: 8, rope_scaling: llama3 },
    /rope type "llama3", for which only architecture "llama"/,
  )
  refuses({ rope_scaling: { rope_type: "yarn", factor: 2, truncate: false } }, /yarn scaling with truncate false/)
  refuses(
    { rope_scaling: { rope_type: "yarn", factor: 2, beta_fast: 16 } },
    /yarn scaling with beta_fast 16, and llama.cpp takes 32/,
  )
  refuses({ rope_scaling: { rope_type: "yarn", factor: 2, beta_slow: 2 } }, /yarn scaling with beta_slow 2/)
  refuses({ model_type: "gpt_oss" }, /model_type is "gpt_oss"/)
})
