// Cache files of packed models: the same model from them, and never another one.
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import t, { type Test } from "tap"
import type { Progress } from "../../../lib/core/progress.ts"
import { Tensor } from "../../../lib/core/tensor.ts"
import { type LoadOptions, loadModel } from "../../../lib/engine/load-model.ts"
import { PackCache } from "../../../lib/engine/pack-cache.ts"
import { writeMeta } from "../../../lib/engine/pack-meta.ts"
import { describeSources, describeTokenizer } from "../../../lib/engine/pack-sources.ts"
import { prepackDense } from "../../../lib/kernels/packed-weight.ts"
import { native } from "../../../lib/native.ts"
import { type QuantizeModelOptions, quantizeModel } from "../../../lib/quantize/quantize-model.ts"
import { folder, smallCalibration, smallCheckpoint } from "../quantize/support.ts"

// Nothing of the user who runs the tests.
delete process.env.TSQ_CACHE_DIR
process.env.XDG_CACHE_HOME = folder(t)

const ids = [1, 5, 2, 9, 33, 8]

interface Loaded {
  logits: Float32Array
  warnings: string[]
  stages: string[]
}

/** Loads, runs and disposes a model. */
async function load(directory: string, options: LoadOptions = { cache: true }): Promise<Loaded> {
  const warnings: string[] = []
  const stages: string[] = []
  const model = await loadModel(directory, {
    onWarning: message => warnings.push(message),
    onProgress: ({ stage }) => stages.push(stage),
    ...options,
  })
  try {
    const { data } = await model.forward(ids)
    return { logits: data as Float32Array, warnings, stages }
  } finally {
    model.dispose()
  }
}

const beside = (directory: string) => join(directory, ".tsq-cache")
const partials = (directory: string) => readdirSync(directory).filter(name => name.includes(".partial"))

/** Changes weights without a trace in what tells files apart, so that only a cache file gives the old ones. */
function changeUnseen(directory: string): void {
  const path = join(directory, "model.safetensors")
  const { atime, mtime } = statSync(path)
  const whole = new Date(Math.floor(mtime.getTime() / 1000) * 1000)
  const content = readFileSync(path)
  const data = 8 + Number(content.readBigUInt64LE())
  const header = JSON.parse(content.subarray(8, data).toString())
  const [begin, end] = header["model.embed_tokens.weight"].data_offsets
  for (let i = data + begin; i < data + end; i += 97) content[i]! ^= 0x10
  writeFileSync(path, content)
  // Times are set to the microsecond at best; a whole second equals any within it.
  utimesSync(path, atime, whole)
}

async function quantized(t: Test, change: Record<string, unknown>, options: QuantizeModelOptions): Promise<string> {
  const out = join(folder(t), "out")
  await quantizeModel(smallCheckpoint(t, change), out, options)
  return out
}

const kinds: [name: string, make: (t: Test) => Promise<string> | string][] = [
  ["f32 with biases", t => smallCheckpoint(t, { model_type: "qwen2", tie_word_embeddings: false }, "F32")],
  ["bf16 with a tied head", t => smallCheckpoint(t)],
  ["4 bits in groups", t => quantized(t, {}, { preset: "rtn", groupSize: 32 })],
  [
    "4 bits, asymmetric, columns in order of importance",
    t => quantized(t, {}, { preset: "gptq", order: "dynamic", symmetric: false, groupSize: 32, ...smallCalibration }),
  ],
  ...[2, 3, 5, 8].map((bits): [string, (t: Test) => Promise<string>] => [
    `${bits} bits`,
    t => {
      const scheme = `w${bits}a16` as "w8a16"
      return quantized(t, {}, { scheme, groupSize: 32, format: "compressed-tensors" })
    },
  ]),
]

for (const [name, make] of kinds)
  t.test(`the same model: ${name}`, async t => {
    const directory = await make(t)
    const handles = native.handleCount()
    const plain = await loadModel(directory)
    t.teardown(() => plain.dispose())
    const expected = (await plain.forward(ids)).data
    const written = await load(directory)
    t.same(written.logits, expected)
    t.equal(written.stages.at(-1), "cache")
    t.ok(existsSync(beside(directory)))
    t.same(partials(directory), [])

    changeUnseen(directory)
    for (const cache of [true, "read"] as const) {
      const cached = await loadModel(directory, { cache })
      t.same((await cached.forward(ids)).data, expected, "these are the weights of the file")
      t.same(cached.weights, plain.weights)
      t.same(cached.tokenizer.encode("abc"), plain.tokenizer.encode("abc"))
      t.same(cached.eosTokenIds, plain.eosTokenIds)
      cached.dispose()
    }
    t.notSame((await load(directory, {})).logits, expected, "and without it the checkpoint's")
    plain.dispose()
    t.equal(native.handleCount(), handles)
  })

