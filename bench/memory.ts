// Peak of anonymous memory while a checkpoint of Llama-3.2-1B's shape is quantized with nearest and with GPTQ, each in a process of
// its own whose /proc/<pid>/status is polled. Linux only. Options: --layers N (default 16), --keep DIR (do not make the checkpoint anew).
import { spawn } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { mkdir, mkdtemp, open, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { smallestVocabulary, syntheticVocabulary, tokenizerFiles } from "../lib/bench/synthetic-tokenizer.ts"
import { planQuantization, type QuantizeModelOptions, quantizeModel } from "../lib/quantize/quantize-model.ts"
import { table } from "../lib/report/tables.ts"

const limitOfNearest = 1.5e9

/** Of no use here but that a checkpoint has one: the smallest takes no memory that would be measured. */
const tokenizer = syntheticVocabulary(smallestVocabulary)

/** Uniform 32-bit numbers, a function of the seed (xorshift). */
function generator(seed: number): () => number {
  let state = seed | 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state
  }
}

function llamaConfig(layers: number) {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    torch_dtype: "bfloat16",
    hidden_size: 2048,
    intermediate_size: 8192,
    num_hidden_layers: layers,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 64,
    vocab_size: 128256,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-5,
    rope_theta: 500000,
    tie_word_embeddings: true,
    bos_token_id: tokenizer.beginId,
    eos_token_id: tokenizer.endId,
  }
}

function shapes(config: ReturnType<typeof llamaConfig>): [name: string, shape: number[]][] {
  const { hidden_size: d, intermediate_size: f, num_key_value_heads, head_dim, vocab_size, num_hidden_layers } = config
  const kv = num_key_value_heads * head_dim
  const list: [string, number[]][] = [["model.embed_tokens.weight", [vocab_size, d]]]
  for (let layer = 0; layer < num_hidden_layers; layer++)
    for (const [name, shape] of [
      ["input_layernorm", [d]],
      ["self_attn.q_proj", [d, d]],
      ["self_attn.k_proj", [kv, d]],
      ["self_attn.v_proj", [kv, d]],
      ["self_attn.o_proj", [d, d]],
      ["post_attention_layernorm", [d]],
      ["mlp.gate_proj", [f, d]],
      ["mlp.up_proj", [f, d]],
      ["mlp.down_proj", [d, f]],
    ] as [string, number[]][])
      list.push([`model.layers.${layer}.${name}.weight`, shape])
  list.push(["model.norm.weight", [d]])
  return list
}

/** Streams the checkpoint to disk: norms of ones, other weights uniform in ±0.02, and a tokenizer. */
async function writeModel(directory: string, layers: number): Promise<void> {
  await mkdir(directory, { recursive: true })
  const config = llamaConfig(layers)
  const list = shapes(config)
  let offset = 0
  const header: Record<string, unknown> = {}
  for (const [name, shape] of list) {
    const bytes = 2 * shape.reduce((a, b) => a * b, 1)
    header[name] = { dtype: "BF16", shape, data_offsets: [offset, offset + bytes] }
    offset += bytes
  }
  let text = JSON.stringify(header)
  text += " ".repeat((8 - (text.length % 8)) % 8)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  const file = await open(join(directory, "model.safetensors"), "w")
  await file.write(Buffer.concat([length, Buffer.from(text)]))
  const next = generator(1)
  const floats = new Float32Array(1 << 20)
  const bits = new Uint32Array(floats.buffer)
  const stored = new Uint16Array(floats.length)
  for (const [name, shape] of list) {
    let left = shape.reduce((a, b) => a * b, 1)
    while (left > 0) {
      const count = Math.min(left, stored.length)
      if (name.includes("norm")) stored.fill(0x3f80, 0, count)
      else
        for (let i = 0; i < count; i++) {
          floats[i] = next() * (0.02 / 2 ** 31)
          stored[i] = bits[i]! >>> 16
        }
      await file.write(new Uint8Array(stored.buffer, 0, count * 2))
      left -= count
    }
  }
  await file.close()
  for (const [name, value] of Object.entries({ ...tokenizerFiles(tokenizer), "config.json": config }))
    await writeFile(join(directory, name), JSON.stringify(value))
}

interface Run {
  name: string
  options: QuantizeModelOptions
}

