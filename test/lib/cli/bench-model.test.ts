// `tsq bench model`: flags, what it prints and writes, refusals.
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { writeSyntheticCheckpoint } from "../../../lib/bench/synthetic-checkpoint.ts"
import { inProcess, onlyJson, tsq } from "./support.ts"

t.test("a checkpoint, as one JSON object and as a page", async t => {
  const folder = t.testdir()
  const [model, html] = [join(folder, "model"), join(folder, "model.html")]
  await writeSyntheticCheckpoint(
    model,
    {
      ...{
        name: "tiny",
        modelType: "llama",
        hidden: 64,
        intermediate: 64,
        layers: 1,
        heads: 2,
        kvHeads: 1,
        headDim: 32,
      },
      ...{ vocabulary: 260, tied: true, ropeTheta: 10000, rmsNormEps: 1e-5 },
    },
    { bits: 4, groupSize: 32, headBits: 8 },
  )
  const small = ["--prompt-tokens", "4", "--new-tokens", "3", "--threads", "1", "--rounds", "1", "--starts", "0"]
  const missing = ["--gguf", join(folder, "a.gguf"), "--gguf", join(folder, "b.gguf")]
  const cached = ["--kv-cache", "keys=int8,values=int4,rotate=off"]
  const result = await tsq("bench", "model", model, ...small, ...missing, ...cached, "--html", html, "--json")
  t.equal(result.code, 0, result.stderr)
  const report = onlyJson(result)
  t.match(report, {
    machine: { node: process.version },
    model: { name: "model", synthetic: false },
    options: { promptTokens: 4, newTokens: 3, threads: 1, rounds: 1, starts: 0 },
    results: [{ activations: "exact", kvCache: /^keys int8, values int4, first 16/ }, { activations: "int8" }],
  })
  // Each file, or the peer itself where it is not installed.
  t.match(result.stderr, /node-llama-cpp( a\.gguf)? was not measured: /)
  t.match(readFileSync(html, "utf8"), /^<!doctype html>.*Model benchmark: model.*<\/html>\n$/s)
  t.notOk(existsSync(join(model, ".tsq-cache")), "nothing is written into a checkpoint's folder")
})

t.test("refusals", async t => {
  t.match(await inProcess("bench", "model"), { code: 2, stderr: /missing required argument/ })
  t.match(await inProcess("bench", "model", "llama-4"), { stderr: /no model is called "llama-4"/ })
  t.match(await inProcess("bench", "model", "llama-3.2-1b", "--activations", "none"), { code: 2 })
  t.match(await inProcess("bench", "model", "llama-3.2-1b", "--kv-cache", "int9"), { code: 1, stderr: /"int8", "fp8"/ })
  t.match(await inProcess("bench", "model", "llama-3.2-1b", "--gguf-type", "q5_0"), { stderr: /"q4_0" or "q4_k_m"/ })
  t.match(await inProcess("bench", "model", "llama-3.2-1b", "--device", "cuda"), { stderr: /cuda/ })
})