t.test("off unless it is asked for", async t => {
  const directory = smallCheckpoint(t)
  await load(directory, {})
  await load(directory, { cache: false })
  await load(directory, { cache: "read" })
  t.notOk(existsSync(beside(directory)))
})

t.test("options", async t => {
  const directory = smallCheckpoint(t)
  const refuses = (options: object, message: RegExp) =>
    t.rejects(loadModel(directory, options as LoadOptions), { code: "ERR_OPTION", message })
  await refuses({ cache: "write" }, /"cache" is "write", expected true, false or "read"/)
  await refuses({ cache: 1 }, /"cache" is 1/)
  await refuses({ cache: true, cacheDir: "" }, /"cacheDir" is ""/)
  await refuses({ cache: true, cacheDir: 3 }, /"cacheDir" is 3/)
})

t.test("a changed checkpoint is packed anew", async t => {
  const changes: [name: string, change: (directory: string) => void, message: RegExp][] = [
    [
      "the weights' time",
      dir => utimesSync(join(dir, "model.safetensors"), 1, 2),
      /made from another model.safetensors/,
    ],
    ["the weights' size", dir => appendPadding(dir), /made from another model.safetensors/],
    [
      "the configuration",
      dir => {
        const path = join(dir, "config.json")
        const { atime, mtime } = statSync(path)
        writeFileSync(path, readFileSync(path, "utf8").replace('"rms_norm_eps":0.00001', '"rms_norm_eps":0.00003'))
        utimesSync(path, atime, mtime)
      },
      /made from another config.json/,
    ],
    [
      "a file of weights more",
      dir => copyFileSync(join(dir, "model.safetensors"), join(dir, "more.safetensors")),
      /made from another more.safetensors/,
    ],
  ]
  for (const [name, change, message] of changes)
    await t.test(name, async t => {
      const directory = smallCheckpoint(t)
      await load(directory)
      change(directory)
      const expected = await load(directory, {})
      const readOnly = await load(directory, { cache: "read" })
      t.match(readOnly.warnings, [message])
      const anew = await load(directory)
      t.match(anew.warnings, [message])
      t.equal(anew.warnings.length, 1)
      t.same(anew.logits, expected.logits)
      const again = await load(directory)
      t.same(again.warnings, [])
      t.same(again.logits, expected.logits)
      t.notOk(again.stages.includes("cache"))
    })
})

/** Rewrites the weights with eight spaces more in the header. */
function appendPadding(directory: string): void {
  const path = join(directory, "model.safetensors")
  const { atime, mtime } = statSync(path)
  const content = readFileSync(path)
  const length = Number(content.readBigUInt64LE())
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(length + 8))
  writeFileSync(
    path,
    Buffer.concat([prefix, content.subarray(8, 8 + length), Buffer.from(" ".repeat(8)), content.subarray(8 + length)]),
  )
  utimesSync(path, atime, mtime)
}

t.test("a file made with other options or by another version is stale", async t => {
  const directory = smallCheckpoint(t)
  await load(directory)
  const warnings: string[] = []
  const cache = (packing: Record<string, string>) =>
    new PackCache(directory, { write: true, packing, warn: message => warnings.push(message) })
  const found = await cache({}).find()
  t.ok(found)
  t.equal(await cache({ head: "u8" }).find(), null)
  t.same(warnings, [], "a name of its own")
  copyFileSync(beside(directory), join(directory, ".u8.tsq-cache"))
  t.equal(await cache({ head: "u8" }).find(), null)
  t.match(warnings.splice(0), [/made with other options; the model is packed anew/])
  const meta = found!.meta
  await found!.close()
  rmSync(beside(directory))
  await writePack(beside(directory), JSON.stringify({ ...meta, version: "0.0.1", linears: [], vectors: [] }))
  t.equal(await cache({}).find(), null)
  t.match(warnings, [/made by version 0\.0\.1, this is /])
})

/** A pack file of one small weight, or none, under any description: its checksums fit. */
async function writePack(path: string, meta: string, shapes: [n: number, k: number][] = []): Promise<void> {
  const weights = await Promise.all(shapes.map(shape => prepackDense(Tensor.empty(shape))))
  const floats = new Float32Array(new SharedArrayBuffer(0))
  const handles = Float64Array.from(weights, weight => weight.handle)
  await native.writePackFile(path, meta, floats, handles, null)
  for (const weight of weights) weight.dispose()
}

