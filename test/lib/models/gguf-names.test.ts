import t from "tap"
import { ggufName, ggufRow, hasPermutedRows, hfName, hfRow } from "../../../lib/models/gguf-names.ts"
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

t.test("every tensor of every architecture has a name in both worlds", async t => {
  const variants = [
    { attention_bias: true, mlp_bias: true },
    { model_type: "mistral" },
    { model_type: "qwen2", tie_word_embeddings: true },
    { model_type: "qwen3", head_dim: 8, num_hidden_layers: 12 },
  ]
  for (const changes of variants) {
    const names = Object.keys(randomWeights({ ...tinyConfig, ...changes }, 1))
    const found = names.map(ggufName)
    t.notOk(found.includes(null), JSON.stringify(changes))
    t.equal(new Set(found).size, names.length, "no name twice")
    t.same(
      found.map(name => hfName(name!)),
      names,
    )
  }
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
  for (const dim of [2, 6, 8, 64, 128, 130])
    for (let row = 0; row < 3 * dim; row++) {
      if (ggufRow(hfRow(row, dim), dim) !== row || hfRow(ggufRow(row, dim), dim) !== row)
        t.fail(`row ${row} of heads of ${dim}`)
      // Elements that turn together: neighbours in the file, half a head apart in the checkpoint.
      if (row % 2 === 0 && hfRow(row + 1, dim) !== hfRow(row, dim) + dim / 2)
        t.fail(`rows ${row} and ${row + 1} of heads of ${dim}`)
    }
})

t.test("which tensors are permuted", async t => {
  const names = Object.keys(randomWeights({ ...tinyConfig, attention_bias: true, mlp_bias: true }, 1))
  const permuted = names.filter(name => hasPermutedRows("llama", ggufName(name)!))
  t.same(
    permuted.filter(name => name.startsWith("model.layers.1.")),
    ["q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias"].map(name => `model.layers.1.self_attn.${name}`),
  )
  t.equal(permuted.length, 4 * tinyConfig.num_hidden_layers)
  for (const architecture of ["qwen2", "qwen3"])
    t.notOk(names.some(name => hasPermutedRows(architecture, ggufName(name)!)))
  t.notOk(hasPermutedRows("llama", "blk.0.attn_q_norm.weight"))
})
