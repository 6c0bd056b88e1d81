import t from "tap"
import { Options } from "../../../lib/core/options.ts"
import {
  checkpointKvFormat,
  type KvCacheSettings,
  kvCacheBytes,
  kvFormat,
  kvFormatText,
  parseKvCache,
  readKvCache,
} from "../../../lib/models/kv-cache.ts"

const read = (kvCache: unknown) => readKvCache(new Options("loadModel", { kvCache }, ["kvCache"]))
const format = (kvCache: unknown, headDim = 128) => kvFormat(read(kvCache) as KvCacheSettings, { headDim })

t.test("a type stands for keys and values and what they need", async t => {
  t.match(format(undefined), { keys: { type: "f32", scales: "none" }, sinkPages: 0, windowPages: 0 })
  t.match(format("int8"), {
    keys: { type: "int8", scales: "token", offsets: false, group: 128 },
    values: { type: "int8" },
    rotateKeys: false,
    sinkPages: 1,
    windowPages: 5,
  })
  t.match(format("int4"), {
    keys: { type: "int4", offsets: true },
    rotateKeys: true,
    rotateValues: true,
    sinkPages: 1,
    windowPages: 5,
  })
  t.match(format({ keys: "int8", values: "int4" }), { rotateKeys: false, rotateValues: true })
  t.match(format({ keys: "int8", keyScales: "channel" }), { keys: { scales: "channel", group: 0 }, windowPages: 5 })
  t.match(format({ keys: "int8", groupSize: 64 }, 32), { keys: { group: 32 } }, "at most a head")
  t.equal(read("checkpoint"), "checkpoint")
})

t.test("a window keeps at least so many tokens", async t => {
  const pages = [0, 1, 2, 17, 18, 64, 128].map(window => format({ keys: "int8", window }).windowPages)
  t.same(pages, [0, 1, 2, 2, 3, 5, 9])
})

t.test("what does not go together is refused", async t => {
  const refused = (value: unknown, message: RegExp) => t.throws(() => read(value), { code: "ERR_OPTION", message })
  refused("int3", /"kvCache" is "int3", expected "f32", "f16", "int8", "fp8", "int4" or "checkpoint", or an object/)
  refused(8, /"kvCache" is 8/)
  refused({ key: "int8" }, /unknown option "key"; did you mean "keys"/)
  refused({ keys: "int8", keyScales: "channel", window: 0 }, /"window" is 0, expected at least 1/)
  refused({ keys: "fp8", keyScales: "channel" }, /a channel's scale is for keys of int8 or int4/)
  refused({ keys: "int4", groupSize: 40 }, /"groupSize" is 40, expected a multiple of 32/)
  refused({ keys: "int8", symmetric: true }, /only int4/)
  refused({ keys: "f16", window: 64 }, /leave out sinks, window and rotate/)
  refused({ keys: "int8", sinks: -1 }, /"sinks" is -1/)
})

t.test("the command line's form", async t => {
  t.equal(parseKvCache("int8"), "int8")
  t.same(parseKvCache("keys=int8, values=int4,rotate=on,sinks=4,key-scales=channel"), {
    keys: "int8",
    values: "int4",
    rotate: true,
    sinks: 4,
    keyScales: "channel",
  })
  t.throws(() => parseKvCache("keys=int8,values"), { code: "ERR_OPTION", message: /"values" is no detail/ })
  t.throws(() => parseKvCache("keys=int8,keys=int4"), { code: "ERR_OPTION" })
})

t.test("formats in words", async t => {
  t.equal(kvFormatText(format({ keys: "int8", values: "int8", sinks: 0, window: 0 })), "int8")
  t.equal(kvFormatText(format("int4")), "int4 rotated, first 16 and last 65 tokens f16")
  t.equal(
    kvFormatText(format({ keys: "int8", values: "int4" })),
    "keys int8, values int4 rotated, first 16 and last 65 tokens f16",
  )
})

t.test("bytes", async t => {
  const config = { layers: 32, kvHeads: 8, headDim: 128 }
  const bytes = (kvCache: unknown, tokens = 32768, sequences = 1) =>
    kvCacheBytes(config, format(kvCache), tokens, sequences)
  const f32 = 32 * 8 * 128 * 2 * 4 * 32768
  t.equal(bytes("f32"), f32)
  t.equal(bytes("f16"), f32 / 2)
  // A scale of 16 bits for every token and head.
  t.equal(bytes({ keys: "int8", values: "int8", sinks: 0, window: 0 }), f32 / 4 + 32 * 8 * 2 * 2 * 32768)
  t.equal(bytes("int8", 32768, 3), 3 * bytes("int8"))
  // Scale and offset; the first page and twice five of the window in f16.
  t.equal(bytes("int4"), f32 / 8 + 32 * 8 * 2 * 4 * 32768 + (11 * 16 * f32) / 2 / 32768)
  const scaled = checkpointKvFormat(new Array(32).fill(1), new Array(32).fill(0.5))
  t.equal(kvCacheBytes(config, scaled, 16), f32 / 4 / 2048)
})
