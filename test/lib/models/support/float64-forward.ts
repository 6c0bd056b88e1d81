// The forward pass of llama-like models in float64, straight from the definitions, with nothing shared with lib/.

export interface Weights {
  [name: string]: { shape: number[]; values: Float64Array }
}

type Config = Record<string, unknown>
export type Rows = Float64Array[]

/** Logits [tokens][vocabulary]. */
export function forward64(config: Config, weights: Weights, ids: readonly number[]): Rows {
  const number = (key: string, otherwise: number) => (config[key] as number | null | undefined) ?? otherwise
  const heads = number("num_attention_heads", 0)
  const kvHeads = number("num_key_value_heads", heads)
  const headDim = number("head_dim", number("hidden_size", 0) / heads)
  const eps = number("rms_norm_eps", 1e-6)
  const get = (name: string) => weights[name]!.values
  const project = (rows: Rows, module: string) =>
    linear(rows, weights[`${module}.weight`]!, weights[`${module}.bias`]?.values)
  const { inverse, factor } = frequencies(config, headDim)
  const hidden = number("hidden_size", 0)
  const embedding = get("model.embed_tokens.weight")
  let x: Rows = ids.map(id => embedding.slice(id * hidden, (id + 1) * hidden))

  for (let layer = 0; layer < number("num_hidden_layers", 0); layer++) {
    const prefix = `model.layers.${layer}.`
    const input = x.map(row => rmsNorm(row, get(`${prefix}input_layernorm.weight`), eps))
    const [q, k, v] = ["q", "k", "v"].map(name => project(input, `${prefix}self_attn.${name}_proj`)) as [
      Rows,
      Rows,
      Rows,
    ]
    for (const [rows, name, count] of [
      [q, "q", heads],
      [k, "k", kvHeads],
    ] as const)
      rows.forEach((row, position) => {
        for (let h = 0; h < count; h++) {
          const head = row.subarray(h * headDim, (h + 1) * headDim)
          const norm = weights[`${prefix}self_attn.${name}_norm.weight`]
          if (norm) head.set(rmsNorm(head, norm.values, eps))
          rotate(head, inverse, factor, position)
        }
      })
    const mixed = attention(q, k, v, heads, kvHeads, headDim, windowOf(config, layer))
    x = add(x, project(mixed, `${prefix}self_attn.o_proj`))
    const mlp = x.map(row => rmsNorm(row, get(`${prefix}post_attention_layernorm.weight`), eps))
    const up = project(mlp, `${prefix}mlp.up_proj`)
    const gated = project(mlp, `${prefix}mlp.gate_proj`).map((row, i) =>
      row.map((value, j) => activate(value, config.hidden_act as string) * up[i]![j]!),
    )
    x = add(x, project(gated, `${prefix}mlp.down_proj`))
  }
  const last = x.map(row => rmsNorm(row, get("model.norm.weight"), eps))
  return project(last, config.tie_word_embeddings ? "model.embed_tokens" : "lm_head")
}

export function linear(rows: Rows, { shape, values }: Weights[string], bias: Float64Array | undefined): Rows {
  const [n, k] = shape as [number, number]
  return rows.map(row =>
    Float64Array.from({ length: n }, (_, i) => {
      let sum = bias?.[i] ?? 0
      for (let j = 0; j < k; j++) sum += values[i * k + j]! * row[j]!
      return sum
    }),
  )
}

export function rmsNorm(row: Float64Array, weight: Float64Array, eps: number, offset = 0): Float64Array {
  const mean = row.reduce((sum, value) => sum + value * value, 0) / row.length
  return row.map((value, i) => (value / Math.sqrt(mean + eps)) * (offset + weight[i]!))
}

function activate(x: number, name: string | undefined): number {
  if (name?.startsWith("gelu")) return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
  return x / (1 + Math.exp(-x))
}

