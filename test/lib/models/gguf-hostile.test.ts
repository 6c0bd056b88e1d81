// Metadata that no good file has: every case is refused by its code, in a message that names file and key.
import t from "tap"
import { f32, flag, string, strings, u32 } from "../../../lib/containers/gguf-fields.ts"
import type { GgufMetadata, GgufValue } from "../../../lib/containers/gguf-types.ts"
import type { ErrorCode } from "../../../lib/core/errors.ts"
import { configOfGguf } from "../../../lib/models/gguf-config.ts"
import { ggufOfConfig } from "../../../lib/models/gguf-config-writer.ts"
import { tokenizerOfGguf } from "../../../lib/models/gguf-tokenizer.ts"
import { describeModel } from "../../../lib/models/registry.ts"
import { tinyConfig } from "./support/tiny-checkpoint.ts"

type Changes = Record<string, GgufValue | null>
type Case = [code: ErrorCode, message: RegExp, changes: Changes, tensors?: string[]]

const path = "bad.gguf"

function changed(metadata: GgufMetadata, changes: Changes): GgufMetadata {
  const result = new Map<string, GgufValue>(metadata)
  for (const [key, value] of Object.entries(changes)) value ? result.set(key, value) : result.delete(key)
  return result
}

const i32 = (...values: number[]): GgufValue => ({ type: "array", of: "i32", value: Int32Array.from(values) })
const floats = (...values: number[]): GgufValue => ({ type: "array", of: "f32", value: Float32Array.from(values) })
const nested: GgufValue = { type: "array", of: "array", value: [] }

const config = ggufOfConfig(tinyConfig, { name: "tiny", fileType: 0 }).metadata
const llama = (key: string, value: GgufValue | null): Changes => ({ [`llama.${key}`]: value })
const architecture = (name: string): Changes =>
  Object.fromEntries([
    ...[...config].flatMap(([key, value]): [string, GgufValue | null][] =>
      key.startsWith("llama.")
        ? [
            [key, null],
            [key.replace("llama", name), value],
          ]
        : [],
    ),
    ["general.architecture", string(name)],
  ])

