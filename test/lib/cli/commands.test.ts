// Every command of `tsq`: what it prints, the fields of its JSON, exit codes.
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { packageVersion } from "../../../lib/core/version.ts"
import { vector } from "../containers/support.ts"
import { fable, fableCalibration, fableEvaluation, folder } from "../quantize/support.ts"
import { onlyJson, tsq } from "./support.ts"

const directory = folder(t)
const text = join(directory, "text.txt")
writeFileSync(text, readFileSync(fableEvaluation, "utf8").slice(0, 9000))
const quantized = join(directory, "quantized")

t.test("quantize", async t => {
  const result = await tsq(
    "quantize",
    fable,
    quantized,
    "--preset",
    "gptq",
    "--calibration",
    fableCalibration,
    "--samples",
    "4",
    "--json",
  )
  t.equal(result.code, 0, result.stderr)
  const report = onlyJson(result)
  t.match(report, {
    out: quantized,
    architecture: "llama",
    bitsPerWeight: 4.125,
    calibration: { windows: 4, asked: 4, sequenceLength: 512 },
  })
  t.equal((report.tensors as unknown[]).length, 42)
  t.match(result.stderr, /w4a16, group 128, symmetric, gptq, format gptq/)
  t.match(result.stderr, /42 of 43 matrices at 4\.125 bits per weight: 10\.5 MB to about 3\.49 MB/)
  t.match(result.stderr, /calibration: 4 windows of 512 tokens \(asked for 4\)/)
  t.match(result.stderr, /memory: up to about .*\(runtime /)
  t.ok(existsSync(join(quantized, "model.safetensors")))

  const again = await tsq("quantize", fable, quantized)
  t.match(again, { code: 1, stdout: "" })
  t.match(again.stderr, /^ERR_OPTION: .*exists already.*--force$/m)
})

t.test("quantize: every flag, and a plan in words", async t => {
  const flags = [
    ...["--scheme", "w8a16", "--group-size", "channel", "--asymmetric", "--rounding", "mse", "--transform", "awq"],
    ...[
      "--format",
      "compressed-tensors",
      "--calibration",
      fableCalibration,
      "--samples",
      "3",
      "--kv-cache",
      "fp8",
      "--sequence-length",
      "100",
    ],
    ...[
      "--ignore",
      "q_proj",
      "--ignore",
      "*.o_proj",
      "--override",
      "v_proj=w6a16",
      "--override",
      "model.layers.0.*=none",
    ],
    ...["--seed", "7", "--device", "cpu", "--threads", "1", "--max-memory", "2GB", "--strict", "--force", "--resume"],
  ]
  const out = join(directory, "planned")
  const planned = onlyJson(await tsq("quantize", fable, out, ...flags, "--plan", "--json"))
  t.match(planned.recipe, {
    ...{
      scheme: "w8a16",
      groupSize: "channel",
      symmetric: false,
      rounding: "mse",
      transforms: ["awq"],
      format: "compressed-tensors",
    },
    ...{ kvCache: "fp8", samples: 3, sequenceLength: 100, seed: 7, ignore: ["q_proj", "*.o_proj"] },
    overrides: [
      { pattern: "v_proj", scheme: "w6a16" },
      { pattern: "model.layers.0.*", scheme: "none" },
    ],
  })
  const words = await tsq("quantize", fable, out, ...flags, "--plan")
  t.equal(words.code, 0)
  t.match(words.stderr, /format compressed-tensors, scales of keys and values in fp8\n/)
  t.match(words.stdout, /model\.layers\.1\.self_attn\.v_proj\s+128×256\s+6 bit, group 256, asymmetric/)
  t.match(words.stdout, /model\.layers\.1\.self_attn\.q_proj\s+256×256\s+left alone: ignored by option/)
  const awq = ["--preset", "awq", "--symmetric", "--calibration", fableCalibration]
  const plain = await tsq("quantize", fable, out, ...awq, "--plan")
  t.match(plain.stdout, /q_proj\s+256×256\s+4 bit, group 128, symmetric/, "a preset that is asymmetric by itself")
  t.notOk(existsSync(out))
})

t.test("evaluate", async t => {
  const args = ["evaluate", quantized, "--text", text, "--window", "128", "--stride", "64", "--against", fable]
  const found = onlyJson(await tsq(...args, "--json"))
  t.match(found, {
    model: quantized,
    protocol: "gptq",
    window: 128,
    stride: 64,
    bitsPerWeight: 4.125,
    activations: "exact",
    against: { model: fable },
  })
  for (const name of ["tokenCount", "nll", "perplexity"]) t.type(found[name], "number", name)
  for (const name of ["perplexity", "klMean", "klMedian", "klP99", "klMax", "topAgreement"])
    t.type((found.against as Record<string, unknown>)[name], "number", name)
  const onLoad = ["evaluate", fable, ...args.slice(2)]
  t.match(onlyJson(await tsq(...onLoad, "--quantize", "w8a8", "--json")), {
    activations: "scheme",
    bitsPerWeight: /^8\./,
  })
  t.equal((onlyJson(await tsq(...onLoad, "--json")).against as { klMax: number }).klMax, 0)
  const rounded = onlyJson(await tsq(...args, "--activations", "int8", "--json"))
  t.equal(rounded.activations, "int8")
  t.not(rounded.nll, found.nll)
  t.ok(Math.abs((rounded.nll as number) - (found.nll as number)) < 0.1)
  const words = await tsq("evaluate", fable, "--text", text, "--window", "128", "--protocol", "llama.cpp")
  t.match(
    words.stdout,
    /^perplexity \d\.\d{4} ± \d\.\d{4} over \d+ tokens \(llama\.cpp, window 128\), \d\.\d{4} bits per byte, \d\.\d{4} per character\n$/,
  )
  const page = join(directory, "evaluation.html")
  const compared = await tsq(...args, "--layers", "--html", page)
  t.equal(compared.code, 0, compared.stderr)
  for (const line of [
    /^ratio 1\.0\d+ ± \d\.\d+, difference/m,
    /^KL \d\.\d+e-\d ± /m,
    /^99\.9 % +\d/m,
    /^layer +relative squared error\n +0 +\d/m,
  ])
    t.match(compared.stdout, line)
  t.match(readFileSync(page, "utf8"), /<svg .*Error of the residual stream/s)
})

t.test("generate", async t => {
  const args = ["generate", quantized, "--prompt", "Once upon a time", "--max-tokens", "8", "--temperature", "0"]
  const result = onlyJson(await tsq(...args, "--json"))
  t.strictSame(Object.keys(result), [
    "text",
    "tokens",
    "promptTokens",
    "newTokens",
    "prefillTokensPerSecond",
    "decodeTokensPerSecond",
    "activations",
  ])
  t.equal((result.tokens as number[]).length, result.newTokens)
  t.equal(result.activations, "exact")
  t.equal(onlyJson(await tsq(...args, "--activations", "int8", "--json")).activations, "int8")
  const rounded = ["generate", fable, ...args.slice(2), "--quantize", "w4a16"]
  t.not(onlyJson(await tsq(...rounded, "--json")).text, "")
  t.match(await tsq(...rounded.slice(0, -1), "w9a9"), {
    code: 1,
    stderr: /^ERR_OPTION: loadModel: .*quantize.* is "w9a9", expected "w8a8", .* or "fp4"/,
  })
  const words = await tsq(...args)
  t.equal(words.stdout, `${result.text}\n`)
  t.match(words.stderr, /8 new at [\d.]+\/s/)
  const seeded = [
    "generate",
    fable,
    "--prompt",
    "The fox",
    "--max-tokens",
    "6",
    "--temperature",
    "1",
    "--top-k",
    "40",
    "--top-p",
    "0.9",
    "--seed",
    "5",
  ]
  t.equal((await tsq(...seeded)).stdout, (await tsq(...seeded, "--threads", "1")).stdout)
})

t.test("convert and inspect", async t => {
  const out = join(directory, "converted")
  t.match(onlyJson(await tsq("convert", quantized, out, "--format", "compressed-tensors", "--json")), {
    ...{ from: "gptq", to: "compressed-tensors", modules: 42 },
    totalBytes: Number,
  })
  const found = onlyJson(await tsq("inspect", out, "--context", "100", "--batch", "2", "--json"))
  const fields = [
    "architecture",
    "parameters",
    "format",
    "scheme",
    "bitsPerWeight",
    "fileBitsPerWeight",
    "weightBytes",
    "kvCacheBytes",
    "tensors",
  ]
  for (const name of fields) t.ok(name in found, name)
  for (const tensor of found.tensors as object[])
    t.strictSame(Object.keys(tensor).sort(), ["bytes", "dtype", "name", "scheme", "shape"])
  const words = await tsq("inspect", out)
  t.match(words.stdout, /llama, 5\.2 million parameters/)
  t.match(words.stdout, /format compressed-tensors, w4a16 g128 symmetric/)
  t.match(words.stdout, /model\.layers\.5\.mlp\.up_proj +768×256 +w4a16 g128 symmetric +101,392/)
})

t.test("inspect a GGUF file", async t => {
  const gguf = join(folder(t), "x.gguf")
  writeFileSync(gguf, Buffer.from(vector("gguf-file").file, "hex"))
  const file = await tsq("inspect", gguf)
  t.match(file.stdout, /^llama, 0\.0 million parameters, .*\nformat gguf, Q4_0\n4\.500 bits per weight/)
  t.match(file.stdout, /^llama\.block_count +u32 +1$/m)
  t.match(file.stdout, /^output\.weight +2×32 +Q4_0 +36$/m)
  t.notMatch(file.stdout, /KV cache/)
  t.match(onlyJson(await tsq("inspect", gguf, "--json")), { format: "gguf", metadata: Array })
})

t.test("devices", async t => {
  const report = onlyJson(await tsq("devices", "--json"))
  t.match(report, {
    devices: [{ id: "cpu", kernels: String, threads: Number }],
    cuda: { available: Boolean },
  })
  t.match((await tsq("devices")).stdout, /^cpu {2}.*\n {5}kernels .*\ncuda(:0 {2}| not available: )/)
})

t.test("help and version", async t => {
  t.match(await tsq("--version"), { code: 0, stdout: `${packageVersion}\n`, stderr: "" })
  const help = await tsq("--help")
  t.equal(help.code, 0)
  for (const name of ["quantize", "evaluate", "generate", "convert", "inspect", "devices", "bench", "serve"])
    t.match(help.stdout, name)
  t.match((await tsq("quantize", "--help")).stdout, "--max-memory")
})
