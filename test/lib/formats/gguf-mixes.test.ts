// llama-quantize's mixtures: the table of its source, read once more by hand.
import t from "tap"
import { ggmlTypeNamed } from "../../../lib/containers/gguf-types.ts"
import {
  type GgufPreset,
  ggufFileType,
  ggufPresets,
  isGgufPreset,
  mixedType,
  needsImportance,
} from "../../../lib/formats/gguf-mixes.ts"

const llama1b = { layers: 16, heads: 32, kvHeads: 8, tied: true }
const llama8b = { layers: 32, heads: 32, kvHeads: 8, tied: false }
const plain7b = { layers: 32, heads: 32, kvHeads: 32, tied: false }
const llama70b = { layers: 80, heads: 64, kvHeads: 8, tied: false }

const typesOf = (preset: GgufPreset, model: typeof llama1b, part: string, k = 4096) =>
  Array.from({ length: model.layers }, (_, i) => mixedType(preset, model, { name: `blk.${i}.${part}`, k }).type.name)
const layersOf = (types: readonly string[], type: string) => types.flatMap((found, i) => (found === type ? [i] : []))
const typeOf = (preset: GgufPreset, model: typeof llama1b, name: string, k = 4096) =>
  mixedType(preset, model, { name, k }).type.name

t.test("heads and embeddings", t => {
  const ends = (preset: GgufPreset) => [
    typeOf(preset, llama8b, "token_embd"),
    typeOf(preset, llama8b, "output"),
    typeOf(preset, llama1b, "token_embd"),
  ]
  t.strictSame(ends("q4_k_m"), ["Q4_K", "Q6_K", "Q6_K"])
  t.strictSame(ends("q2_k"), ["Q2_K", "Q6_K", "Q6_K"])
  t.strictSame(ends("q8_0"), ["Q8_0", "Q8_0", "Q8_0"])
  t.strictSame(ends("f16"), ["F16", "F16", "F16"])
  t.end()
})

t.test("values, last projections and outputs of attention", t => {
  const more = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
  for (const part of ["attn_v", "ffn_down"]) {
    t.strictSame(layersOf(typesOf("q4_k_m", llama8b, part), "Q6_K"), more, part)
    t.strictSame(layersOf(typesOf("q5_k_m", llama8b, part), "Q6_K"), more, part)
    t.strictSame(new Set(typesOf("q6_k", llama8b, part)), new Set(["Q6_K"]))
  }
  t.strictSame(layersOf(typesOf("q4_k_s", llama8b, "attn_v"), "Q5_K"), [0, 1, 2, 3])
  t.strictSame(layersOf(typesOf("q4_k_s", llama8b, "ffn_down"), "Q5_K"), [0, 1, 2, 3])
  t.strictSame(layersOf(typesOf("q3_k_m", llama8b, "attn_v"), "Q5_K"), [0, 1])
  t.strictSame(layersOf(typesOf("q3_k_m", llama8b, "ffn_down"), "Q5_K"), [0, 1])
  t.equal(typeOf("q3_k_m", llama8b, "blk.7.ffn_down"), "Q4_K")
  t.equal(typeOf("q3_k_m", llama8b, "blk.7.attn_output"), "Q4_K")
  t.equal(typeOf("q3_k_l", llama8b, "blk.7.attn_output"), "Q5_K")
  t.equal(typeOf("q4_k_m", llama8b, "blk.0.attn_output"), "Q4_K")
  t.equal(typeOf("q4_k_m", llama8b, "blk.0.attn_q"), "Q4_K")
  t.strictSame(
    [typeOf("q2_k", llama8b, "blk.9.attn_v"), typeOf("q2_k", plain7b, "blk.9.attn_v")],
    ["Q4_K", "Q3_K"],
    "values that four heads share are kept finer",
  )
  t.equal(typeOf("iq4_xs", llama8b, "blk.9.attn_v"), "Q5_K")
  t.equal(typeOf("q4_k_s", llama70b, "blk.40.attn_v"), "Q5_K", "80 layers with shared values")
  t.equal(typeOf("q3_k_s", llama70b, "blk.40.attn_v"), "Q5_K")
  t.equal(typeOf("q5_k_s", llama70b, "blk.40.attn_v"), "Q5_K")
  t.end()
})

