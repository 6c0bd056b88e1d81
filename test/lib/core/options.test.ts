import t, { type Test } from "tap"
import { TsqError } from "../../../lib/core/errors.ts"
import { closest, describe, listChoices, Options } from "../../../lib/core/options.ts"

const read = (values: unknown) =>
  new Options("quantize", values, ["groupSize", "damp", "signal", "onProgress", "rounding", "strict", "name", "names"])

const refuses = (t: Test, work: () => unknown, message: string | RegExp) =>
  t.throws(work, { name: "TsqError", code: "ERR_OPTION", message })

t.test("options must be an object", async t => {
  for (const [values, found] of [
    [null, "null"],
    [4, "4"],
    ["w4a16", '"w4a16"'],
    [[1, 2], "an array of 2"],
    [new Float32Array(2), "a Float32Array"],
  ] as const)
    refuses(t, () => read(values), `quantize: options are ${found}, expected an object`)
  t.doesNotThrow(() => read(undefined))
  t.doesNotThrow(() => read({}))
})

t.test("unknown names are refused, with the one that was probably meant", async t => {
  refuses(t, () => read({ groupsize: 64 }), 'quantize: unknown option "groupsize"; did you mean "groupSize"?')
  refuses(t, () => read({ group_size: 64 }), 'quantize: unknown option "group_size"; did you mean "groupSize"?')
  refuses(t, () => read({ ruonding: "gptq" }), 'quantize: unknown option "ruonding"; did you mean "rounding"?')
  refuses(
    t,
    () => read({ temperature: 1 }),
    'quantize: unknown option "temperature"; it knows damp, groupSize, name, names, onProgress, rounding, signal, strict',
  )
})

t.test("undefined is not given", async t => {
  const options = read({ groupSize: undefined })
  t.equal(options.has("groupSize"), false)
  t.equal(options.integer("groupSize", { min: 1 }, 128), 128)
  t.equal(options.boolean("strict", false), false)
  t.equal(options.signal(), undefined)
  t.equal(options.onProgress(), undefined)
})

t.test("numbers", async t => {
  t.equal(read({ groupSize: 64 }).integer("groupSize", { min: 1 }, 128), 64)
  refuses(
    t,
    () => read({ groupSize: -1 }).integer("groupSize", { min: 1 }, 128),
    'quantize: option "groupSize" is -1, expected an integer of at least 1',
  )
  refuses(
    t,
    () => read({ groupSize: 1.5 }).integer("groupSize", {}, 128),
    'quantize: option "groupSize" is 1.5, expected an integer',
  )
  refuses(
    t,
    () => read({ groupSize: "64" }).integer("groupSize", { min: 1, max: 9 }, 128),
    'quantize: option "groupSize" is "64", expected an integer from 1 to 9',
  )
  refuses(t, () => read({ groupSize: 2 ** 53 }).integer("groupSize", { max: 9 }, 1), /an integer of at most 9$/)
  t.equal(read({ damp: 1 }).number("damp", { min: 0, aboveMin: true, max: 1 }, 0.01), 1)
  refuses(
    t,
    () => read({ damp: 0 }).number("damp", { min: 0, aboveMin: true, max: 1 }, 0.01),
    'quantize: option "damp" is 0, expected a number above 0 and at most 1',
  )
  refuses(
    t,
    () => read({ damp: Number.NaN }).number("damp", { min: 0, aboveMin: true }, 0.01),
    /is NaN, expected a number above 0$/,
  )
  refuses(t, () => read({ damp: Number.POSITIVE_INFINITY }).number("damp", {}, 0.01), /is Infinity, expected a number$/)
  refuses(t, () => read({ damp: 1n }).number("damp", {}, 0.01), /is 1n/)
})

t.test("other types", async t => {
  t.equal(read({ rounding: "mse" }).oneOf("rounding", ["nearest", "mse"], "nearest"), "mse")
  refuses(
    t,
    () => read({ rounding: "best" }).oneOf("rounding", ["nearest", "mse", "gptq"], "nearest"),
    'quantize: option "rounding" is "best", expected "nearest", "mse" or "gptq"',
  )
  t.equal(read({ strict: true }).boolean("strict", false), true)
  refuses(
    t,
    () => read({ strict: 1 }).boolean("strict", false),
    'quantize: option "strict" is 1, expected true or false',
  )
  t.equal(read({ name: "a" }).string("name", "b"), "a")
  refuses(
    t,
    () => read({ name: "" }).string("name", "b"),
    'quantize: option "name" is "", expected a string that is not empty',
  )
  t.same(read({ names: ["a"] }).strings("names", []), ["a"])
  refuses(
    t,
    () => read({ names: ["a", 1] }).strings("names", []),
    'quantize: option "names" is an array of 2, expected an array of strings',
  )
  refuses(t, () => read({ names: "a" }).strings("names", []), /expected an array of strings/)
  const { signal } = new AbortController()
  t.equal(read({ signal }).signal(), signal)
  refuses(
    t,
    () => read({ signal: { aborted: false } }).signal(),
    'quantize: option "signal" is an object, expected an AbortSignal',
  )
  refuses(
    t,
    () => read({ onProgress: "yes" }).onProgress(),
    'quantize: option "onProgress" is "yes", expected a function',
  )
  t.equal(typeof read({ onProgress: () => {} }).onProgress(), "function")
})

t.test("values in messages", async t => {
  t.equal(describe("x".repeat(100)).length, 62)
  t.equal(describe(undefined), "undefined")
  t.equal(describe(Object.create(null)), "an object")
  t.equal(describe(new TsqError("ERR_OPTION", "")), "a TsqError")
  t.equal(describe(new Int8Array(1)), "an Int8Array")
  t.equal(describe(new Uint8Array(1)), "a Uint8Array")
  t.equal(
    describe(() => {}),
    "a function",
  )
  t.equal(describe(Symbol("s")), "a symbol")
  t.equal(listChoices(["a"]), '"a"')
  t.equal(listChoices(["a", "b"]), '"a" or "b"')
})

t.test("closest", async t => {
  t.equal(closest("nearst", ["nearest", "mse"]), "nearest")
  t.equal(closest("mes", ["nearest", "mse"]), "mse", "a swap of neighbours is one edit")
  t.equal(closest("mean", ["nearest", "mse"]), null)
  t.equal(closest("x".repeat(10_000), ["nearest"]), null)
})
