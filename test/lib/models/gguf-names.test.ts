import t from "tap"
import { checkpointOrder, fileOrder, GgufLayout } from "../../../lib/models/gguf-layout.ts"
import { GgufNames } from "../../../lib/models/gguf-names.ts"
import { families, familyWeights } from "./support/family-models.ts"
import { ropeVectors } from "./support/reference-models.ts"
import { randomWeights, tinyConfig } from "./support/tiny-checkpoint.ts"

/** As gguf-py's table has them. */
const blockNames: Record<string, string> = {
  input_layernorm: "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  post_attention_layernorm: "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
}

const llama = new GgufNames("llama")
const ggufName = (hf: string) => llama.gguf(hf)
const hfName = (gguf: string) => llama.hf(gguf)
const layoutOf = (architecture: string, headDim = 8) => new GgufLayout({ architecture, heads: 4, headDim })
/** The checkpoint's row of a row of q. */
const hfRow = (row: number, headDim: number) => layoutOf("llama", headDim).rows("blk.0.attn_q.weight")!.hfRow(row)
const isPermuted = (architecture: string, gguf: string) => layoutOf(architecture).rows(gguf) !== null

t.test("every tensor of every architecture has a name in both worlds", async t => {
  const variants = [
    { attention_bias: true, mlp_bias: true },
    { model_type: "mistral" },
    { model_type: "qwen2", tie_word_embeddings: true },
    { model_type: "qwen3", head_dim: 8, num_hidden_layers: 12 },
  ]
  for (const changes of variants) {
    const config = { ...tinyConfig, ...changes }
    const names = Object.keys(randomWeights(config, 1))
    const own = new GgufNames(config.model_type)
    const found = names.map(name => own.gguf(name))
    t.notOk(found.includes(null), JSON.stringify(changes))
    t.equal(new Set(found).size, names.length, "no name twice")
    t.same(
      found.map(name => own.hf(name!)),
      names,
    )
  }
})

t.test("tensors of other families, under all names that checkpoints have for them", async t => {
  for (const [variant, config] of Object.entries(families)) {
    const type = config.model_type as string
    const names = new GgufNames(type)
    const found = Object.keys(familyWeights(config, 1)).map(name => [name, names.gguf(name)] as const)
    t.notOk(found.find(([, gguf]) => gguf === null)?.[0], variant)
    t.equal(new Set(found.map(([, gguf]) => gguf)).size, found.length, "no name twice")
    for (const [, gguf] of found) t.equal(names.gguf(names.hf(gguf!)!), gguf)
  }
  const gemma = new GgufNames("gemma3_text")
  t.equal(gemma.gguf("model.layers.2.post_attention_layernorm.weight"), "blk.2.post_attention_norm.weight")
  t.equal(gemma.hf("blk.2.ffn_norm.weight"), "model.layers.2.pre_feedforward_layernorm.weight")
  t.equal(gemma.gguf("language_model.model.layers.0.mlp.up_proj.weight"), "blk.0.ffn_up.weight")
  t.equal(gemma.gguf("model.language_model.embed_tokens.weight"), "token_embd.weight")
  t.equal(gemma.hf("token_embd.weight"), "model.embed_tokens.weight")
  t.equal(gemma.gguf("vision_tower.layers.0.mlp.up_proj.weight"), null)
})

t.test("experts", async t => {
  const cases = [
    ["mixtral", "block_sparse_moe.experts.", { gate: "w1", up: "w3", down: "w2" }],
    ["qwen3_moe", "mlp.experts.", { gate: "gate_proj", up: "up_proj", down: "down_proj" }],
  ] as const
  for (const [type, prefix, parts] of cases) {
    const names = new GgufNames(type)
    for (const [part, module] of Object.entries(parts)) {
      const hf = `model.layers.7.${prefix}31.${module}`
      const gguf = `blk.7.ffn_${part}_exps.weight`
      t.same(names.expert(`${hf}.weight`), { name: gguf, expert: 31 })
      t.equal(names.expertModule(gguf, 31), hf)
      t.equal(names.tensor(`${hf}.weight`), gguf)
      t.equal(names.gguf(`${hf}.weight`), null)
    }
    t.equal(names.expert(`model.layers.7.${prefix}x.w1.weight`), null)
    t.equal(names.expertModule("blk.7.ffn_up.weight", 0), null)
  }
  t.equal(llama.expertModule("blk.7.ffn_up_exps.weight", 0), null)
})

t.test("q, k and v of GPT-NeoX, which a checkpoint has head by head", async t => {
  const order = layoutOf("gpt_neox", 2).rows("blk.0.attn_qkv.bias")
  // Rows 6h … of a checkpoint are q, k and v of head h, two of each.
  t.same(
    [...fileOrder(order, 24)!],
    [0, 1, 6, 7, 12, 13, 18, 19, 2, 3, 8, 9, 14, 15, 20, 21, 4, 5, 10, 11, 16, 17, 22, 23],
  )
  t.equal(layoutOf("gpt_neox").rows("blk.0.attn_output.weight"), null)
  t.equal(layoutOf("gpt2").rows("blk.0.attn_qkv.weight"), null)
})

