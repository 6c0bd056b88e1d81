// Gemma, Phi-3, GPT-NeoX and GPT-2: random weights under the names of their checkpoints, and their forward passes in float64, from the
// definitions of transformers' modeling files, with nothing shared with lib/.
import { add, attention, linear, type Rows, rmsNorm, rotate, type Weights } from "./float64-forward.ts"
import { random } from "./tiny-checkpoint.ts"

// biome-ignore lint/suspicious/noExplicitAny: each family has its own keys
type Config = Record<string, any>
type Shapes = [name: string, shape: number[], scale: number, offset?: number][]

const gemmaShapes = (c: Config, root: string): Shapes => {
  const [h, m, q, kv] = [
    c.hidden_size,
    c.intermediate_size,
    c.num_attention_heads * c.head_dim,
    c.num_key_value_heads * c.head_dim,
  ]
  const norm = (name: string, size = h): Shapes[number] => [`${name}.weight`, [size], 0.5]
  return [
    [`${root}embed_tokens.weight`, [c.vocab_size, h], 1],
    norm(`${root}norm`),
    ...Array.from({ length: c.num_hidden_layers }, (_, layer): Shapes => {
      const p = `${root}layers.${layer}.`
      return [
        ...[
          "input_layernorm",
          "post_attention_layernorm",
          "pre_feedforward_layernorm",
          "post_feedforward_layernorm",
        ].map(n => norm(p + n)),
        ...(c.model_type === "gemma2"
          ? []
          : [norm(`${p}self_attn.q_norm`, c.head_dim), norm(`${p}self_attn.k_norm`, c.head_dim)]),
        ...matrix(`${p}self_attn.q_proj`, q, h),
        ...matrix(`${p}self_attn.k_proj`, kv, h),
        ...matrix(`${p}self_attn.v_proj`, kv, h),
        ...matrix(`${p}self_attn.o_proj`, h, q),
        ...matrix(`${p}mlp.gate_proj`, m, h),
        ...matrix(`${p}mlp.up_proj`, m, h),
        ...matrix(`${p}mlp.down_proj`, h, m),
      ]
    }).flat(),
  ]
}

function matrix(module: string, n: number, k: number, bias = false): Shapes {
  return [[`${module}.weight`, [n, k], 2 / Math.sqrt(k)], ...(bias ? ([[`${module}.bias`, [n], 0.5]] as Shapes) : [])]
}

const phiShapes = (c: Config): Shapes => {
  const headDim = c.hidden_size / c.num_attention_heads
  const [h, m, q, kv] = [c.hidden_size, c.intermediate_size, c.hidden_size, c.num_key_value_heads * headDim]
  const norm = (name: string): Shapes[number] => [`${name}.weight`, [h], 0.5, 1]
  return [
    ["model.embed_tokens.weight", [c.vocab_size, h], 1],
    norm("model.norm"),
    ...(c.tie_word_embeddings ? [] : matrix("lm_head", c.vocab_size, h)),
    ...Array.from({ length: c.num_hidden_layers }, (_, layer): Shapes => {
      const p = `model.layers.${layer}.`
      return [
        norm(`${p}input_layernorm`),
        norm(`${p}post_attention_layernorm`),
        ...matrix(`${p}self_attn.qkv_proj`, q + 2 * kv, h),
        ...matrix(`${p}self_attn.o_proj`, h, q),
        ...matrix(`${p}mlp.gate_up_proj`, 2 * m, h),
        ...matrix(`${p}mlp.down_proj`, h, m),
      ]
    }).flat(),
  ]
}

const layerNorm = (module: string, size: number): Shapes => [
  [`${module}.weight`, [size], 0.5, 1],
  [`${module}.bias`, [size], 0.5],
]

