import t from "tap"
import { editJson, parseJson, parseJsonObject } from "../../../lib/containers/json.ts"
import { random, tsqError } from "./support.ts"

t.test("parses what JSON.parse parses", async t => {
  for (const text of [
    "null",
    ' [1, -0, 1.5e-3, true, false, null, "a\\u00e9\\n\\"{},:"] ',
    '{"a":{"b":[[],{}]},"":1,"__proto__":{"x":1},"constructor":2}',
    '"plain"',
    "12",
  ])
    t.same(parseJson(text, "text"), JSON.parse(text), text)
  const proto = parseJsonObject('{"__proto__":{"x":1}}', "text")
  t.ok(Object.hasOwn(proto, "__proto__"), "__proto__ is a key like any other")
  t.equal(Object.getPrototypeOf(proto), Object.prototype)
})

t.test("random values survive", async t => {
  const { below, next, pick } = random(1)
  const make = (depth: number): unknown => {
    const kind = below(depth > 3 ? 5 : 7)
    if (kind < 2) return pick([0, -1, 1.5, 1e300, 5e-324, next()])
    if (kind === 2) return pick(["", "a b", '"\\', "\u{1f600}", "],{", "\u0001"])
    if (kind === 3) return pick([true, false])
    if (kind === 4) return null
    const items = Array.from({ length: below(4) }, () => make(depth + 1))
    return kind === 5 ? items : Object.fromEntries(items.map((item, i) => [pick(["k", "é", '"', "0"]) + i, item]))
  }
  for (let i = 0; i < 300; i++) {
    const value = make(0)
    const text = JSON.stringify(value, null, pick([0, 1, 2]))
    t.same(parseJson(text, "text"), value)
  }
})

t.test("refuses what two parsers could read in two ways", async t => {
  t.throws(() => parseJson('{"a":1,"a":2}', "x.json"), tsqError("ERR_CORRUPT", /x\.json.*"a" appears twice/))
  t.throws(() => parseJson('{"a":1,"a":1}', "x.json"), tsqError("ERR_CORRUPT", /twice/), "even with equal values")
  t.throws(() => parseJson('{"b":[{"a":1,"\\u0061":2}]}', "x"), tsqError("ERR_CORRUPT", /twice/), "spelled differently")
  t.throws(() => parseJson('["\\ud800"]', "x"), tsqError("ERR_CORRUPT", /surrogate/))
  t.throws(() => parseJson("[".repeat(200) + "]".repeat(200), "x"), tsqError("ERR_CORRUPT", /nested/))
  t.doesNotThrow(() => parseJson("[".repeat(100) + "]".repeat(100), "x"))
  for (const text of ["", "{", "[1,]", "{'a':1}", "01", "NaN", "1 2", "\ufeff{}", "{}\0"])
    t.throws(() => parseJson(text, "x"), tsqError("ERR_CORRUPT", /not valid JSON/), JSON.stringify(text))
  t.throws(() => parseJsonObject("[1]", "x"), tsqError("ERR_CORRUPT", /an array, expected a JSON object/))
})

t.test("edits leave everything else as it was written", async t => {
  const text = `{
  "rms_norm_eps": 1e-05,
  "final_logit_softcapping": 30.0,
  "big": 123456789012345678901234567890,
  "name": "caf\\u00e9",
  "rope_scaling": {
    "factor": 8.0,
    "low": [1.0, 2]
  },
  "quantization_config": {"bits": 8},
  "vocab_size": 512
}
`
  const edited = editJson(text, { quantization_config: { bits: 4, list: [1] }, vocab_size: undefined, extra: 0.5 })
  t.equal(
    edited,
    `{
  "rms_norm_eps": 1e-05,
  "final_logit_softcapping": 30.0,
  "big": 123456789012345678901234567890,
  "name": "caf\\u00e9",
  "rope_scaling": {
    "factor": 8.0,
    "low": [1.0, 2]
  },
  "quantization_config": {
    "bits": 4,
    "list": [
      1
    ]
  },
  "extra": 0.5
}
`,
  )
  t.equal(editJson(text, {}), text, "no edit, no change")
  t.equal(editJson(text, { toString: undefined, missing: undefined }), text)
})

t.test("edits follow the text's own style", async t => {
  t.equal(editJson('{"a": 30.0, "b": 1}', { c: [1] }), '{"a": 30.0, "b": 1, "c": [1]}')
  t.equal(editJson('{\n    "a": 1.0\n}', { b: { c: 2 } }), '{\n    "a": 1.0,\n    "b": {\n        "c": 2\n    }\n}')
  t.equal(editJson("{}", { a: 1 }), '{"a": 1}')
  t.equal(editJson('{\n  "a": 1\n}\n', { a: undefined }), "{}\n")
  t.throws(() => editJson("[1]", {}, "config.json"), tsqError("ERR_CORRUPT", /config\.json: expected a JSON object/))
  t.throws(() => editJson('{"a":1,"a":1}', {}, "config.json"), tsqError("ERR_CORRUPT", /twice/))
})
