import t, { type Test } from "tap"
import type { TsqError } from "../../../lib/core/errors.ts"
import { describeModel } from "../../../lib/models/registry.ts"
import { tinyConfig } from "./support/tiny-checkpoint.ts"

const describeWith = (changes: Record<string, unknown>) => describeModel({ ...tinyConfig, ...changes })

function refuses(t: Test, changes: Record<string, unknown>, code: string, ...parts: (string | RegExp)[]): void {
  try {
    describeWith(changes)
    t.fail(`${JSON.stringify(changes)} is accepted`)
  } catch (error) {
    const { code: found, message } = error as TsqError
    t.equal(found, code, message)
    for (const part of parts) t.match(message, part)
  }
}

t.test("keys of a llama configuration", async t => {
  const { config } = describeWith({
    bos_token_id: 1,
    eos_token_id: [2, 3],
    torch_dtype: "bfloat16",
    unknown_key: { anything: true },
  })
  t.match(config, {
    architecture: "llama",
    hiddenSize: 24,
    intermediateSize: 40,
    layers: 3,
    heads: 4,
    kvHeads: 2,
    headDim: 6,
    vocabularySize: 37,
    maxContext: 128,
    normEps: 1e-5,
    tiedEmbeddings: false,
    bosTokenIds: [1],
    eosTokenIds: [2, 3],
    torchDtype: "bfloat16",
  })
})

t.test("defaults where keys are absent or null", async t => {
  const absent = {
    num_key_value_heads: null,
    rms_norm_eps: undefined,
    rope_theta: undefined,
    tie_word_embeddings: undefined,
  }
  const { config } = describeWith({
    ...absent,
    max_position_embeddings: undefined,
    eos_token_id: null,
    dtype: "float16",
  })
  t.match(config, {
    kvHeads: 4,
    normEps: 1e-6,
    maxContext: 2048,
    tiedEmbeddings: false,
    eosTokenIds: [],
    torchDtype: "float16",
  })
  t.equal(describeWith({ model_type: "qwen3" }).config.headDim, 128, "qwen3 has heads of 128 whatever the hidden size")
})

t.test("attention windows", async t => {
  const windows = (changes: Record<string, unknown>) => {
    const { blocks, sections } = describeWith(changes)
    return blocks.map(section => sections[section]!.ops.find(op => op.kind === "attention")!.p[4])
  }
  t.same(windows({ sliding_window: 9 }), [0, 0, 0], "llama has none")
  t.same(windows({ model_type: "mistral" }), [4096, 4096, 4096], "absent means 4096")
  t.same(windows({ model_type: "mistral", sliding_window: null }), [0, 0, 0])
  t.same(
    windows({ model_type: "qwen2", sliding_window: 9, max_window_layers: 1 }),
    [0, 0, 0],
    "off unless use_sliding_window",
  )
  const sliding = { use_sliding_window: true, sliding_window: 9 }
  t.same(windows({ model_type: "qwen2", ...sliding, max_window_layers: 2 }), [0, 0, 9])
  t.same(windows({ model_type: "qwen3", ...sliding }), [0, 0, 0], "layers below 28 see everything")
  const types = ["sliding_attention", "full_attention", "sliding_attention"]
  t.same(windows({ model_type: "qwen3", ...sliding, layer_types: types }), [9, 0, 9])
  t.same(windows({ model_type: "qwen3", sliding_window: 9, layer_types: types }), [0, 0, 0])
})

t.test("biases by architecture", async t => {
  const biased = (changes: Record<string, unknown>) =>
    describeWith(changes).sections[1]!.weights.flatMap(slot =>
      slot.kind === "linear" && slot.bias ? [slot.module] : [],
    )
  const qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
  const mlp = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
  t.same(biased({}), [])
  t.same(biased({ attention_bias: true, mlp_bias: true }), [...qkv, "self_attn.o_proj", ...mlp])
  t.same(biased({ model_type: "mistral", attention_bias: true }), [])
  t.same(biased({ model_type: "qwen2", attention_bias: false }), qkv)
  t.same(biased({ model_type: "qwen3" }), [])
  t.same(biased({ model_type: "qwen3", attention_bias: true }), [...qkv, "self_attn.o_proj"])
})