const neoxShapes = (c: Config): Shapes => {
  const [h, m] = [c.hidden_size, c.intermediate_size]
  const bias = c.attention_bias ?? true
  return [
    ["gpt_neox.embed_in.weight", [c.vocab_size, h], 1],
    ...layerNorm("gpt_neox.final_layer_norm", h),
    ...(c.tie_word_embeddings ? [] : matrix("embed_out", c.vocab_size, h)),
    ...Array.from({ length: c.num_hidden_layers }, (_, layer): Shapes => {
      const p = `gpt_neox.layers.${layer}.`
      return [
        ...layerNorm(`${p}input_layernorm`, h),
        ...layerNorm(`${p}post_attention_layernorm`, h),
        ...matrix(`${p}attention.query_key_value`, 3 * h, h, bias),
        ...matrix(`${p}attention.dense`, h, h, bias),
        ...matrix(`${p}mlp.dense_h_to_4h`, m, h, true),
        ...matrix(`${p}mlp.dense_4h_to_h`, h, m, true),
      ]
    }).flat(),
  ]
}

/** Weights of blocks are [in, out]. */
const gpt2Shapes = (c: Config, root: string): Shapes => {
  const h = c.n_embd
  const m = c.n_inner ?? 4 * h
  const conv = (module: string, n: number, k: number): Shapes => [
    [`${module}.weight`, [k, n], 2 / Math.sqrt(k)],
    [`${module}.bias`, [n], 0.5],
  ]
  return [
    [`${root}wte.weight`, [c.vocab_size, h], 1],
    [`${root}wpe.weight`, [c.n_positions, h], 1],
    ...layerNorm(`${root}ln_f`, h),
    ...Array.from({ length: c.n_layer }, (_, layer): Shapes => {
      const p = `${root}h.${layer}.`
      return [
        ...layerNorm(`${p}ln_1`, h),
        ...layerNorm(`${p}ln_2`, h),
        ...conv(`${p}attn.c_attn`, 3 * h, h),
        ...conv(`${p}attn.c_proj`, h, h),
        ...conv(`${p}mlp.c_fc`, m, h),
        ...conv(`${p}mlp.c_proj`, h, m),
      ]
    }).flat(),
  ]
}

/** What the names of a family's tensors begin with. */
export const rootOf = (c: Config): string =>
  c.model_type === "gemma3"
    ? c.newNames
      ? "model.language_model."
      : "language_model.model."
    : c.model_type === "gpt2"
      ? c.bareNames
        ? ""
        : "transformer."
      : "model."

const textOf = (c: Config): Config => (c.model_type === "gemma3" ? { ...c.text_config, model_type: "gemma3" } : c)

/** Random weights, exact in the type that they will be stored in. */
export function familyWeights(config: Config, seed: number, dtype: "F32" | "BF16" = "F32"): Weights {
  const c = textOf(config)
  const root = rootOf(config)
  const shapes =
    c.model_type === "phi3"
      ? phiShapes(c)
      : c.model_type === "gpt_neox"
        ? neoxShapes(c)
        : c.model_type === "gpt2"
          ? gpt2Shapes(c, root)
          : gemmaShapes(c, root)
  const next = random(seed)
  const store = (value: number) => {
    const bits = new Uint32Array(Float32Array.of(value).buffer)
    if (dtype === "BF16") bits[0]! &= 0xffff0000
    return new Float32Array(bits.buffer)[0]!
  }
  return Object.fromEntries(
    shapes.map(([name, shape, scale, offset = 0]) => {
      const count = shape.reduce((a, b) => a * b, 1)
      return [
        name,
        { shape, values: Float64Array.from({ length: count }, () => store(offset + scale * (2 * next() - 1))) },
      ]
    }),
  )
}

/** Logits [tokens][vocabulary]. */
export function familyForward(config: Config, weights: Weights, ids: readonly number[]): Rows {
  const c = textOf(config)
  if (c.model_type === "phi3") return phi3(c, weights, ids)
  if (c.model_type === "gpt_neox") return gptNeox(c, weights, ids)
  if (c.model_type === "gpt2") return gpt2(c, weights, ids, rootOf(config))
  return gemma(c, weights, ids, rootOf(config))
}

const rowsOf = (ids: readonly number[], { shape, values }: Weights[string], scale = 1): Rows =>
  ids.map(id => values.slice(id * shape[1]!, (id + 1) * shape[1]!).map(value => value * scale))