t.test("a whole second stands for any time within it, as archives keep them", async t => {
  const directory = smallCheckpoint(t)
  await load(directory)
  for (const name of readdirSync(directory)) {
    const { atime, mtime } = statSync(join(directory, name))
    utimesSync(join(directory, name), atime, new Date(Math.floor(mtime.getTime() / 1000) * 1000))
  }
  const cached = await load(directory)
  t.same(cached.warnings, [])
  t.notOk(cached.stages.includes("cache"))
})

t.test("damage anywhere is found", async t => {
  const directory = smallCheckpoint(t, { num_hidden_layers: 1 })
  const { logits } = await load(directory)
  const path = beside(directory)
  const original = readFileSync(path)
  const unharmed = (loaded: Loaded, what: string) => {
    t.same(loaded.logits, logits, what)
    t.ok(loaded.warnings.length <= 1 && loaded.warnings.every(text => /packed anew/.test(text)), what)
    return loaded.warnings.length
  }
  let found = 0
  const offsets = [
    ...Array(64).keys(),
    ...Array.from({ length: 120 }, (_, i) => 64 + Math.floor((i * (original.length - 64)) / 120)),
  ]
  for (const offset of offsets) {
    const damaged = Buffer.from(original)
    damaged[offset]! ^= 1 << (offset % 8)
    writeFileSync(path, damaged)
    found += unharmed(await load(directory, { cache: "read" }), `byte ${offset}`)
  }
  t.ok(found > offsets.length / 2, `${found} of ${offsets.length}; the others lie between sections`)
  for (let i = 0; i < 40; i++) {
    writeFileSync(path, original)
    truncateSync(path, Math.floor((i * original.length) / 40))
    t.equal(unharmed(await load(directory, { cache: "read" }), `cut off at ${i}/40`), 1)
  }
  for (const content of [Buffer.alloc(0), Buffer.from("no cache at all"), Buffer.alloc(5000, 0xff)]) {
    writeFileSync(path, content)
    t.equal(unharmed(await load(directory, { cache: "read" }), "something else"), 1)
  }
  writeFileSync(path, original)
  appendFileSync(path, "x")
  t.equal(unharmed(await load(directory), "longer"), 1)
  t.same(readFileSync(path), original, "written anew, the same bytes")
  t.same((await load(directory)).warnings, [])
})

t.test("descriptions that are not a model's", async t => {
  const directory = smallCheckpoint(t, { num_hidden_layers: 1 })
  const { logits } = await load(directory)
  const sources = await describeSources(directory)
  const tokenizer = await describeTokenizer(directory)
  const summary = {
    bitsPerWeight: 4,
    quantizedModules: [],
    referenceModules: [],
    roundedModules: [],
    onLoad: null,
    bytes: 0,
  }
  const meta = JSON.parse(writeMeta({ packing: {}, sources, tokenizer, linears: [], vectors: [], summary }))
  const modules = ["model.embed_tokens", "model.layers.0.self_attn.q_proj"]
  const cases: [what: string, meta: unknown, shapes: [number, number][]][] = [
    ["no weights", meta, []],
    ["a list", [], []],
    ["null", null, []],
    ["too few names", { ...meta, linears: modules }, [[64, 64]]],
    [
      "a name twice",
      { ...meta, linears: [modules[0], modules[0]] },
      [
        [64, 64],
        [64, 64],
      ],
    ],
    ["names that are numbers", { ...meta, linears: [1] }, [[64, 64]]],
    ["vectors that are not there", { ...meta, vectors: [["model.norm.weight", 64]] }, []],
    [
      "vectors of negative size",
      {
        ...meta,
        vectors: [
          ["a", -64],
          ["b", 64],
        ],
      },
      [],
    ],
    ["no summary", { ...meta, summary: null }, []],
    ["sources without times", { ...meta, sources: [{ name: "a", bytes: 1, modified: "x", digest: "" }] }, []],
    ["another shape", { ...meta, linears: [modules[0]] }, [[64, 32]]],
    ["only the embedding", { ...meta, linears: [modules[0]] }, [[64, 64]]],
  ]
  const handles = native.handleCount()
  for (const [what, description, shapes] of cases) {
    rmSync(beside(directory))
    await writePack(beside(directory), JSON.stringify(description), shapes)
    const loaded = await load(directory, { cache: "read" })
    t.same(loaded.logits, logits, what)
    t.match(loaded.warnings, [/packed anew/], what)
  }
  rmSync(beside(directory))
  await writePack(beside(directory), "{")
  t.match((await load(directory)).warnings, [/its description is not JSON; the model is packed anew/])
  t.equal(native.handleCount(), handles)
})

