// `tsq bench kernels` and `tsq bench model`.
import { type Command, InvalidArgumentError, Option } from "commander"
import type { Device } from "../core/cuda.ts"
import { TsqError } from "../core/errors.ts"
import { parseKvCache } from "../models/kv-cache.ts"
import {
  byteSize,
  collect,
  integer,
  interruptible,
  positive,
  real,
  refuseLater,
  type SharedFlags,
} from "./arguments.ts"
import { print, printJson, writePage } from "./output.ts"
import { showProgress } from "./progress.ts"

interface KernelFlags extends Pick<SharedFlags, "device" | "json"> {
  activations?: "exact" | "int8"
  shapes?: string[]
  m?: number[]
  bits?: number
  group?: number
  threads?: number[]
  isa?: string[]
  backends?: string[]
  dtype?: string[]
  rounds?: number
  seconds?: number
  copiesBytes?: number
  peers?: string
  html?: string
}

/** "a,b" as its parts. */
function words(text: string): string[] {
  const list = text.split(",").map(word => word.trim())
  if (list.some(word => word === "")) throw new InvalidArgumentError("expected a list separated by commas")
  return list
}

const numbers = (text: string): number[] => words(text).map(positive)

export function addBench(program: Command): void {
  const bench = program.command("bench").description("compare kernels and models in tokens per second")
  addKernels(bench)
  addModel(bench)
}

function addKernels(bench: Command): void {
  bench
    .command("kernels")
    .description("products with the matrices of real models: ours, onnxruntime's, and what the machine allows")
    .option("--shapes <list>", "names of models or K×N, e.g. llama-3.2-1b,4096x14336", words)
    .option("--m <list>", "rows of activations (default 1,4,16,64,512)", numbers)
    .option("--bits <n>", "of the weights (default 4)", positive)
    .option("--group <n>", "columns that share a scale (default 128)", positive)
    .option("--threads <list>", "numbers of threads (default: all CPUs of this process)", numbers)
    .option("--isa <list>", "instruction sets of our kernels, e.g. avx2,avx512 (default: the best)", words)
    .option("--backends <list>", "tsq, tsq-int8, tsq-unfused, tsq-f32, …, ort-acc4-b128, ort or all", words)
    .option("--dtype <list>", "types of activations: f32, f16, bf16 (default bf16,f32)", words)
    .addOption(new Option("--activations <kind>", "only backends with these").choices(["exact", "int8"]))
    .option("--rounds <n>", "interleaved rounds (default 11)", positive)
    .option("--seconds <s>", "measured time of a backend in a cell (default 0.5)", real)
    .option(
      "--copies-bytes <size>",
      "weights that few rows rotate over (default: twice the last-level cache)",
      byteSize,
    )
    .option("--device <name>", "cpu, cuda or cuda:1: products on a CUDA device, timed there", "cpu")
    .option("--peers <folder>", "where onnxruntime-node is installed (default bench/peers)")
    .option("--html <file>", "also write a page with plots")
    .option("--json", "one JSON object on stdout")
    .action(async (flags: KernelFlags) => {
      if (flags.device !== undefined && flags.device !== "cpu") return deviceKernels(flags, flags.device)
      const { benchKernels } = await import("../bench/kernels.ts")
      const progress = showProgress()
      const interrupt = interruptible()
      try {
        const report = await benchKernels({
          ...defined({
            shapes: flags.shapes,
            m: flags.m,
            bits: flags.bits,
            groupSize: flags.group,
            threads: flags.threads,
            isa: flags.isa,
            backends: flags.backends,
            dtypes: flags.dtype,
            activations: flags.activations,
            rounds: flags.rounds,
            seconds: flags.seconds,
            copiesBytes: flags.copiesBytes,
            peers: flags.peers,
          }),
          signal: interrupt.signal,
          onProgress: progress.onProgress,
          onNote: progress.note,
        })
        progress.stop()
        if (flags.html !== undefined) {
          const { kernelPage } = await import("../bench/kernel-page.ts")
          await writePage(flags.html, kernelPage(report))
        }
        if (flags.json) return printJson(report)
        const { kernelText } = await import("../bench/kernel-table.ts")
        print(kernelText(report))
      } finally {
        progress.stop()
        interrupt.done()
      }
    })
}

const cpuOnly = ["bits", "threads", "isa", "activations", "seconds", "peers"] as const

