// A model whose weights are written, not trained: two layers of attention that find a token again and say what followed it (a
// previous-token head and an induction head: Olsson et al., "In-context Learning and Induction Heads", 2022). It retrieves over its
// whole context exactly, so that what a cache of quantized keys and values loses is the cache's doing. As in real models its keys
// have channels far larger than all others, which a scale for the whole key follows at the expense of what is looked for.
import { mkdir } from "node:fs/promises"
import { join } from "node:path"
import { writeNewFile } from "../containers/disk.ts"
import { SafetensorsWriter } from "../containers/safetensors-writer.ts"

export interface InductionModelOptions {
  /** Tokens, all alike. Default 1024. */
  vocabulary?: number
  /** Default 32768. */
  context?: number
  /** Times the values of the other channels that the outliers of the keys have. Default 48. */
  outliers?: number
  seed?: number
}

// Of both heads. Channels i and i + half turn together, by theta^(-i / half) a position.
const headDim = 128
const half = headDim / 2
const theta = 1e15
/** Pairs that tell positions apart; the slow ones from `half / 2` on turn by less than 0.001 over 32768 positions. */
const positionPairs = 10
/** Outliers, one in each group of 32 channels that holds content: their pairs hold nothing else. */
const outlierChannels = [41, 114]
const contentChannels = Array.from({ length: headDim }, (_, channel) => channel).filter(
  channel => channel % half >= half / 2 && outlierChannels.every(outlier => outlier % half !== channel % half),
)
/** Values of a token's code; the residual stream holds three codes (the token, the one before it, the answer) and a constant. */
const code = contentChannels.length
const hidden = 192
const constant = 3 * code
/** Logit of the attention for the token that is looked for: exp of it stands against all other positions together. */
const contentLogit = 40
const positionQuery = 12
const positionKey = 32

/** Writes a Llama checkpoint into `directory`, which must not exist. */
export async function writeInductionModel(directory: string, options: InductionModelOptions = {}): Promise<void> {
  const { vocabulary = 1024, context = 32768, outliers = 48, seed = 1 } = options
  await mkdir(directory)
  const writer = new SafetensorsWriter(directory, {})
  try {
    for (const [name, shape, values] of weights(vocabulary, outliers, seed))
      await writer.add({ name, dtype: "F32", shape, data: new Uint8Array(values.buffer) })
    await writer.finish()
  } catch (error) {
    await writer.discard()
    throw error
  }
  const config = {
    ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", torch_dtype: "float32" },
    ...{ vocab_size: vocabulary, hidden_size: hidden, intermediate_size: 16, num_hidden_layers: 2 },
    ...{ num_attention_heads: 1, num_key_value_heads: 1, head_dim: headDim, hidden_act: "silu" },
    ...{ max_position_embeddings: context, rms_norm_eps: 1e-6, rope_theta: theta, tie_word_embeddings: false },
  }
  const words = Object.fromEntries(Array.from({ length: vocabulary }, (_, id) => [`t${id}`, id]))
  const tokenizer = {
    ...{ version: "1.0", added_tokens: [], normalizer: null, post_processor: null, decoder: null },
    pre_tokenizer: { type: "Whitespace" },
    model: { type: "WordLevel", vocab: words, unk_token: "t0" },
  }
  for (const [name, value] of Object.entries({ "config.json": config, "tokenizer.json": tokenizer }))
    await writeNewFile(join(directory, name), JSON.stringify(value))
}

type Weight = [name: string, shape: number[], values: Float32Array]

/** Entries [row, column, value] of an otherwise empty matrix. */
function matrix(name: string, n: number, k: number, entries: readonly (readonly number[])[]): Weight {
  const values = new Float32Array(n * k)
  for (const [row, column, value] of entries) values[row! * k + column!] = value!
  return [name, [n, k], values]
}

function weights(vocabulary: number, outliers: number, seed: number): Weight[] {
  const codes = tokenCodes(vocabulary, seed)
  const entries = (offset: number, scale: number) =>
    Array.from(codes, (value, i) => [Math.floor(i / code), offset + (i % code), scale * value])
  const each = (length: number, entry: (i: number) => number[]) => Array.from({ length }, (_, i) => entry(i))
  const ones = (name: string): Weight => [name, [hidden], new Float32Array(hidden).fill(1)]
  // The constant is as long as a code, so the norms divide by the root of 2, 3 and 4 codes in a stream of `hidden` values.
  const constantSize = Math.sqrt(code)
  const afterNorm = (codesInStream: number) => Math.sqrt(hidden / ((codesInStream + 1) * code))
  const embedding = matrix("model.embed_tokens.weight", vocabulary, hidden, entries(0, 1))
  for (let token = 0; token < vocabulary; token++) embedding[2][token * hidden + constant] = constantSize

  const list: Weight[] = [embedding]
  for (const layer of [0, 1]) {
    const name = (tensor: string) => `model.layers.${layer}.${tensor}.weight`
    const size = afterNorm(layer + 1)
    const fixed = constantSize * size
    // R(f) turns a pair by its angle of one position: a query turned back by it meets the key of the position before.
    const turns = each(positionPairs, i => [theta ** (-i / half)])
    const query =
      layer === 0
        ? turns.flatMap(([angle], i) => [
            [i, constant, (positionQuery * Math.cos(angle!)) / fixed],
            [i + half, constant, (-positionQuery * Math.sin(angle!)) / fixed],
          ])
        : contentChannels.map((channel, i) => [channel, i, (contentLogit * Math.sqrt(headDim)) / code / size])
    const key =
      layer === 0
        ? each(positionPairs, i => [i, constant, positionKey / fixed])
        : [
            ...contentChannels.map((channel, i) => [channel, code + i, 1 / size]),
            ...outlierChannels.map((channel, i) => [channel, constant, (i % 2 === 0 ? outliers : -outliers) / fixed]),
          ]
    list.push(
      ones(name("input_layernorm")),
      matrix(name("self_attn.q_proj"), headDim, hidden, query),
      matrix(name("self_attn.k_proj"), headDim, hidden, key),
      // The token's own code goes to where the stream has the one before (layer 0), or the answer (layer 1).
      matrix(
        name("self_attn.v_proj"),
        headDim,
        hidden,
        each(code, i => [i, i, 1 / size]),
      ),
      matrix(
        name("self_attn.o_proj"),
        hidden,
        headDim,
        each(code, i => [(layer + 1) * code + i, i, 1]),
      ),
      ones(name("post_attention_layernorm")),
      matrix(name("mlp.gate_proj"), 16, hidden, []),
      matrix(name("mlp.up_proj"), 16, hidden, []),
      matrix(name("mlp.down_proj"), hidden, 16, []),
    )
  }
  list.push(ones("model.norm.weight"), matrix("lm_head.weight", vocabulary, hidden, entries(2 * code, 0.5)))
  return list
}

/** [vocabulary, code] of normal numbers, each row with the length of the root of `code`. */
function tokenCodes(vocabulary: number, seed: number): Float64Array {
  const next = uniform(seed)
  const codes = Float64Array.from(
    { length: vocabulary * code },
    // Box and Muller.
    () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
  )
  for (let token = 0; token < vocabulary; token++) {
    const row = codes.subarray(token * code, (token + 1) * code)
    const length = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0))
    for (let i = 0; i < code; i++) row[i]! *= Math.sqrt(code) / length
  }
  return codes
}

/** Uniform in [0, 1), a function of the seed (mulberry32). */
export function uniform(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