const configCases: Case[] = [
  ["ERR_FORMAT", /general.architecture is missing, expected a string/, { "general.architecture": null }],
  ["ERR_FORMAT", /general.architecture is of type u32, expected a string/, { "general.architecture": u32(1) }],
  ["ERR_UNSUPPORTED", /"mamba"; supported architectures are "llama", .*"qwen3moe"/, architecture("mamba")],
  ["ERR_UNSUPPORTED", /"mistral"; supported/, architecture("mistral")],
  ["ERR_UNSUPPORTED", /"__proto__"; supported/, { "general.architecture": string("__proto__") }],
  ["ERR_UNSUPPORTED", /general.type is "adapter", expected "model"/, { "general.type": string("adapter") }],
  ["ERR_FORMAT", /llama.block_count is missing, expected an integer from 1 to 4096/, llama("block_count", null)],
  ["ERR_FORMAT", /llama.block_count is 0, expected/, llama("block_count", u32(0))],
  ["ERR_FORMAT", /llama.block_count is 1000000, expected/, llama("block_count", u32(1_000_000))],
  ["ERR_FORMAT", /llama.block_count is of type string/, llama("block_count", string("3"))],
  ["ERR_FORMAT", /llama.block_count is of type f32/, llama("block_count", f32(3))],
  ["ERR_FORMAT", /llama.block_count is of type bool/, llama("block_count", flag(true))],
  ["ERR_FORMAT", /llama.embedding_length is -5/, llama("embedding_length", { type: "i64", value: -5n })],
  ["ERR_FORMAT", /embedding_length is 1844674407/, llama("embedding_length", { type: "u64", value: 2n ** 64n - 1n })],
  ["ERR_FORMAT", /llama.embedding_length is of type array of f32/, llama("embedding_length", floats(1))],
  ["ERR_FORMAT", /llama.context_length is 0/, llama("context_length", u32(0))],
  ["ERR_FORMAT", /llama.feed_forward_length is missing/, llama("feed_forward_length", null)],
  ["ERR_FORMAT", /feed_forward_length is an array of 2 \(i32\), .* 3 numbers/, llama("feed_forward_length", i32(1, 2))],
  [
    "ERR_UNSUPPORTED",
    /feed_forward_length is .* models whose layers differ/,
    llama("feed_forward_length", i32(40, 40, 8)),
  ],
  ["ERR_FORMAT", /head_count_kv is .* integers from 1/, llama("attention.head_count_kv", i32(0, 0, 0))],
  ["ERR_FORMAT", /head_count is of type array of array/, llama("attention.head_count", nested)],
  ["ERR_FORMAT", /llama.attention.head_count is missing/, llama("attention.head_count", null)],
  [
    "ERR_FORMAT",
    /key_length is missing, expected .* 24 is no multiple of head_count 5/,
    { ...llama("attention.head_count", u32(5)), ...llama("attention.key_length", null) },
  ],
  ["ERR_FORMAT", /head_count_kv is 3, expected a divisor of head_count, 4/, llama("attention.head_count_kv", u32(3))],
  [
    "ERR_FORMAT",
    /4096 heads of 6000 elements, .* at most 16777216/,
    {
      ...llama("attention.head_count", u32(4096)),
      ...llama("attention.key_length", u32(6000)),
    },
  ],
  ["ERR_FORMAT", /key_length is 0/, llama("attention.key_length", u32(0))],
  ["ERR_FORMAT", /4 heads of 7 elements, expected an even number/, llama("attention.key_length", u32(7))],
  ["ERR_UNSUPPORTED", /value_length is 8, expected 6/, llama("attention.value_length", u32(8))],
  ["ERR_FORMAT", /rope.dimension_count is 4, expected 6/, llama("rope.dimension_count", u32(4))],
  ["ERR_FORMAT", /rms_epsilon is missing/, llama("attention.layer_norm_rms_epsilon", null)],
  [
    "ERR_FORMAT",
    /rms_epsilon is NaN, expected a number from 0 to 1/,
    llama("attention.layer_norm_rms_epsilon", f32(Number.NaN)),
  ],
  ["ERR_FORMAT", /rms_epsilon is of type u32/, llama("attention.layer_norm_rms_epsilon", u32(0))],
  ["ERR_FORMAT", /freq_base is Infinity/, llama("rope.freq_base", f32(Number.POSITIVE_INFINITY))],
  ["ERR_FORMAT", /freq_base is 0, expected a number of at least 1/, llama("rope.freq_base", f32(0))],
  ["ERR_FORMAT", /llama.expert_used_count is missing/, llama("expert_count", u32(8))],
  ["ERR_FORMAT", /llama.expert_count is 5000, expected an integer from 0 to 4096/, llama("expert_count", u32(5000))],
  ["ERR_FORMAT", /llama.expert_used_count is 2, expected/, llama("expert_used_count", u32(2))],
  [
    "ERR_UNSUPPORTED",
    /llama.expert_feed_forward_length is 9, expected no such key/,
    llama("expert_feed_forward_length", u32(9)),
  ],
  ["ERR_UNSUPPORTED", /clamp_kqv is 8, expected 0/, llama("attention.clamp_kqv", f32(8))],
  ["ERR_UNSUPPORTED", /attn_logit_softcapping is 50/, llama("attn_logit_softcapping", f32(50))],
  ["ERR_UNSUPPORTED", /final_logit_softcapping is 30/, llama("final_logit_softcapping", f32(30))],
  ["ERR_UNSUPPORTED", /router_logit_softcapping is 30/, llama("router_logit_softcapping", f32(30))],
  ["ERR_UNSUPPORTED", /max_alibi_bias is 8/, llama("attention.max_alibi_bias", f32(8))],
  ["ERR_UNSUPPORTED", /causal is false, expected true/, llama("attention.causal", flag(false))],
  ["ERR_UNSUPPORTED", /use_parallel_residual is true/, llama("use_parallel_residual", flag(true))],
  ["ERR_UNSUPPORTED", /logit_scale is 16, expected no such key/, llama("logit_scale", f32(16))],
  ["ERR_UNSUPPORTED", /embedding_scale is 12/, llama("embedding_scale", f32(12))],
  ["ERR_UNSUPPORTED", /attention.scale is 0.5, expected 0.408/, llama("attention.scale", f32(0.5))],
  ["ERR_UNSUPPORTED", /q_lora_rank is 8, expected no such key/, llama("attention.q_lora_rank", u32(8))],
  ["ERR_UNSUPPORTED", /dimension_sections is an array of 4 \(i32\)/, llama("rope.dimension_sections", i32(1, 2, 3, 4))],
  [
    "ERR_UNSUPPORTED",
    /scaling.type is "longrope", expected "none", "linear" or "yarn"/,
    llama("rope.scaling.type", string("longrope")),
  ],
  ["ERR_FORMAT", /scaling.type is of type u32/, llama("rope.scaling.type", u32(1))],
  ["ERR_FORMAT", /scaling.factor is -2/, llama("rope.scaling.factor", f32(-2))],
  ["ERR_UNSUPPORTED", /attn_factor is 2, expected 1 where/, llama("rope.scaling.attn_factor", f32(2))],
  [
    "ERR_UNSUPPORTED",
    /yarn_log_multiplier is 0.1/,
    { ...llama("rope.scaling.type", string("yarn")), ...llama("rope.scaling.yarn_log_multiplier", f32(0.1)) },
  ],
  ["ERR_UNSUPPORTED", /yarn_beta_fast is 16, expected 32/, llama("rope.scaling.yarn_beta_fast", f32(16))],
  ["ERR_UNSUPPORTED", /yarn_beta_slow is 2, expected 1/, llama("rope.scaling.yarn_beta_slow", f32(2))],
  ["ERR_UNSUPPORTED", /"rope_factors_long.weight" is of longrope/, {}, ["rope_factors_long.weight"]],
  ["ERR_OPTION", /values of "rope_freqs.weight" were not given/, {}, ["rope_freqs.weight"]],
  [
    "ERR_UNSUPPORTED",
    /factor is 4, expected 1 beside a tensor/,
    llama("rope.scaling.factor", f32(4)),
    ["rope_freqs.weight"],
  ],
  [
    "ERR_UNSUPPORTED",
    /"rope_freqs.weight", which models of architecture "qwen2"/,
    architecture("qwen2"),
    ["rope_freqs.weight"],
  ],
  [
    "ERR_UNSUPPORTED",
    /"blk.0.attn_q.bias" and none "blk.0.attn_output.bias"/,
    {},
    ["attn_q", "attn_k", "attn_v"].map(m => `blk.0.${m}.bias`),
  ],
  [
    "ERR_UNSUPPORTED",
    /"blk.0.attn_output.bias", which models of architecture "qwen2"/,
    architecture("qwen2"),
    ["blk.0.attn_output.bias"],
  ],
  [
    "ERR_UNSUPPORTED",
    /"blk.0.attn_q.bias", which models of architecture "qwen3"/,
    architecture("qwen3"),
    ["blk.0.attn_q.bias"],
  ],
  ["ERR_FORMAT", /tokenizer.ggml.tokens is of type array of i32/, { "tokenizer.ggml.tokens": i32(1) }],
  ["ERR_FORMAT", /llama.vocab_size is missing/, llama("vocab_size", null)],
  ["ERR_FORMAT", /file_type is of type string/, { "general.file_type": string("Q4") }],
]

