// Models in llama.cpp, through node-llama-cpp: greedy continuations, and what it says of every position of given windows.
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { type FoundPeer, importPeer, type MissingPeer } from "../../lib/bench/peers.ts"

/** The part of node-llama-cpp that is used. */
interface LlamaModule {
  getLlama(options: Record<string, unknown>): Promise<Llama>
}
interface Llama {
  loadModel(options: { modelPath: string }): Promise<LlamaModel>
  dispose(): Promise<void>
}
interface LlamaModel {
  createContext(options: Record<string, unknown>): Promise<{ getSequence(): LlamaSequence }>
  dispose(): Promise<void>
}
interface LlamaSequence {
  clearHistory(): Promise<void>
  evaluate(tokens: readonly number[], options: Record<string, unknown>): AsyncGenerator<number, void, void>
  controlledEvaluate(input: readonly [number, { generateNext: object }][]): Promise<(Output | undefined)[]>
}
interface Output {
  next: { logits: Map<number, number>; totalLogitWeight: number }
}

/** What a model says at a position about the token that follows. */
export interface Positions {
  /** Most probable token. */
  top: Int32Array
  /** Negative log-likelihood of the token that does follow, in nats; NaN at a window's last position. */
  nll: Float64Array
}

export class LlamaEngine {
  readonly #llama: Llama
  readonly #threads: number
  /** Of node-llama-cpp, and of the llama.cpp in it. */
  readonly version: string

  private constructor(llama: Llama, threads: number, version: string) {
    this.#llama = llama
    this.#threads = threads
    this.version = version
  }

  static async start(peer: FoundPeer, threads: number): Promise<LlamaEngine | MissingPeer> {
    const module = await importPeer<LlamaModule>(peer)
    if ("reason" in module) return module
    const llama = await module.getLlama({
      ...{
        gpu: false,
        build: "never",
        skipDownload: true,
        progressLogs: false,
        logLevel: "error",
        maxThreads: threads,
      },
    })
    const info = join(peer.directory, "llama/binariesGithubRelease.json")
    const { release = "unknown" } = existsSync(info)
      ? (JSON.parse(readFileSync(info, "utf8")) as { release?: string })
      : {}
    return new LlamaEngine(llama, threads, `node-llama-cpp ${peer.version}, llama.cpp ${release}`)
  }

  /** Loads a model for the time that `use` takes. `cache`: type of keys and values. */
  async with<T>(
    path: string,
    options: { context: number; cache?: "F16" | "F32" },
    use: (model: LlamaSession) => Promise<T>,
  ): Promise<T> {
    const { context, cache = "F16" } = options
    const model = await this.#llama.loadModel({ modelPath: path })
    try {
      const created = await model.createContext({
        contextSize: context,
        threads: { ideal: this.#threads, min: this.#threads },
        // Otherwise keys and values are multiplied in 16 bits whatever they are kept in.
        ...(cache === "F32" && { flashAttention: false }),
        experimentalKvCacheKeyType: cache,
        experimentalKvCacheValueType: cache,
      })
      const sequence = created.getSequence()
      return await use(new LlamaSession(sequence))
    } finally {
      await model.dispose()
    }
  }

  dispose(): Promise<void> {
    return this.#llama.dispose()
  }
}

export class LlamaSession {
  readonly #sequence: LlamaSequence

  constructor(sequence: LlamaSequence) {
    this.#sequence = sequence
  }

  /** At most `count` tokens, up to one that ends the text. */
  async greedy(prompt: readonly number[], count: number): Promise<number[]> {
    await this.#sequence.clearHistory()
    const found: number[] = []
    for await (const token of this.#sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
      found.push(token)
      if (found.length === count) break
    }
    return found
  }

  async window(tokens: Int32Array): Promise<Positions> {
    await this.#sequence.clearHistory()
    const input = Array.from(tokens, (token, i): [number, { generateNext: object }] => [
      token,
      {
        generateNext: {
          logits: { filter: { tokens: i + 1 < tokens.length ? [tokens[i + 1]!] : [], includeTop: 1 } },
          totalLogitWeight: true,
        },
      },
    ])
    const outputs = await this.#sequence.controlledEvaluate(input)
    const top = new Int32Array(tokens.length)
    const nll = new Float64Array(tokens.length).fill(Number.NaN)
    for (const [i, output] of outputs.entries()) {
      if (!output) throw new Error(`llama.cpp gave nothing for position ${i}`)
      const { logits, totalLogitWeight } = output.next
      const [[token, largest]] = logits.entries() as unknown as [[number, number]]
      top[i] = token
      if (i + 1 < tokens.length) nll[i] = largest + Math.log(totalLogitWeight) - logits.get(tokens[i + 1]!)!
    }
    return { top, nll }
  }
}