const project = (weights: Weights, rows: Rows, module: string): Rows =>
  linear(rows, weights[`${module}.weight`]!, weights[`${module}.bias`]?.values)
const part = (rows: Rows, begin: number, end: number): Rows => rows.map(row => row.slice(begin, end))
const inverses = (theta: number, dim: number, factors?: number[]): Float64Array =>
  Float64Array.from({ length: dim / 2 }, (_, i) => 1 / ((factors?.[i] ?? 1) * theta ** ((2 * i) / dim)))
const turn = (rows: Rows, headDim: number, inverse: Float64Array, factor = 1): void =>
  rows.forEach((row, position) => {
    for (let h = 0; h < row.length; h += headDim) rotate(row.subarray(h, h + headDim), inverse, factor, position)
  })
const silu = (x: number) => x / (1 + Math.exp(-x))
const tanhGelu = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))

/** x (1 + erf(x / sqrt 2)) / 2, erf by its Taylor series or its continued fraction. */
export function exactGelu(x: number): number {
  const z = Math.abs(x) / Math.SQRT2
  let erf: number
  if (z < 3) {
    let term = z
    erf = z
    for (let n = 1; n < 80; n++) {
      term *= (-z * z) / n
      erf += term / (2 * n + 1)
    }
    erf *= 2 / Math.sqrt(Math.PI)
  } else {
    let fraction = z
    for (let n = 60; n > 0; n--) fraction = z + n / 2 / fraction
    erf = 1 - Math.exp(-z * z) / (Math.sqrt(Math.PI) * fraction)
  }
  return 0.5 * x * (1 + Math.sign(x) * erf)
}

function activation(name: string): (x: number) => number {
  return name === "silu" ? silu : name === "gelu" ? exactGelu : tanhGelu
}

/** The constant that Gemma multiplies embeddings with, in the type of the model. */
function normalizer(hidden: number, dtype: string | undefined): number {
  const [bits] = new Uint32Array(Float32Array.of(Math.sqrt(hidden)).buffer)
  if (dtype !== "bfloat16") return Math.fround(Math.sqrt(hidden))
  const low = bits! & 0xffff
  const up = low > 0x8000 || (low === 0x8000 && (bits! & 0x10000) !== 0)
  return new Float32Array(Uint32Array.of((bits! & 0xffff0000) + (up ? 0x10000 : 0)).buffer)[0]!
}