t.test("configurations", async t => {
  t.doesNotThrow(() => configOfGguf(config, { has: () => false }, path))
  for (const [code, message, changes, tensors = []] of configCases) {
    const has = (name: string) => tensors.includes(name)
    t.throws(
      () => configOfGguf(changed(config, changes), { has }, path),
      { name: "TsqError", code, message: new RegExp(`^bad.gguf: .*${message.source}`) },
      String(message),
    )
  }
})

/** The configuration with the keys that another architecture needs. */
const other = (name: string, changes: Record<string, GgufValue | null> = {}) => ({
  ...architecture(name),
  ...Object.fromEntries(Object.entries(changes).map(([key, value]) => [`${name}.${key}`, value])),
})
const bools = (...values: number[]): GgufValue => ({ type: "array", of: "bool", value: Uint8Array.from(values) })
const long = ["rope_factors_long.weight", "rope_factors_short.weight"]

const familyCases: Case[] = [
  [
    "ERR_FORMAT",
    /pattern is an array of 2 \(bool\), .* 3 values/,
    windowed({ "attention.sliding_window_pattern": bools(1, 0) }),
  ],
  [
    "ERR_FORMAT",
    /pattern is of type array of f32, expected/,
    windowed({ "attention.sliding_window_pattern": floats(1) }),
  ],
  ["ERR_FORMAT", /sliding_window is -1/, windowed({ "attention.sliding_window": { type: "i32", value: -1 } })],
  ["ERR_UNSUPPORTED", /attn_logit_softcapping is 50/, other("gemma3", { attn_logit_softcapping: f32(50) })],
  ["ERR_UNSUPPORTED", /"yarn", expected "none" or "linear"/, other("gemma3", { "rope.scaling.type": string("yarn") })],
  ["ERR_FORMAT", /softcapping is 0, expected a number above 0/, other("gemma2", { attn_logit_softcapping: f32(0) })],
  ["ERR_UNSUPPORTED", /freq_base_swa is 5, expected 10000/, other("gemma2", { "rope.freq_base_swa": f32(5) })],
  ["ERR_FORMAT", /rope_factors_short.weight" is missing/, other("phi3"), [long[0]!]],
  ["ERR_OPTION", /values of "rope_factors_short.weight" were not given/, other("phi3"), long],
  ["ERR_UNSUPPORTED", /factor is 2, expected 1 beside/, other("phi3", { "rope.scaling.factor": f32(2) }), long],
  ["ERR_UNSUPPORTED", /head_count_kv is 2, expected 4/, other("gpt2")],
  ["ERR_FORMAT", /layer_norm_epsilon is missing/, other("gpt2", { "attention.head_count_kv": u32(4) })],
  [
    "ERR_FORMAT",
    /key_length is 8, expected 6/,
    other("gptneox", {
      "attention.head_count_kv": u32(4),
      "attention.key_length": u32(8),
      "attention.value_length": u32(8),
    }),
  ],
  ["ERR_FORMAT", /use_parallel_residual is missing/, layered({})],
  ["ERR_FORMAT", /use_parallel_residual is of type u32/, layered({ use_parallel_residual: u32(1) })],
]

t.test("configurations of other families", async t => {
  for (const [code, message, changes, tensors = []] of familyCases)
    t.throws(
      () => configOfGguf(changed(config, changes), { has: name => tensors.includes(name) }, path),
      { name: "TsqError", code, message: new RegExp(`^bad.gguf: .*${message.source}`) },
      String(message),
    )
})

function windowed(changes: Record<string, GgufValue>) {
  return other("gemma3", { "attention.sliding_window": u32(9), ...changes })
}

function layered(changes: Record<string, GgufValue>) {
  return other("gptneox", { "attention.head_count_kv": u32(4), "attention.layer_norm_epsilon": f32(1e-5), ...changes })
}

t.test("factors that are no factors", async t => {
  const read = (...ropeFactors: number[]) => {
    const computed = new Map([["rope_freqs.weight", Float32Array.from(ropeFactors)]])
    const tensors = { has: (name: string) => computed.has(name), computed }
    return describeModel(configOfGguf(config, tensors, path))
  }
  t.doesNotThrow(() => read(1, 2, 8))
  t.throws(() => read(1, 2), { code: "ERR_SHAPE", message: /bad.gguf: .*has 2 elements, expected 3/ })
  for (const bad of [0, -1, Number.NaN, Number.POSITIVE_INFINITY])
    t.throws(() => read(1, bad, 8), { code: "ERR_CORRUPT", message: new RegExp(`bad.gguf: .*holds ${bad} at 1`) })
})

const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`)

/** gpt2: "a", "b", "ab", begin, end. llama: <unk>, <s>, </s>, 256 bytes, "a". */
const byteLevel: GgufMetadata = new Map<string, GgufValue>([
  ["tokenizer.ggml.model", string("gpt2")],
  ["tokenizer.ggml.pre", string("qwen2")],
  ["tokenizer.ggml.tokens", strings(["a", "b", "ab", "<s>", "</s>"])],
  ["tokenizer.ggml.token_type", i32(1, 1, 1, 3, 3)],
  ["tokenizer.ggml.merges", strings(["a b"])],
  ["tokenizer.ggml.bos_token_id", u32(3)],
])
const pieces: GgufMetadata = new Map<string, GgufValue>([
  ["tokenizer.ggml.model", string("llama")],
  ["tokenizer.ggml.tokens", strings(["<unk>", "<s>", "</s>", ...bytes, "a"])],
  ["tokenizer.ggml.token_type", i32(2, 3, 3, ...bytes.map(() => 6), 1)],
  ["tokenizer.ggml.scores", floats(...new Array(260).fill(0))],
])
const key = (name: string, value: GgufValue | null): Changes => ({ [`tokenizer.ggml.${name}`]: value })
const tokens = (...list: string[]) => key("tokens", strings(list))

const byteLevelCases: Case[] = [
  ["ERR_FORMAT", /ggml.model is missing/, key("model", null)],
  ["ERR_UNSUPPORTED", /ggml.model is "t5"; supported are "gpt2" or "llama"/, key("model", string("t5"))],
  ["ERR_UNSUPPORTED", /ggml.model is "none"/, key("model", string("none"))],
  ["ERR_UNSUPPORTED", /ggml.pre is "new-pre", .* known are .*qwen2/, key("pre", string("new-pre"))],
  ["ERR_UNSUPPORTED", /ggml.pre is "constructor"/, key("pre", string("constructor"))],
  ["ERR_FORMAT", /ggml.pre is of type u32/, key("pre", u32(1))],
  ["ERR_FORMAT", /ggml.tokens is missing, expected an array of strings/, key("tokens", null)],
  ["ERR_FORMAT", /ggml.tokens is of type string/, key("tokens", string("a"))],
  ["ERR_FORMAT", /ggml.tokens is an array of 0 .*expected at least one token/, tokens()],
  ["ERR_CORRUPT", /ggml.tokens has "a" twice, as ids 0 and 3/, tokens("a", "b", "ab", "a", "</s>")],
  ["ERR_CORRUPT", /ggml.tokens has "\[EMPTY_1\]" twice/, tokens("[EMPTY_1]", "", "ab", "<s>", "</s>")],
  ["ERR_FORMAT", /token_type is missing/, key("token_type", null)],
  ["ERR_FORMAT", /token_type is of type array of f32/, key("token_type", floats(1, 1, 1, 1, 1))],
  ["ERR_CORRUPT", /token_type has 4 elements, expected 5/, key("token_type", i32(1, 1, 1, 3))],
  ["ERR_CORRUPT", /token_type has 6 elements, expected 5/, key("token_type", i32(1, 1, 1, 3, 3, 3))],
  ["ERR_CORRUPT", /token_type\[1\] is 7, expected 0 to 6/, key("token_type", i32(1, 7, 1, 3, 3))],
  ["ERR_CORRUPT", /token_type\[0\] is -1/, key("token_type", i32(-1, 1, 1, 3, 3))],
  ["ERR_FORMAT", /merges is missing/, key("merges", null)],
  ["ERR_FORMAT", /merges is of type array of i32/, key("merges", i32(1))],
  ["ERR_CORRUPT", /merges\[0\] is "ab", expected two tokens/, key("merges", strings(["ab"]))],
  ["ERR_CORRUPT", /merges\[0\] is "", expected two tokens/, key("merges", strings([""]))],
  ["ERR_CORRUPT", /merges\[0\] is " a", expected two tokens/, key("merges", strings([" a"]))],
  ["ERR_CORRUPT", /merges\[0\] is "a ", expected two tokens/, key("merges", strings(["a "]))],
  ["ERR_CORRUPT", /merges\[1\] is "c b", and "cb" is no token/, key("merges", strings(["a b", "c b"]))],
  ["ERR_CORRUPT", /merges\[0\] is "b a", and "ba" is no token/, key("merges", strings(["b a"]))],
  ["ERR_CORRUPT", /merges\[0\] is "a b a", and "ab a" is no token/, key("merges", strings(["a b a"]))],
  ["ERR_FORMAT", /bos_token_id is 5, expected an integer from 0 to 4/, key("bos_token_id", u32(5))],
  ["ERR_FORMAT", /eos_token_id is 4294967295/, key("eos_token_id", u32(4294967295))],
  ["ERR_FORMAT", /padding_token_id is -1/, key("padding_token_id", { type: "i32", value: -1 })],
  ["ERR_FORMAT", /unknown_token_id is of type string/, key("unknown_token_id", string("<unk>"))],
  ["ERR_FORMAT", /add_bos_token is of type u32, expected true or false/, key("add_bos_token", u32(1))],
  [
    "ERR_FORMAT",
    /bos_token_id is missing, expected a token id/,
    { ...key("bos_token_id", null), ...key("add_bos_token", flag(true)) },
  ],
  ["ERR_FORMAT", /eos_token_id is missing, expected a token id/, key("add_eos_token", flag(true))],
  ["ERR_FORMAT", /chat_template is of type u32/, { "tokenizer.chat_template": u32(1) }],
  ["ERR_FORMAT", /chat_template.rag is missing/, { "tokenizer.chat_templates": strings(["rag"]) }],
  ["ERR_FORMAT", /chat_templates is of type string/, { "tokenizer.chat_templates": string("rag") }],
]

const pieceCases: Case[] = [
  ["ERR_FORMAT", /scores is missing/, key("scores", null)],
  ["ERR_FORMAT", /scores is of type array of string/, key("scores", strings(["0"]))],
  ["ERR_CORRUPT", /scores has 1 elements, expected 260/, key("scores", floats(0))],
  [
    "ERR_CORRUPT",
    /scores\[7\] is not a number/,
    key("scores", floats(...Array.from({ length: 260 }, (_, i) => (i === 7 ? Number.NaN : 0)))),
  ],
  [
    "ERR_CORRUPT",
    /tokens lacks "<0xFF>"; expected a token for each/,
    {
      ...tokens("<unk>", "<s>", "</s>", ...bytes.slice(0, -1), "x", "a"),
      ...key("token_type", i32(2, 3, 3, ...bytes.slice(0, -1).map(() => 6), 1, 1)),
    },
  ],
  [
    "ERR_CORRUPT",
    /tokens\[3\] is "<0x0>", expected a byte/,
    tokens("<unk>", "<s>", "</s>", "<0x0>", ...bytes.slice(1), "a"),
  ],
  ["ERR_FORMAT", /add_space_prefix is of type string/, key("add_space_prefix", string("no"))],
]

t.test("tokenizers", async t => {
  for (const [whole, cases] of [
    [byteLevel, byteLevelCases],
    [pieces, pieceCases],
  ] as const) {
    t.doesNotThrow(() => tokenizerOfGguf(whole, path))
    for (const [code, message, changes] of cases)
      t.throws(
        () => tokenizerOfGguf(changed(whole, changes), path),
        { name: "TsqError", code, message: new RegExp(`^bad.gguf: .*${message.source}`) },
        String(message),
      )
  }
})

t.test("tokens named like what every object has", async t => {
  const names = ["__proto__", "constructor", "toString", "hasOwnProperty", "0"]
  const { json } = tokenizerOfGguf(changed(byteLevel, { ...tokens(...names), ...key("merges", strings([])) }), path)
  const { vocab } = json.model as { vocab: Record<string, number> }
  t.same(
    names.map(name => Object.getOwnPropertyDescriptor(vocab, name)?.value),
    [0, 1, 2, 3, 4],
  )
})