t.test("several that load at once", async t => {
  const directory = smallCheckpoint(t)
  const expected = (await load(directory, {})).logits
  for (const round of ["written", "read"]) {
    const all = await Promise.all(Array.from({ length: 6 }, () => load(directory)))
    for (const { logits, warnings } of all) {
      t.same(logits, expected, round)
      t.same(warnings, [], round)
    }
  }
  t.same(partials(directory), [])
})

t.test("where the file lies", async t => {
  const directory = smallCheckpoint(t)
  const { logits } = await load(directory, {})
  const found = (path: string) =>
    (existsSync(path) ? readdirSync(path) : []).filter(name => name.endsWith(".tsq-cache"))
  const isCached = async (options: LoadOptions) => {
    const loaded = await load(directory, options)
    t.same(loaded.logits, logits)
    return !loaded.stages.includes("cache") && loaded.warnings.length === 0
  }

  const chosen = join(folder(t), "not", "there", "yet")
  t.notOk(await isCached({ cache: true, cacheDir: chosen }))
  t.match(found(chosen), [/^model-[0-9a-f]{16}\.tsq-cache$/])
  t.ok(await isCached({ cache: true, cacheDir: chosen }))
  const link = join(folder(t), "link")
  symlinkSync(directory, link)
  t.notOk((await load(link, { cache: true, cacheDir: chosen })).stages.includes("cache"), "by the folder's real path")
  t.notOk(existsSync(beside(directory)))

  const variable = folder(t)
  process.env.TSQ_CACHE_DIR = variable
  t.teardown(() => delete process.env.TSQ_CACHE_DIR)
  t.notOk(await isCached({ cache: true }))
  t.ok(await isCached({ cache: true }))
  t.equal(found(variable).length, 1)
  delete process.env.TSQ_CACHE_DIR

  // A folder in its place, so that no file can be written there by anybody.
  mkdirSync(join(beside(directory), "full"), { recursive: true })
  const first = await load(directory)
  t.match(first.warnings, [/cannot open .* it is a directory/])
  t.equal(found(join(process.env.XDG_CACHE_HOME!, "tsq-native")).length, 1)
  t.ok(await isCached({ cache: true }), "the user's own, without a word about the other")
})

t.test("rounded on load in several ways: a file each", async t => {
  const directory = smallCheckpoint(t)
  const cacheDir = folder(t)
  const loaded = async (quantize: LoadOptions["quantize"], options: LoadOptions) =>
    load(directory, { ...options, ...(quantize && { quantize }) })
  for (const place of [{ cache: true }, { cache: true, cacheDir }] as const) {
    const results = new Map<LoadOptions["quantize"], Loaded>()
    for (const quantize of ["w8a8", undefined, "w4a16"] as const) {
      const first = await loaded(quantize, place)
      t.ok(first.stages.includes("cache"), `${quantize} is written`)
      t.same(first.warnings, [])
      results.set(quantize, first)
    }
    for (const [quantize, first] of results) {
      const again = await loaded(quantize, place)
      t.notOk(again.stages.includes("cache"), `${quantize} is there`)
      t.same([again.warnings, again.logits], [[], first.logits])
    }
    t.notSame(results.get("w8a8")!.logits, results.get("w4a16")!.logits)
  }
  const names = (path: string) => readdirSync(path).filter(name => name.endsWith("tsq-cache"))
  t.same(names(directory).sort(), [".tsq-cache", ".w4a16.tsq-cache", ".w8a8.tsq-cache"])
  t.match(names(cacheDir).sort(), [
    /^model-[0-9a-f]{16}-w4a16\.tsq/,
    /-w8a8\.tsq-cache$/,
    /^model-[0-9a-f]{16}\.tsq-cache$/,
  ])
})

t.test("no place at all is no error", async t => {
  const directory = smallCheckpoint(t)
  const { logits } = await load(directory, {})
  const file = join(folder(t), "file")
  writeFileSync(file, "")
  const loaded = await load(directory, { cache: true, cacheDir: join(file, "below") })
  t.same(loaded.logits, logits)
  t.match(loaded.warnings, [/the packed weights are not cached: cannot write/])
  t.equal(loaded.warnings.length, 1)
})

/** Without the rights of root, who may write anywhere. */
async function asNobody<T>(work: () => Promise<T>): Promise<T> {
  if (process.geteuid?.() !== 0) return work()
  process.seteuid!(65534)
  try {
    return await work()
  } finally {
    process.seteuid!(0)
  }
}