async function deviceKernels(flags: KernelFlags, device: string): Promise<void> {
  for (const name of cpuOnly)
    if (flags[name] !== undefined)
      throw new TsqError(
        "ERR_OPTION",
        `--${name} is for the CPU; on a CUDA device --backends chooses the weights and --rounds how often they are timed`,
      )
  const { benchDevice } = await import("../bench/device-kernels.ts")
  const progress = showProgress()
  const interrupt = interruptible()
  try {
    const report = await benchDevice({
      device: device as Device,
      ...defined({
        shapes: flags.shapes,
        m: flags.m,
        groupSize: flags.group,
        backends: flags.backends,
        dtypes: flags.dtype,
        rounds: flags.rounds,
        copiesBytes: flags.copiesBytes,
      }),
      signal: interrupt.signal,
      onProgress: progress.onProgress,
      onNote: progress.note,
    })
    progress.stop()
    const { devicePage, deviceText } = await import("../bench/device-table.ts")
    if (flags.html !== undefined) await writePage(flags.html, devicePage(report))
    if (flags.json) return printJson(report)
    print(deviceText(report))
  } finally {
    progress.stop()
    interrupt.done()
  }
}

interface ModelFlags extends Pick<SharedFlags, "device" | "kvCache" | "json"> {
  promptTokens?: number
  newTokens?: number
  threads?: number
  activations?: "exact" | "int8" | "both"
  bits?: number
  group?: number
  headBits?: number
  rounds?: number
  starts?: number
  gguf?: string[]
  ggufType?: string[]
  peers?: string
  workDir?: string
  html?: string
}

function addModel(bench: Command): void {
  bench
    .command("model")
    .description("prefill, decoding, memory and start of whole models: ours and llama.cpp's from Node")
    .argument("<model>", "folder of a checkpoint, or a model's name (llama-3.2-1b …) for random weights of its shape")
    .option("--prompt-tokens <n>", "random tokens of the prompt (default 512)", positive)
    .option("--new-tokens <n>", "tokens generated after it, the end of text ignored (default 128)", positive)
    .option("--threads <n>", "of every contender (default: all CPUs of this process)", positive)
    .addOption(new Option("--activations <kind>", "ours (default both)").choices(["exact", "int8", "both"]))
    .option("--kv-cache <type>", "our keys and values (default f32), as of generate; llama.cpp keeps its own f16")
    .option("--bits <n>", "random weights: bits of linears (default 4)", positive)
    .option("--group <n>", "random weights: columns that share a scale (default 128)", positive)
    .option("--head-bits <n>", "random weights: embedding and head in 8, 4 or 16 bits (default 8)", positive)
    .option("--rounds <n>", "interleaved rounds (default 5)", positive)
    .option("--starts <n>", "fresh processes whose start is timed (default 3)", integer)
    .option(
      "--gguf <file>",
      "what node-llama-cpp runs; may be repeated (default: files of the shape, made up)",
      collect,
    )
    .option("--gguf-type <list>", "of files made up: q4_0,q4_k_m (default both)", words)
    .option("--device <name>", "cpu or cuda", "cpu")
    .option("--peers <folder>", "where node-llama-cpp is installed (default bench/peers)")
    .option("--work-dir <folder>", "keeps files that are made up (default: a temporary folder)")
    .option("--html <file>", "also write a page with plots")
    .option("--json", "one JSON object on stdout")
    .action(async (model: string, flags: ModelFlags) => {
      refuseLater({ ...(flags.device !== undefined && { device: flags.device }) })
      const { benchModel } = await import("../bench/models.ts")
      const progress = showProgress()
      const interrupt = interruptible()
      try {
        const report = await benchModel(model, {
          ...defined({
            promptTokens: flags.promptTokens,
            newTokens: flags.newTokens,
            threads: flags.threads,
            activations: flags.activations,
            kvCache: flags.kvCache === undefined ? undefined : parseKvCache(flags.kvCache),
            bits: flags.bits,
            groupSize: flags.group,
            headBits: flags.headBits,
            rounds: flags.rounds,
            starts: flags.starts,
            gguf: flags.gguf,
            ggufTypes: flags.ggufType,
            peers: flags.peers,
            workDir: flags.workDir,
          }),
          signal: interrupt.signal,
          onProgress: progress.onProgress,
          onNote: progress.note,
        })
        progress.stop()
        if (flags.html !== undefined) {
          const { modelPage } = await import("../bench/model-page.ts")
          await writePage(flags.html, modelPage(report))
        }
        if (flags.json) return printJson(report)
        const { modelText } = await import("../bench/model-table.ts")
        print(modelText(report))
      } finally {
        progress.stop()
        interrupt.done()
      }
    })
}

/** Flags that were given. */
function defined<T extends object>(flags: T): { [Key in keyof T]?: Exclude<T[Key], undefined> } {
  return Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined)) as never
}