t.test("matrices of GPT-2's blocks are turned", async t => {
  const layout = layoutOf("gpt2")
  for (const module of ["attn_qkv", "attn_output", "ffn_up", "ffn_down"]) {
    t.ok(layout.isTransposed(`blk.11.${module}.weight`), module)
    t.notOk(layout.isTransposed(`blk.11.${module}.bias`), module)
    t.notOk(layoutOf("gpt_neox").isTransposed(`blk.11.${module}.weight`), module)
  }
  for (const name of ["token_embd.weight", "position_embd.weight"]) t.notOk(layout.isTransposed(name), name)
})

t.test("norms of Gemma hold one more", async t => {
  const layout = layoutOf("gemma3_text")
  for (const name of ["blk.0.attn_q_norm.weight", "output_norm.weight", "blk.3.post_ffw_norm.weight"])
    t.equal(layout.offset(name), 1, name)
  t.equal(layout.offset("blk.0.attn_q.weight"), 0)
  t.equal(layoutOf("llama").offset("output_norm.weight"), 0)
})

t.test("the names are those of llama.cpp", async t => {
  t.equal(ggufName("model.embed_tokens.weight"), "token_embd.weight")
  t.equal(ggufName("model.norm.weight"), "output_norm.weight")
  t.equal(ggufName("lm_head.weight"), "output.weight")
  for (const [hf, gguf] of Object.entries(blockNames)) {
    t.equal(ggufName(`model.layers.0.${hf}.weight`), `blk.0.${gguf}.weight`)
    t.equal(hfName(`blk.117.${gguf}.weight`), `model.layers.117.${hf}.weight`)
  }
  t.equal(ggufName("model.layers.3.self_attn.q_proj.bias"), "blk.3.attn_q.bias")
  t.equal(hfName("blk.3.ffn_down.bias"), "model.layers.3.mlp.down_proj.bias")
})

t.test("others have none", async t => {
  for (const name of [
    "rope_freqs.weight",
    "blk.0.attn_q",
    "blk.0.attn_norm.bias",
    "blk.00.attn_q.weight",
    "blk.-1.attn_q.weight",
    "blk.0.ffn_gate_inp_shexp.weight",
    "blk.0.attn_qkv.weight",
    "blk.0.attn_q.weight ",
    "token_embd.bias",
    "constructor",
    "",
  ])
    t.equal(hfName(name), null, name)
  for (const name of [
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.layers.0.self_attn.q_proj.qweight",
    "model.layers.01.mlp.up_proj.weight",
    "transformer.wte.weight",
    "__proto__",
  ])
    t.equal(ggufName(name), null, name)
})

t.test("rows of q and k, as an independent implementation permutes them", async t => {
  const {
    n_head: heads,
    head_dim: headDim,
    perm,
  } = ropeVectors()["gguf-qk-permute"] as unknown as {
    n_head: number
    head_dim: number
    perm: number[]
  }
  t.same(
    Array.from({ length: heads * headDim }, (_, row) => hfRow(row, headDim)),
    perm,
  )
  for (const dim of [2, 6, 8, 64, 128, 130]) {
    const order = layoutOf("llama", dim).rows("blk.0.attn_k.weight")
    const [forward, back] = [fileOrder(order, 3 * dim)!, checkpointOrder(order, 3 * dim)!]
    for (let row = 0; row < 3 * dim; row++) {
      if (back[forward[row]!] !== row || forward[back[row]!] !== row) t.fail(`row ${row} of heads of ${dim}`)
      // Elements that turn together: neighbours in the file, half a head apart in the checkpoint.
      if (row % 2 === 0 && forward[row + 1] !== forward[row]! + dim / 2)
        t.fail(`rows ${row} and ${row + 1} of heads of ${dim}`)
    }
  }
})

t.test("which tensors are permuted", async t => {
  const names = Object.keys(randomWeights({ ...tinyConfig, attention_bias: true, mlp_bias: true }, 1))
  const permuted = names.filter(name => isPermuted("llama", ggufName(name)!))
  t.same(
    permuted.filter(name => name.startsWith("model.layers.1.")),
    ["q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias"].map(name => `model.layers.1.self_attn.${name}`),
  )
  t.equal(permuted.length, 4 * tinyConfig.num_hidden_layers)
  for (const architecture of ["qwen2", "qwen3"]) t.notOk(names.some(name => isPermuted(architecture, ggufName(name)!)))
  t.notOk(isPermuted("llama", "blk.0.attn_q_norm.weight"))
})
