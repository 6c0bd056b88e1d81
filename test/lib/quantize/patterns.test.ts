// Patterns of module names, among them those that a backtracking matcher would hang on.
import t from "tap"
import { matches } from "../../../lib/quantize/plan.ts"

t.test("names and patterns", async t => {
  const module = "model.layers.10.self_attn.q_proj"
  for (const pattern of [
    module,
    "q_proj",
    "self_attn.q_proj",
    "*q_proj",
    "model.layers.1*",
    "*.self_attn.*",
    "*layers*attn*",
    "*",
    "**",
  ])
    t.ok(matches(pattern, module), pattern)
  for (const pattern of [
    "proj",
    "model.layers.1.*",
    "*k_proj",
    "model*model",
    "q_proj*x",
    "*attn*layers*",
    "model.layers.10.self_attn.q_proj*q_proj",
  ])
    t.notOk(matches(pattern, module), pattern)
})

t.test("many stars take no time", async t => {
  t.notOk(matches(`${"*".repeat(40)}x`, "model.layers.10.self_attn.q_proj"))
  t.notOk(matches("*a".repeat(2000), "a".repeat(1000)))
})
