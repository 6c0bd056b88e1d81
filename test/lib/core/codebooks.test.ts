import t from "tap"
import { type CodebookName, codebook, codebookBits, knownCodebook } from "../../../lib/core/codebooks.ts"
import { vector } from "../containers/support.ts"

/** As the vectors spell numbers that JSON has not. */
const number = (value: unknown): number =>
  value === null ? Number.NaN : Number(String(value).replace("inf", "Infinity"))

t.test("the code books of the formats", async t => {
  const books: [CodebookName, string][] = [
    ["nf4", "bnb-nf4-table"],
    ["fp4", "bnb-fp4-table"],
    ["e2m1", "e2m1-values"],
    ["e4m3", "fp8-e4m3fn-decode"],
    ["e5m2", "fp8-e5m2-decode"],
  ]
  for (const [name, id] of books) {
    const values = vector(id).values as unknown[]
    t.ok(
      values.every((value, code) => Object.is(codebook(name)[code], Math.fround(number(value)))),
      name,
    )
  }
  for (const name of ["e4m3", "e5m2"] as const)
    t.ok(
      codebook(name)
        .slice(128)
        .every((value, code) => Object.is(value, 0 - codebook(name)[code]!) || code === 0),
      `${name}: the upper half is negative`,
    )
  t.ok(Object.is(codebook("e4m3")[128], -0))
  t.equal(codebookBits("iq4_nl"), 4)
  t.equal(codebookBits("e5m2"), 8)
})

t.test("a code book is known by its values", async t => {
  t.equal(knownCodebook(codebook("e4m3").slice()), "e4m3", "NaN equals NaN")
  t.equal(knownCodebook(new Float32Array(16)), null)
  t.throws(() => codebook("nf5" as never), { code: "ERR_OPTION", message: 'codebook is "nf5", expected "nf4"' })
})
