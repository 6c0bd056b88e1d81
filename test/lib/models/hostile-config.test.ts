// Sizes of a damaged or hostile config.json end in a message, not in an exhausted heap or a blocked process.
import { readFileSync } from "node:fs"
import t from "tap"
import { describeModel } from "../../../lib/models/registry.ts"

const fable = JSON.parse(readFileSync(new URL("../../../models/fable-5m/config.json", import.meta.url), "utf8"))

t.test("absurd sizes are refused by name", async t => {
  for (const [key, value] of Object.entries({
    num_hidden_layers: 1e9,
    head_dim: 2e8,
    num_attention_heads: 1e9,
    hidden_size: 1e9,
    intermediate_size: 1e9,
    bos_token_id: 1e9,
    rope_theta: 1e-300,
  }))
    t.throws(() => describeModel({ ...fable, [key]: value }), { code: "ERR_FORMAT", message: new RegExp(key) }, key)
  t.throws(() => describeModel({ ...fable, num_attention_heads: 65536, num_key_value_heads: 1, head_dim: 65536 }), {
    code: "ERR_FORMAT",
    message: /num_attention_heads 65536 x head_dim 65536/,
  })
})