t.test("what an importance matrix changes", t => {
  const with8b = { ...llama8b, importance: true }
  const with7b = { ...plain7b, importance: true }
  for (const preset of ["iq4_nl", "iq4_xs"] as const) {
    t.strictSame(layersOf(typesOf(preset, llama8b, "ffn_down"), "Q5_K"), [0, 1, 2, 3])
    t.strictSame(layersOf(typesOf(preset, with8b, "ffn_down"), "Q5_K"), [])
    t.equal(typeOf(preset, with8b, "blk.0.attn_v"), "Q5_K")
  }
  for (const [preset, base, finer] of [
    ["q4_0", "Q4_0", "Q4_1"],
    ["q5_0", "Q5_0", "Q5_1"],
  ] as const) {
    t.strictSame(layersOf(typesOf(preset, with8b, "ffn_down"), finer), [0, 1, 2, 3])
    t.strictSame(new Set(typesOf(preset, llama8b, "ffn_down")), new Set([base]))
    t.equal(typeOf(preset, with8b, "blk.0.attn_v"), base)
  }
  for (const preset of ggufPresets.filter(name => !/^(iq4|q[45]_0)/.test(name)))
    for (const part of ["attn_q", "attn_v", "attn_output", "ffn_down"])
      t.strictSame(typesOf(preset, with8b, part), typesOf(preset, llama8b, part), `${preset} ${part}`)
  t.strictSame(layersOf(typesOf("q2_k_s", with8b, "ffn_down"), "Q4_K"), [0, 1, 2, 3])
  t.strictSame([typeOf("q2_k_s", with8b, "blk.9.attn_v"), typeOf("q2_k_s", with7b, "blk.9.attn_v")], ["Q4_K", "Q2_K"])
  t.equal(typeOf("q2_k_s", with8b, "blk.9.attn_output"), "Q2_K")
  const typed = (name: string) => ggmlTypeNamed(name)!
  t.ok(needsImportance("q2_k_s", typed("Q2_K")))
  t.notOk(needsImportance("q2_k_s", typed("Q4_K")))
  t.notOk(needsImportance("q2_k", typed("Q2_K")))
  t.end()
})

t.test("rows that do not fill blocks", t => {
  const instead = (preset: GgufPreset, k: number) => {
    const found = mixedType(preset, llama8b, { name: "blk.20.attn_q", k })
    return [found.type.name, found.instead?.name ?? null]
  }
  t.strictSame(instead("q4_k_m", 896), ["Q5_0", "Q4_K"])
  t.strictSame(instead("q5_k_m", 896), ["Q5_1", "Q5_K"])
  t.strictSame(instead("q6_k", 896), ["Q8_0", "Q6_K"])
  t.strictSame(instead("q2_k", 896), ["Q4_0", "Q2_K"])
  t.strictSame(instead("q3_k_s", 896), ["Q4_0", "Q3_K"])
  t.strictSame(instead("iq4_xs", 896), ["IQ4_NL", "IQ4_XS"])
  t.strictSame(instead("q4_k_m", 172), ["F16", "Q4_K"])
  t.strictSame(instead("q8_0", 172), ["F16", "Q8_0"])
  t.strictSame(instead("q4_0", 896), ["Q4_0", null])
  t.strictSame(instead("f32", 3), ["F32", null])
  t.end()
})

t.test("names and numbers", t => {
  const numbers = Object.fromEntries(ggufPresets.map(preset => [preset, ggufFileType(preset)]))
  t.strictSame(numbers, {
    ...{ f32: 0, f16: 1, bf16: 32, q4_0: 2, q4_1: 3, q5_0: 8, q5_1: 9, q8_0: 7, q2_k: 10, q2_k_s: 21 },
    ...{ q3_k_s: 11, q3_k_m: 12, q3_k_l: 13, q4_k_s: 14, q4_k_m: 15, q5_k_s: 16, q5_k_m: 17, q6_k: 18 },
    ...{ iq4_nl: 25, iq4_xs: 30 },
  })
  t.ok(isGgufPreset("q4_k_m"))
  t.notOk(isGgufPreset("toString"))
  t.notOk(isGgufPreset(3))
  t.end()
})