function gemma(c: Config, weights: Weights, ids: readonly number[], root: string): Rows {
  const three = c.model_type !== "gemma2"
  const eps = c.rms_norm_eps ?? 1e-6
  const norm = (rows: Rows, name: string) => rows.map(row => rmsNorm(row, weights[`${name}.weight`]!.values, eps, 1))
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim } = c
  let x = rowsOf(ids, weights[`${root}embed_tokens.weight`]!, normalizer(c.hidden_size, c.torch_dtype))
  const cap = (key: string, otherwise: number) => (c[key] === undefined ? otherwise : (c[key] ?? 0))
  for (let layer = 0; layer < c.num_hidden_layers; layer++) {
    const p = `${root}layers.${layer}.`
    const sliding = c.layer_types
      ? c.layer_types[layer] === "sliding_attention"
      : three
        ? (layer + 1) % (c.sliding_window_pattern ?? 6) !== 0
        : layer % 2 === 0
    const input = norm(x, `${p}input_layernorm`)
    let [q, k] = [project(weights, input, `${p}self_attn.q_proj`), project(weights, input, `${p}self_attn.k_proj`)]
    const v = project(weights, input, `${p}self_attn.v_proj`)
    if (three) {
      const heads = (rows: Rows, name: string) =>
        rows.map(row =>
          Float64Array.from(
            Array.from({ length: row.length / headDim }, (_, h) => [
              ...rmsNorm(row.slice(h * headDim, (h + 1) * headDim), weights[name]!.values, eps, 1),
            ]).flat(),
          ),
        )
      q = heads(q, `${p}self_attn.q_norm.weight`)
      k = heads(k, `${p}self_attn.k_norm.weight`)
    }
    const own = c.rope_parameters?.[sliding ? "sliding_attention" : "full_attention"]
    const theta =
      own?.rope_theta ??
      (three ? (sliding ? (c.rope_local_base_freq ?? 10000) : (c.rope_theta ?? 1e6)) : (c.rope_theta ?? 10000))
    const factor = own ? (own.factor ?? 1) : three && !sliding ? (c.rope_scaling?.factor ?? 1) : 1
    const inverse = inverses(theta, headDim).map(value => value / factor)
    turn(q, headDim, inverse)
    turn(k, headDim, inverse)
    const softcap = cap("attn_logit_softcapping", three ? 0 : 50)
    const mixed = attention(
      q,
      k,
      v,
      heads,
      kvHeads,
      headDim,
      sliding ? c.sliding_window : 0,
      (c.query_pre_attn_scalar ?? 256) ** -0.5,
      softcap,
    )
    x = add(x, norm(project(weights, mixed, `${p}self_attn.o_proj`), `${p}post_attention_layernorm`))
    const mlp = norm(x, `${p}pre_feedforward_layernorm`)
    const up = project(weights, mlp, `${p}mlp.up_proj`)
    const act = activation(c.hidden_activation ?? "tanh")
    const gated = project(weights, mlp, `${p}mlp.gate_proj`).map((row, i) =>
      row.map((value, j) => act(value) * up[i]![j]!),
    )
    x = add(x, norm(project(weights, gated, `${p}mlp.down_proj`), `${p}post_feedforward_layernorm`))
  }
  const logits = project(weights, norm(x, `${root}norm`), `${root}embed_tokens`)
  const final = cap("final_logit_softcapping", three ? 0 : 30)
  return final ? logits.map(row => row.map(value => final * Math.tanh(value / final))) : logits
}

function phi3(c: Config, weights: Weights, ids: readonly number[]): Rows {
  const eps = c.rms_norm_eps ?? 1e-5
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, intermediate_size: m } = c
  const headDim = c.hidden_size / heads
  const [qw, kw] = [heads * headDim, kvHeads * headDim]
  const norm = (rows: Rows, name: string) => rows.map(row => rmsNorm(row, weights[`${name}.weight`]!.values, eps))
  const dim = headDim * (c.partial_rotary_factor ?? 1)
  const scaling = c.rope_scaling
  const original = c.original_max_position_embeddings
  const factors = scaling && (ids.length > original ? scaling.long_factor : scaling.short_factor)
  const ratio = c.max_position_embeddings / original
  const factor = scaling
    ? (scaling.attention_factor ?? (ratio <= 1 ? 1 : Math.sqrt(1 + Math.log(ratio) / Math.log(original))))
    : 1
  const inverse = inverses(c.rope_theta ?? 10000, dim, factors)
  let x = rowsOf(ids, weights["model.embed_tokens.weight"]!)
  for (let layer = 0; layer < c.num_hidden_layers; layer++) {
    const p = `model.layers.${layer}.`
    const qkv = project(weights, norm(x, `${p}input_layernorm`), `${p}self_attn.qkv_proj`)
    const [q, k, v] = [part(qkv, 0, qw), part(qkv, qw, qw + kw), part(qkv, qw + kw, qw + 2 * kw)]
    turn(q, headDim, inverse, factor)
    turn(k, headDim, inverse, factor)
    x = add(
      x,
      project(weights, attention(q, k, v, heads, kvHeads, headDim, c.sliding_window ?? 0), `${p}self_attn.o_proj`),
    )
    const both = project(weights, norm(x, `${p}post_attention_layernorm`), `${p}mlp.gate_up_proj`)
    const gated = both.map(row => Float64Array.from({ length: m }, (_, j) => silu(row[j]!) * row[m + j]!))
    x = add(x, project(weights, gated, `${p}mlp.down_proj`))
  }
  return project(weights, norm(x, "model.norm"), c.tie_word_embeddings ? "model.embed_tokens" : "lm_head")
}

