// The model benchmark: every contender in a process of its own that holds nothing else, asked in turn, so that clock, neighbours and
// pages fall on all alike while only one computes.
import { existsSync, statSync } from "node:fs"
import { readdir, stat } from "node:fs/promises"
import { basename, join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { throwIfAborted } from "../core/errors.ts"
import { setThreads } from "../core/machine.ts"
import { progressReporter } from "../core/progress.ts"
import { native } from "../native.ts"
import { availableMemory, describeMachine, lastLevelCache } from "./machine.ts"
import { WorkFolder } from "./model-files.ts"
import type { Generated, Loaded, LoadLlama, LoadTsq, ProcessMemory } from "./model-messages.ts"
import { type ModelBenchOptions, type ModelPlan, readModelOptions } from "./model-options.ts"
import { ModelProcess, runsCompiled } from "./model-process.ts"
import { type ModelBenchReport, type ModelRow, ratiosOf, type StartTimes } from "./model-results.ts"
import { findPeer, isFound } from "./peers.ts"
import { RoofProbe } from "./roofs.ts"
import { randomWords } from "./samples.ts"
import { linearShapes, type ModelShape } from "./shapes.ts"
import { summarize } from "./statistics.ts"

/** A model in a process, with the ways in which it is asked. */
interface Contender {
  backend: "tsq" | "node-llama-cpp"
  weights: string
  load: LoadTsq | LoadLlama
  activations: ("exact" | "int8")[]
  bytes: number
}

interface Measured {
  loaded: Loaded
  memory: ProcessMemory
  /** By kind of activations. */
  runs: Map<"exact" | "int8", Generated[]>
}

// Between contenders: threads that wait awake for more work give up meanwhile.
const pauseMs = 200
// What a model takes beside its file: while it is loaded, and for what is computed with it.
const memoryPerByte = 2.2

/** Measures. ERR_OPTION, ERR_UNSUPPORTED or ERR_IO for what cannot be asked for; a peer that cannot take part is reported. */
export async function benchModel(model: string | ModelShape, values?: ModelBenchOptions): Promise<ModelBenchReport> {
  const plan = await readModelOptions(model, values)
  const threads = native.threads()
  const work = await WorkFolder.open(plan.workDir)
  try {
    setThreads(plan.threads)
    return await new ModelBench(plan, work).run()
  } finally {
    native.setThreads(threads)
    await work.close()
  }
}

class ModelBench {
  readonly #plan: ModelPlan
  readonly #work: WorkFolder
  readonly #unavailable: ModelBenchReport["unavailable"] = []
  readonly #peers: ModelBenchReport["peers"] = []
  readonly #report: ReturnType<typeof progressReporter>

  constructor(plan: ModelPlan, work: WorkFolder) {
    this.#plan = plan
    this.#work = work
    this.#report = progressReporter(plan.onProgress)
  }

  async run(): Promise<ModelBenchReport> {
    const { shape, directory, promptTokens, newTokens, threads, rounds, starts } = this.#plan
    const machine = await describeMachine()
    const contenders = [await this.#own(), ...(await this.#llama())]
    const started = new Map<Contender, StartTimes[]>()
    if (starts > 0)
      for (const each of contenders)
        await this.#attempt(each, async () => void started.set(each, await this.#starts(each)))
    const probeBytes = Math.max(4 * lastLevelCache(machine), 2 ** 28)
    const probe = await RoofProbe.create({ bytes: Math.min(probeBytes, 2 ** 30), readBytes: 2 ** 27, peakMs: 1 })
    const resident = contenders.reduce((sum, each) => sum + each.bytes, 0) * memoryPerByte < availableMemory() * 0.8
    const reads: number[] = []
    let measured: Map<Contender, Measured>
    try {
      probe.tune()
      measured = await this.#rounds(contenders, resident, () => reads.push(probe.read()))
    } finally {
      probe.dispose()
    }
    const read = summarize(reads)
    const rows = contenders.flatMap(each => {
      const own = measured.get(each)
      return own && !this.#absent(each) ? this.#rows(each, own, started.get(each) ?? [], read.median) : []
    })
    return {
      machine,
      readGBps: read.median,
      model: { name: shape.name, path: directory, synthetic: directory === null, parameters: parametersOf(shape) },
      results: rows,
      ratios: ratiosOf(rows),
      read,
      unavailable: this.#unavailable,
      peers: this.#peers,
      options: { promptTokens, newTokens, threads, rounds, starts, resident, compiled: runsCompiled },
    }
  }

  get #context(): number {
    return this.#plan.promptTokens + this.#plan.newTokens
  }

  async #own(): Promise<Contender> {
    const { shape, directory, scheme, threads, activations, kvCache, signal } = this.#plan
    let path = directory
    let weights = "checkpoint"
    if (path === null) {
      this.#report({ stage: "write", done: 0, total: 1, detail: shape.name })
      path = await this.#work.checkpoint(shape, scheme, signal)
      weights = `w${scheme.bits} g${scheme.groupSize}, head ${scheme.headBits === 16 ? "f16" : `w${scheme.headBits}`}`
    }
    const load: LoadTsq = {
      ...{ kind: "load", engine: "tsq", path, threads, context: this.#context },
      ...{ cache: false, cacheDir: this.#work.cache, kvCache },
    }
    return { backend: "tsq", weights, load, activations, bytes: await weightFiles(path) }
  }

  async #llama(): Promise<Contender[]> {
    const { shape, gguf, ggufTypes, peers, threads, signal } = this.#plan
    if (gguf.length === 0 && ggufTypes.length === 0) return []
    const peer = findPeer("node-llama-cpp", peers)
    if (!isFound(peer)) {
      this.#missing("node-llama-cpp", peer.reason)
      return []
    }
    this.#peers.push({ name: peer.name, version: peer.version })
    const files: [weights: string, path: string][] = gguf.map(path => [basename(path), path])
    if (gguf.length === 0)
      for (const type of ggufTypes) {
        this.#report({ stage: "write", done: 0, total: 1, detail: `${shape.name} ${type}` })
        files.push([type.toUpperCase(), await this.#work.gguf(shape, type, signal)])
      }
    const found: Contender[] = []
    for (const [weights, path] of files) {
      if (!existsSync(path)) {
        this.#missing(`node-llama-cpp ${weights}`, `there is no file ${path}`)
        continue
      }
      const load: LoadLlama = {
        ...{ kind: "load", engine: "node-llama-cpp", path, threads, context: this.#context, entry: peer.entry },
      }
      // llama.cpp rounds activations to 8 bits for every quantized type.
      found.push({ backend: "node-llama-cpp", weights, load, activations: ["int8"], bytes: statSync(path).size })
    }
    return found
  }

  /** What fails in a peer is reported; what fails in this library is an error. */
  async #attempt(contender: Contender, work: () => Promise<void>): Promise<void> {
    if (this.#absent(contender)) return
    try {
      await work()
    } catch (error) {
      throwIfAborted(this.#plan.signal)
      if (contender.backend === "tsq") throw error
      this.#missing(nameOf(contender), error instanceof Error ? error.message : String(error))
    }
  }

  #missing(backend: string, reason: string): void {
    this.#unavailable.push({ backend, reason })
    this.#plan.note(`${backend} was not measured: ${reason}`)
  }

  #absent(contender: Contender): boolean {
    return this.#unavailable.some(({ backend }) => backend === nameOf(contender))
  }

  /** Starts in fresh processes, one after the other, with files in the page cache. */
  async #starts(contender: Contender): Promise<StartTimes[]> {
    const { starts, signal } = this.#plan
    const found: StartTimes[] = []
    const time = async (from: StartTimes["from"], load: LoadTsq | LoadLlama) => {
      const times: Loaded[] = []
      for (let i = 0; i < starts; i++) {
        this.#report({ stage: "start", done: i, total: starts, detail: `${nameOf(contender)}, ${from}` })
        const running = await ModelProcess.start(load, signal)
        times.push(running.loaded)
        await running.end()
      }
      const of = (field: "importMs" | "loadMs") => summarize(times.map(each => each[field]))
      found.push({ from, importMs: of("importMs"), loadMs: of("loadMs") })
    }
    await time("cold", contender.load)
    if (contender.load.engine === "tsq") {
      // The first start writes the file.
      const writer = await ModelProcess.start({ ...contender.load, cache: true }, signal)
      await writer.end()
      if (existsSync(contender.load.cacheDir) && (await readdir(contender.load.cacheDir)).length > 0)
        await time("cache", { ...contender.load, cache: "read" })
      else this.#plan.note("no cache file was written: starts from one were not measured")
    }
    return found
  }

  async #rounds(
    contenders: readonly Contender[],
    resident: boolean,
    readMemory: () => void,
  ): Promise<Map<Contender, Measured>> {
    const { rounds, signal } = this.#plan
    const running = new Map<Contender, ModelProcess>()
    const measured = new Map<Contender, Measured>()
    try {
      for (let round = 0; round < rounds; round++) {
        throwIfAborted(signal)
        for (const contender of contenders)
          await this.#attempt(contender, async () => {
            this.#report({ stage: "bench", done: round, total: rounds, detail: nameOf(contender) })
            let process = running.get(contender)
            if (!process) {
              process = await ModelProcess.start(contender.load, signal)
              running.set(contender, process)
              // The whole prompt once: memory for as many rows is there afterwards.
              const prompt = this.#prompt(rounds)
              for (const activations of contender.activations)
                await process.generate({ prompt, newTokens: 2, activations })
            }
            const own = measured.get(contender) ?? emptyMeasurement(process.loaded)
            measured.set(contender, own)
            for (const activations of contender.activations) {
              await sleep(pauseMs)
              readMemory()
              const prompt = this.#prompt(round)
              const run = await process.generate({ prompt, newTokens: this.#plan.newTokens, activations })
              own.runs.set(activations, [...(own.runs.get(activations) ?? []), run])
            }
            own.memory = await process.memory()
            if (!resident) {
              running.delete(contender)
              await process.end()
            }
          })
      }
      return measured
    } finally {
      for (const process of running.values()) await process.end()
    }
  }

  /** Random token ids, the same for every contender of a round; the last two of a made-up vocabulary are special. */
  #prompt(round: number): number[] {
    const next = randomWords(round + 1)
    const ordinary = this.#plan.shape.vocabulary - 2
    return Array.from({ length: this.#plan.promptTokens }, () => next() % ordinary)
  }

  #rows(contender: Contender, { loaded, memory, runs }: Measured, starts: StartTimes[], readGBps: number): ModelRow[] {
    const { shape, promptTokens, newTokens, threads } = this.#plan
    const { weightBytes, bitsPerWeight, kvCache, isa } = loaded
    return [...runs].map(([activations, list]) => {
      const prefill = summarize(list.map(({ firstMs }) => (promptTokens * 1000) / firstMs))
      const decode = summarize(list.map(({ restMs, tokens }) => ((tokens - 1) * 1000) / restMs))
      const decodeGBps = weightBytes === null ? null : (weightBytes * decode.median) / 1e9
      return {
        ...{ backend: contender.backend, weights: contender.weights, activations },
        ...{ isa, threads, promptTokens, newTokens, prefill, decode },
        firstTokenMs: summarize(list.map(({ firstMs }) => firstMs)),
        prefillGflops: (2 * weightsOfBlocks(shape) * prefill.median) / 1e9,
        ...{ weightBytes, decodeGBps },
        percentOfRoof: decodeGBps === null ? null : (100 * decodeGBps) / readGBps,
        ...{ bitsPerWeight, kvCache },
        ...memory,
        starts,
      }
    })
  }
}

const nameOf = ({ backend, weights }: Contender): string => `${backend} ${weights}`

const emptyMeasurement = (loaded: Loaded): Measured => ({
  loaded,
  memory: { residentBytes: 0, peakBytes: 0 },
  runs: new Map(),
})

/** Weights of all linears but the head. */
const weightsOfBlocks = (shape: ModelShape): number =>
  linearShapes(shape).reduce((sum, { k, n, count }) => sum + k * n * count, 0) - shape.hidden * shape.vocabulary

const parametersOf = (shape: ModelShape): number =>
  weightsOfBlocks(shape) + shape.hidden * shape.vocabulary * (shape.tied ? 1 : 2)

/** Bytes of a checkpoint's weight files. */
async function weightFiles(directory: string): Promise<number> {
  let bytes = 0
  for (const name of await readdir(directory))
    if (name.endsWith(".safetensors")) bytes += (await stat(join(directory, name))).size
  return bytes
}