t.test("context that a rope scaling reaches", async t => {
  const yarn = { type: "yarn", factor: 4, original_max_position_embeddings: 128 }
  t.equal(describeWith({ rope_scaling: yarn }).config.maxContext, 512)
  t.equal(describeWith({ rope_scaling: yarn, max_position_embeddings: 4096 }).config.maxContext, 4096)
  t.equal(describeWith({ rope_scaling: { type: "yarn", factor: 4 } }).config.maxContext, 128, "as the config states")
  t.equal(describeWith({ rope_scaling: { type: "linear", factor: 4 } }).config.maxContext, 128, "as the config states")
})

t.test("what does not fit is named", async t => {
  refuses(
    t,
    { model_type: "gpt_oss" },
    "ERR_UNSUPPORTED",
    /model_type is "gpt_oss"/,
    /"gemma2", .*"gpt_neox", "llama", "mistral", "phi3", "qwen2" or "qwen3"/,
  )
  refuses(t, { model_type: undefined }, "ERR_UNSUPPORTED", /model_type is missing/)
  refuses(t, { model_type: "toString" }, "ERR_UNSUPPORTED", /model_type is "toString"/)
  refuses(
    t,
    { hidden_size: undefined },
    "ERR_FORMAT",
    /config.json: hidden_size is missing; expected a value of type number/,
  )
  refuses(t, { hidden_size: "24" }, "ERR_FORMAT", /hidden_size is "24"/)
  refuses(t, { hidden_size: 24.5 }, "ERR_FORMAT", /hidden_size is 24.5; expected an integer/)
  refuses(t, { num_hidden_layers: 0 }, "ERR_FORMAT", /num_hidden_layers is 0; expected at least 1/)
  refuses(t, { vocab_size: 2 ** 40 }, "ERR_FORMAT", /vocab_size is 1099511627776; expected at most/)
  refuses(t, { eos_token_id: "2" }, "ERR_FORMAT", /eos_token_id is "2"; expected an integer or a list of integers/)
  refuses(
    t,
    { num_key_value_heads: 3 },
    "ERR_FORMAT",
    /num_attention_heads is 4, expected a multiple of num_key_value_heads 3/,
  )
  refuses(t, { hidden_size: 25 }, "ERR_FORMAT", /hidden_size 25 is not a multiple of num_attention_heads 4/)
  refuses(t, { hidden_act: "relu" }, "ERR_UNSUPPORTED", /hidden_act is "relu"; supported are "silu"/)
  refuses(
    t,
    { layer_types: ["full_attention"] },
    "ERR_FORMAT",
    /layer_types has 1 entries, expected num_hidden_layers = 3/,
  )
  const linear = ["full_attention", "linear_attention", "full_attention"]
  refuses(t, { layer_types: linear }, "ERR_UNSUPPORTED", /layer_types\[1\] is "linear_attention"/)
})

t.test("rope types that are not supported", async t => {
  for (const type of ["dynamic", "su", "proportional"])
    refuses(
      t,
      { rope_scaling: { type, factor: 2 } },
      "ERR_UNSUPPORTED",
      `config.json: rope_scaling: the rope type is "${type}"`,
      /"default", "linear", "llama3", "yarn", "longrope" and "factors"/,
    )
  refuses(
    t,
    { rope_parameters: { rope_type: "longrope" } },
    "ERR_FORMAT",
    /rope_parameters: short_factor is missing; expected a value of type array/,
  )
  refuses(t, { rope_scaling: { type: "linear" } }, "ERR_FORMAT", /rope_scaling: factor is missing/)
  refuses(t, { rope_scaling: { type: "linear", factor: 0 } }, "ERR_FORMAT", /factor is 0; expected more than 0/)
  refuses(t, { rope_scaling: { type: "llama3", factor: 8 } }, "ERR_FORMAT", /low_freq_factor is missing/)
  refuses(t, { rope_scaling: { type: "yarn" } }, "ERR_FORMAT", /factor is missing/)
  refuses(t, { rope_parameters: { rope_theta: -1 } }, "ERR_FORMAT", /rope_theta is -1, expected a positive number/)
  refuses(t, { partial_rotary_factor: 0.5 }, "ERR_FORMAT", /head_dim 6 x partial_rotary_factor 0.5 rotates 3 elements/)
})