function layerNormed(weights: Weights, rows: Rows, module: string, eps: number): Rows {
  const [weight, bias] = [weights[`${module}.weight`]!.values, weights[`${module}.bias`]!.values]
  return rows.map(row => {
    const mean = row.reduce((a, b) => a + b, 0) / row.length
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / row.length
    return row.map((value, i) => ((value - mean) / Math.sqrt(variance + eps)) * weight[i]! + bias[i]!)
  })
}

function gptNeox(c: Config, weights: Weights, ids: readonly number[]): Rows {
  const eps = c.layer_norm_eps ?? 1e-5
  const heads = c.num_attention_heads
  const headDim = c.hidden_size / heads
  const inverse = inverses(c.rotary_emb_base ?? 10000, Math.floor(headDim * (c.rotary_pct ?? 0.25)))
  const act = activation(c.hidden_act ?? "gelu")
  let x = rowsOf(ids, weights["gpt_neox.embed_in.weight"]!)
  for (let layer = 0; layer < c.num_hidden_layers; layer++) {
    const p = `gpt_neox.layers.${layer}.`
    const qkv = project(weights, layerNormed(weights, x, `${p}input_layernorm`, eps), `${p}attention.query_key_value`)
    // [head][q, k, v][headDim]
    const [q, k, v] = [0, 1, 2].map(which =>
      qkv.map(row =>
        Float64Array.from(
          { length: c.hidden_size },
          (_, i) => row[(Math.floor(i / headDim) * 3 + which) * headDim + (i % headDim)]!,
        ),
      ),
    ) as [Rows, Rows, Rows]
    turn(q, headDim, inverse)
    turn(k, headDim, inverse)
    const attended = project(weights, attention(q, k, v, heads, heads, headDim, 0), `${p}attention.dense`)
    const middle = add(x, attended)
    const parallel = c.use_parallel_residual ?? true
    const mlp = layerNormed(weights, parallel ? x : middle, `${p}post_attention_layernorm`, eps)
    const up = project(weights, mlp, `${p}mlp.dense_h_to_4h`).map(row => row.map(act))
    x = add(middle, project(weights, up, `${p}mlp.dense_4h_to_h`))
  }
  return project(
    weights,
    layerNormed(weights, x, "gpt_neox.final_layer_norm", eps),
    c.tie_word_embeddings ? "gpt_neox.embed_in" : "embed_out",
  )
}

function gpt2(c: Config, weights: Weights, ids: readonly number[], root: string): Rows {
  const eps = c.layer_norm_epsilon ?? 1e-5
  const [h, heads] = [c.n_embd, c.n_head]
  const headDim = h / heads
  const act = activation(c.activation_function ?? "gelu_new")
  const conv = (rows: Rows, module: string): Rows => {
    const [k, n] = weights[`${module}.weight`]!.shape as [number, number]
    const { values } = weights[`${module}.weight`]!
    const bias = weights[`${module}.bias`]!.values
    return rows.map(row =>
      Float64Array.from({ length: n }, (_, i) =>
        row.reduce((sum, value, j) => sum + value * values[j * n + i]!, bias[i]!),
      ).subarray(0, k > 0 ? n : 0),
    )
  }
  const positions = rowsOf(
    ids.map((_, i) => i),
    weights[`${root}wpe.weight`]!,
  )
  let x = add(rowsOf(ids, weights[`${root}wte.weight`]!), positions)
  for (let layer = 0; layer < c.n_layer; layer++) {
    const p = `${root}h.${layer}.`
    const qkv = conv(layerNormed(weights, x, `${p}ln_1`, eps), `${p}attn.c_attn`)
    const [q, k, v] = [part(qkv, 0, h), part(qkv, h, 2 * h), part(qkv, 2 * h, 3 * h)]
    const scale =
      (c.scale_attn_weights === false ? 1 : headDim ** -0.5) / (c.scale_attn_by_inverse_layer_idx ? layer + 1 : 1)
    x = add(x, conv(attention(q, k, v, heads, heads, headDim, 0, scale), `${p}attn.c_proj`))
    const up = conv(layerNormed(weights, x, `${p}ln_2`, eps), `${p}mlp.c_fc`).map(row => row.map(act))
    x = add(x, conv(up, `${p}mlp.c_proj`))
  }
  return project(weights, layerNormed(weights, x, `${root}ln_f`, eps), `${root}wte`)
}