/** 8 samples of 512 random token ids. */
function runs(): Run[] {
  const next = generator(7)
  const calibration = Int32Array.from({ length: 8 * 512 }, () => (next() >>> 0) % 128256)
  return [
    { name: "nearest", options: { preset: "rtn" } },
    {
      name: "gptq",
      options: { preset: "gptq", calibration: Array.from(calibration), samples: 8, sequenceLength: 512, force: true },
    },
  ]
}

/** Anonymous and shared memory of a process now, in bytes; 0 once it is gone. */
function anonymousBytes(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8")
    const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? 0) * 1024
    return field("RssAnon") + field("RssShmem")
  } catch {
    return 0
  }
}

interface Measured {
  name: string
  peak: number
  seconds: number
  stages: string
  limit: number
  failed: boolean
}

async function measure(run: Run, index: number, source: string, out: string): Promise<Measured> {
  const { plan } = await planQuantization(source, run.options)
  const started = performance.now()
  const child = spawn(
    process.execPath,
    ["--import", "tsx", fileURLToPath(import.meta.url), "--child", String(index), source, out],
    {
      stdio: ["ignore", "pipe", "inherit"],
    },
  )
  let peak = 0
  let stage = "start"
  let text = ""
  const peaks = new Map<string, { peak: number; begin: number; end: number }>()
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk
    const lines = text.split("\n")
    text = lines.pop()!
    for (const line of lines) stage = line
  })
  const poll = setInterval(() => {
    const bytes = anonymousBytes(child.pid!)
    peak = Math.max(peak, bytes)
    const now = performance.now()
    const entry = peaks.get(stage) ?? { peak: 0, begin: now, end: now }
    peaks.set(stage, { ...entry, peak: Math.max(entry.peak, bytes), end: now })
  }, 10)
  const code = await new Promise<number | null>(resolve => child.on("close", resolve))
  clearInterval(poll)
  const stages = [...peaks].map(
    ([name, { peak, begin, end }]) => `${name} ${(peak / 1e6).toFixed(0)} MB ${((end - begin) / 1000).toFixed(1)} s`,
  )
  console.error(`${run.name}: estimate ${describe(plan.memoryParts)}`)
  return {
    name: run.name,
    peak,
    seconds: (performance.now() - started) / 1000,
    stages: stages.join(", "),
    limit: run.name === "nearest" ? Math.min(limitOfNearest, plan.peakMemory) : plan.peakMemory,
    failed: code !== 0,
  }
}

const describe = (parts: Record<string, number>) =>
  Object.entries(parts)
    .map(([name, bytes]) => `${name} ${(bytes / 1e6).toFixed(0)} MB`)
    .join(", ")

async function child(index: number, source: string, out: string): Promise<void> {
  let last = ""
  const onProgress: QuantizeModelOptions["onProgress"] = ({ stage }) => {
    if (stage !== last) process.stdout.write(`${stage}\n`)
    last = stage
  }
  await quantizeModel(source, out, { ...runs()[index]!.options, onProgress, force: true })
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    options: {
      layers: { type: "string", default: "16" },
      keep: { type: "string" },
      child: { type: "boolean" },
      only: { type: "string" },
    },
    allowPositionals: true,
  })
  if (values.child) return child(Number(positionals[0]), positionals[1]!, positionals[2]!)
  const directory = values.keep ?? (await mkdtemp(join(tmpdir(), "tsq-memory-")))
  const source = join(directory, "model")
  try {
    if (!existsSync(join(source, "config.json"))) await writeModel(source, Number(values.layers))
    const measured: Measured[] = []
    for (const [index, run] of runs().entries())
      if (values.only === undefined || values.only === run.name)
        measured.push(await measure(run, index, source, join(directory, run.name)))
    const mb = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`
    console.log(
      table(
        ["run", "peak anonymous", "limit", "seconds", "by stage"],
        ["left", "right", "right", "right", "left"],
        measured.map(({ name, peak, limit, seconds, stages }) => [
          name,
          mb(peak),
          mb(limit),
          seconds.toFixed(1),
          stages,
        ]),
      ),
    )
    if (measured.some(({ peak, limit, failed }) => failed || peak > limit)) process.exitCode = 1
  } finally {
    if (values.keep === undefined) await rm(directory, { recursive: true, force: true })
  }
}

await main()