t.test("longrope's lists are as long as what turns", async t => {
  const refusesFactors = (factors: object, message: RegExp) =>
    refuses(t, { rope_scaling: { type: "longrope", ...factors } }, "ERR_FORMAT", message)
  refusesFactors({ short_factor: [1, 1], long_factor: [1, 2, 3] }, /short_factor has 2 entries, expected 3/)
  refusesFactors({ short_factor: [1, 1, 1], long_factor: [1] }, /long_factor has 1 entries, expected 3/)
  refusesFactors({ short_factor: [1, 0, 1], long_factor: [1, 1, 1] }, /short_factor.1 is 0; expected more than 0/)
  refusesFactors({ short_factor: 2, long_factor: [1, 1, 1] }, /short_factor is 2/)
})

t.test("what a family cannot be is named", async t => {
  const gemma = { head_dim: 8, num_key_value_heads: 2 }
  refuses(
    t,
    { model_type: "gemma2", ...gemma, hidden_activation: "relu" },
    "ERR_UNSUPPORTED",
    /hidden_activation is "relu"/,
  )
  refuses(t, { model_type: "gemma2", ...gemma, query_pre_attn_scalar: 0 }, "ERR_FORMAT", /query_pre_attn_scalar is 0/)
  refuses(
    t,
    { model_type: "gemma2", ...gemma, final_logit_softcapping: -30 },
    "ERR_FORMAT",
    /final_logit_softcapping is -30/,
  )
  refuses(
    t,
    { model_type: "gemma3_text", ...gemma, use_bidirectional_attention: true },
    "ERR_FORMAT",
    /use_bidirectional_attention is true; expected false: only causal/,
  )
  refuses(
    t,
    { model_type: "gemma3_text", ...gemma, rope_parameters: { full_attention: {} } },
    "ERR_FORMAT",
    /rope_parameters.sliding_attention is undefined, expected an object/,
  )
  refuses(t, { model_type: "gemma3" }, "ERR_FORMAT", /text_config is undefined, expected an object/)
  refuses(t, { model_type: "phi3", rope_scaling: { type: "su" } }, "ERR_FORMAT", /short_factor is missing/)
  refuses(
    t,
    { model_type: "phi3", rope_scaling: { type: "dynamic", factor: 2 } },
    "ERR_UNSUPPORTED",
    /rope type is "dynamic"/,
  )
  refuses(t, { model_type: "gpt_neox", rotary_pct: 1, hidden_act: "relu" }, "ERR_UNSUPPORTED", /hidden_act is "relu"/)
  refuses(t, { model_type: "gpt_neox", rotary_pct: 2 }, "ERR_FORMAT", /rotary_pct is 2; expected at most 1/)
  refuses(t, { model_type: "gpt_neox", rotary_pct: 0.01 }, "ERR_FORMAT", /rotates 0 elements/)
  refuses(t, { model_type: "gpt2" }, "ERR_FORMAT", /n_embd is missing; expected a value of type number/)
  const gpt2 = { model_type: "gpt2", n_embd: 24, n_layer: 2, n_head: 4 }
  refuses(t, { ...gpt2, n_head: 5 }, "ERR_FORMAT", /not a multiple of num_attention_heads 5/)
  refuses(t, { ...gpt2, activation_function: "relu" }, "ERR_UNSUPPORTED", /activation_function is "relu"/)
  refuses(t, { ...gpt2, add_cross_attention: true }, "ERR_UNSUPPORTED", /add_cross_attention is true/)
})

t.test("Gemma multiplies embeddings by a constant of its own type", async t => {
  const scale = (hidden_size: number, torch_dtype: string) => {
    const { sections } = describeWith({ model_type: "gemma2", hidden_size, head_dim: 8, torch_dtype })
    return sections[0]!.ops[0]!.p[0]
  }
  t.equal(scale(3584, "bfloat16"), 59.75)
  t.equal(scale(2304, "bfloat16"), 48)
  t.equal(scale(3584, "float16"), 59.875)
  t.equal(scale(3584, "float32"), Math.fround(Math.sqrt(3584)))
})
