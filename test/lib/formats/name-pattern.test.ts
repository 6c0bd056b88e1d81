import t from "tap"
import { NamePattern } from "../../../lib/formats/name-pattern.ts"

const name = "model.layers.12.mlp.up_proj"

t.test("patterns match from the start of a name, and not necessarily to its end", async t => {
  const cases: [string, boolean][] = [
    [".*up_proj$", true],
    ["model\\.layers\\.\\d+\\.mlp", true],
    ["layers", false],
    ["lm_head|model", true],
    ["^(?!.*self_attn).*proj", true],
    ["^(?:model\\.)+layers\\.(1[0-9]|2)", true],
    ["(?:a?){40}model", true],
  ]
  for (const [source, expected] of cases) t.equal(new NamePattern(source, "ignore").test(name), expected, source)
})

t.test("a slow pattern is refused, and stops nothing", async t => {
  const slow = new NamePattern("(?:[a-z]+)+[0-9]", "ignore")
  const message = /^quantization_config.ignore: "\(\?:\[a-z\]\+\)\+\[0-9\]" takes too long to match names such as "aaaa/
  t.throws(() => slow.test("a".repeat(200)), { code: "ERR_FORMAT", message })
  t.throws(() => slow.test("a".repeat(200)), { code: "ERR_FORMAT" }, "again, at once")
  const optional = new NamePattern(`${"a?".repeat(40) + "a".repeat(40)}b`, "dynamic")
  t.throws(() => optional.test("a".repeat(60)), { code: "ERR_FORMAT", message: /takes too long/ })
})

t.test("what is no pattern", async t => {
  t.throws(() => new NamePattern("(", "ignore"), {
    code: "ERR_FORMAT",
    message: /^quantization_config.ignore: "\(" is not a regular expression that can be read here/,
  })
})