export function rotate(head: Float64Array, inverse: Float64Array, factor: number, position: number): void {
  const half = inverse.length
  for (let i = 0; i < half; i++) {
    const cos = Math.cos(position * inverse[i]!) * factor
    const sin = Math.sin(position * inverse[i]!) * factor
    const [a, b] = [head[i]!, head[i + half]!]
    head[i] = a * cos - b * sin
    head[i + half] = b * cos + a * sin
  }
}

export function attention(
  q: Rows,
  k: Rows,
  v: Rows,
  heads: number,
  kvHeads: number,
  headDim: number,
  window: number,
  scale = headDim ** -0.5,
  softcap = 0,
): Rows {
  return q.map((row, i) => {
    const out = new Float64Array(heads * headDim)
    for (let h = 0; h < heads; h++) {
      const kv = Math.floor(h / (heads / kvHeads)) * headDim
      const scores: [number, number][] = []
      for (let j = 0; j <= i; j++) {
        if (window > 0 && j <= i - window) continue
        let dot = 0
        for (let d = 0; d < headDim; d++) dot += row[h * headDim + d]! * k[j]![kv + d]!
        scores.push([j, softcap > 0 ? softcap * Math.tanh((dot * scale) / softcap) : dot * scale])
      }
      const top = Math.max(...scores.map(([, score]) => score))
      const total = scores.reduce((sum, [, score]) => sum + Math.exp(score - top), 0)
      for (const [j, score] of scores)
        for (let d = 0; d < headDim; d++) out[h * headDim + d]! += (Math.exp(score - top) / total) * v[j]![kv + d]!
    }
    return out
  })
}

export const add = (a: Rows, b: Rows): Rows => a.map((row, i) => row.map((value, j) => value + b[i]![j]!))

/** 0: none. */
function windowOf(config: Config, layer: number): number {
  const window = (config.sliding_window as number | null | undefined) ?? 0
  const types = config.layer_types as string[] | undefined
  if (config.model_type === "mistral") return window
  if (config.model_type === "llama" || !config.use_sliding_window) return 0
  const slides = types ? types[layer] === "sliding_attention" : layer >= (config.max_window_layers as number)
  return slides ? window : 0
}

/** formats.md-style tables, written out again. */
function frequencies(config: Config, headDim: number): { inverse: Float64Array; factor: number } {
  const scaling = { ...(config.rope_scaling as Config | null), ...(config.rope_parameters as Config | null) }
  const value = (key: string, otherwise: number) => (scaling[key] as number | undefined) ?? otherwise
  const theta = value("rope_theta", (config.rope_theta as number | undefined) ?? 10000)
  const partial = value("partial_rotary_factor", (config.partial_rotary_factor as number | undefined) ?? 1)
  const dim = headDim * partial
  const base = Float64Array.from({ length: dim / 2 }, (_, i) => 1 / theta ** ((2 * i) / dim))
  const type = (scaling.rope_type ?? scaling.type ?? "default") as string
  const factor = value("factor", 1)
  const original = value("original_max_position_embeddings", config.max_position_embeddings as number)
  if (type === "linear") return { inverse: base.map(x => x / factor), factor: 1 }
  if (type === "llama3") {
    const [low, high] = [value("low_freq_factor", 1), value("high_freq_factor", 4)]
    const inverse = base.map(x => {
      const wavelength = (2 * Math.PI) / x
      if (wavelength < original / high) return x
      if (wavelength > original / low) return x / factor
      const s = (original / wavelength - low) / (high - low)
      return (1 - s) * (x / factor) + s * x
    })
    return { inverse, factor: 1 }
  }
  if (type === "yarn") {
    const at = (beta: number) => (dim * Math.log(original / (2 * Math.PI * beta))) / (2 * Math.log(theta))
    const lo = Math.max(Math.floor(at(32)), 0)
    let hi = Math.min(Math.ceil(at(1)), dim - 1)
    if (lo === hi) hi += 0.001
    const inverse = base.map((x, i) => {
      const r = Math.min(1, Math.max(0, (i - lo) / (hi - lo)))
      return x * (1 - r) + (x / factor) * r
    })
    return { inverse, factor: 0.1 * Math.log(factor) + 1 }
  }
  return { inverse: base, factor: 1 }
}