t.test("a read-only folder", { skip: process.geteuid ? false : "needs the rights of POSIX" }, async t => {
  const directory = smallCheckpoint(t)
  const own = folder(t)
  const before = process.env.XDG_CACHE_HOME
  process.env.XDG_CACHE_HOME = own
  t.teardown(() => {
    process.env.XDG_CACHE_HOME = before
  })
  chmodSync(own, 0o777)
  chmodSync(join(directory, ".."), 0o755)
  chmodSync(directory, 0o555)
  t.teardown(() => chmodSync(directory, 0o755))
  t.same((await asNobody(() => load(directory))).warnings, [])
  t.notOk(existsSync(beside(directory)))
  t.equal(readdirSync(join(own, "tsq-native")).length, 1)
  t.notOk((await asNobody(() => load(directory))).stages.includes("cache"))
})

t.test("what killed processes left is removed, what others write is not", async t => {
  const directory = smallCheckpoint(t)
  const [old, young] = [".tsq-cache.1-0000aaaa.partial", ".tsq-cache.1-0000bbbb.partial"]
  for (const name of [old, young]) writeFileSync(join(directory, name), "")
  utimesSync(join(directory, old), 1, 1)
  await load(directory)
  t.same(partials(directory), [young])
})

t.test("weights that change while they are packed are not cached", async t => {
  const directory = smallCheckpoint(t)
  const onProgress = ({ stage, done }: Progress) => {
    if (stage === "load" && done === 1) utimesSync(join(directory, "config.json"), 1, 2)
  }
  const { warnings } = await load(directory, { cache: true, onProgress })
  t.match(warnings, [/config.json changed while it was loaded; its packed weights are not cached/])
  t.notOk(existsSync(beside(directory)))
})

t.test("a time that a change at once would not move is not relied on", async t => {
  const directory = smallCheckpoint(t)
  utimesSync(join(directory, "config.json"), 1, Math.floor(Date.now() / 1000))
  await load(directory)
  t.notOk(existsSync(beside(directory)))
  utimesSync(join(directory, "config.json"), 1, Math.floor(Date.now() / 1000) - 10)
  await load(directory)
  t.ok(existsSync(beside(directory)))
})

t.test("abort", async t => {
  const directory = smallCheckpoint(t)
  const handles = native.handleCount()
  const aborts = async (when: string) => {
    const controller = new AbortController()
    const onProgress = ({ stage }: Progress) => stage === when && controller.abort(new Error("enough"))
    await t.rejects(loadModel(directory, { cache: true, signal: controller.signal, onProgress }), {
      code: "ERR_ABORTED",
      cause: new Error("enough"),
    })
  }
  await aborts("cache")
  t.notOk(existsSync(beside(directory)))
  t.same(partials(directory), [])
  await load(directory)
  await aborts("load")
  t.equal(native.handleCount(), handles)
  t.same((await load(directory)).warnings, [])
})

t.test("the tokenizer", async t => {
  const directory = smallCheckpoint(t)
  await load(directory)
  const model = await loadModel(directory, { cache: true })
  t.teardown(() => model.dispose())
  const path = join(directory, "tokenizer.json")
  const text = readFileSync(path, "utf8")
  rmSync(path)
  t.equal(model.tokenizer.decode(model.tokenizer.encode("abc")), "abc", "the file may go once the model is loaded")
  await t.rejects(loadModel(directory, { cache: true }), { code: "ERR_FORMAT", message: /has no tokenizer.json/ })
  writeFileSync(path, text.replace('"decoder"', '"decodes"'))
  await t.rejects(loadModel(directory, { cache: true }), {
    code: "ERR_FORMAT",
    message: /does not describe a tokenizer/,
  })
  writeFileSync(path, text)
  const { stages, warnings } = await load(directory)
  t.notOk(stages.includes("cache"), "the weights did not change")
  t.same(warnings, [])
})

t.test("errors of the model itself are not the file's", async t => {
  const directory = smallCheckpoint(t)
  await load(directory)
  const warnings: string[] = []
  const onWarning = (message: string) => warnings.push(message)
  await t.rejects(loadModel(directory, { cache: true, maxContext: 65, onWarning }), {
    code: "ERR_OPTION",
    message: /maxContext is 65/,
  })
  t.same(warnings, [])
  await t.rejects(loadModel(join(directory, "nowhere"), { cache: true, onWarning }), { code: "ERR_IO" })
  t.same(warnings, [])
})