const tiny = {
  vocab_size: 37,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
}
const gemmaTiny = { ...tiny, head_dim: 8, sliding_window: 5, query_pre_attn_scalar: 6 }
const neoxTiny = { ...tiny, model_type: "gpt_neox", num_key_value_heads: undefined, hidden_size: 32 }
const gpt2Tiny = { model_type: "gpt2", vocab_size: 37, n_embd: 24, n_layer: 3, n_head: 4, n_positions: 64 }
const longrope = {
  type: "longrope",
  short_factor: [1, 1.1, 1.2],
  long_factor: [1, 2.5, 7],
}

/** Small models of every family and of what varies within it. */
export const families: Record<string, Config> = {
  "phi3, sliding window": { ...tiny, model_type: "phi3", sliding_window: 7 },
  "phi3, longrope beyond its first context": {
    ...tiny,
    model_type: "phi3",
    original_max_position_embeddings: 23,
    rope_scaling: longrope,
  },
  "phi3, longrope within its first context, tied": {
    ...tiny,
    model_type: "phi3",
    tie_word_embeddings: true,
    original_max_position_embeddings: 64,
    rope_scaling: { ...longrope, type: "su" },
  },
  "phi3, partial rotation": {
    ...tiny,
    model_type: "phi3",
    hidden_size: 32,
    partial_rotary_factor: 0.75,
    original_max_position_embeddings: 64,
    rope_scaling: longrope,
  },
  gemma2: { ...gemmaTiny, model_type: "gemma2", torch_dtype: "bfloat16" },
  "gemma2, soft caps that bite": {
    ...gemmaTiny,
    model_type: "gemma2",
    attn_logit_softcapping: 2,
    final_logit_softcapping: 3,
    layer_types: ["full_attention", "sliding_attention", "full_attention"],
  },
  "gemma2, no soft caps, wide heads": {
    ...gemmaTiny,
    model_type: "gemma2",
    head_dim: 256,
    num_hidden_layers: 2,
    query_pre_attn_scalar: 256,
    attn_logit_softcapping: null,
    final_logit_softcapping: null,
  },
  gemma3_text: {
    ...gemmaTiny,
    model_type: "gemma3_text",
    sliding_window_pattern: 3,
    rope_scaling: { rope_type: "linear", factor: 8 },
    rope_local_base_freq: 500,
  },
  "gemma3_text, keys of transformers 5": {
    ...gemmaTiny,
    model_type: "gemma3_text",
    layer_types: ["sliding_attention", "full_attention", "sliding_attention"],
    rope_parameters: {
      full_attention: { rope_type: "linear", rope_theta: 7000, factor: 2 },
      sliding_attention: { rope_type: "default", rope_theta: 300 },
    },
  },
  "gemma3, text half of a multimodal checkpoint": {
    model_type: "gemma3",
    torch_dtype: "bfloat16",
    text_config: { ...gemmaTiny, model_type: "gemma3_text", torch_dtype: "bfloat16" },
  },
  gpt_neox: { ...neoxTiny },
  "gpt_neox, one after the other, tanh GELU, tied": {
    ...neoxTiny,
    use_parallel_residual: false,
    hidden_act: "gelu_fast",
    rotary_pct: 0.5,
    tie_word_embeddings: true,
    attention_bias: false,
  },
  gpt2: gpt2Tiny,
  "gpt2, names without transformer., scales by layer": {
    ...gpt2Tiny,
    bareNames: true,
    scale_attn_by_inverse_layer_idx: true,
    n_inner: 40,
    activation_function: "gelu",
  },
}
