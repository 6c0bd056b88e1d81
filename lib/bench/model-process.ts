// The parent's side of a process that holds a model.
import { type ChildProcess, fork } from "node:child_process"
import { extname } from "node:path"
import { fileURLToPath } from "node:url"
import { abortError, type ErrorCode, TsqError } from "../core/errors.ts"
import type {
  Answer,
  Generate,
  Generated,
  Loaded,
  LoadLlama,
  LoadTsq,
  ProcessMemory,
  Request,
} from "./model-messages.ts"

// Beside this file, among the sources and in the build.
const workerFile = fileURLToPath(new URL(`./model-worker${extname(import.meta.url)}`, import.meta.url))

/** Whether the modules are compiled: sources are translated while they are imported, which a start's time then includes. */
export const runsCompiled = extname(import.meta.url) === ".js"

const lastWords = 2000

export class ModelProcess {
  readonly loaded: Loaded
  readonly #child: Child

  private constructor(child: Child, loaded: Loaded) {
    this.#child = child
    this.loaded = loaded
  }

  /** Starts one and loads the model. What fails there is a TsqError with the process's own words. */
  static async start(request: LoadTsq | LoadLlama, signal: AbortSignal | undefined): Promise<ModelProcess> {
    const child = new Child(signal)
    try {
      return new ModelProcess(child, (await child.ask(request)) as Loaded)
    } catch (error) {
      await child.end()
      throw error
    }
  }

  async generate(request: Omit<Generate, "kind">): Promise<Generated> {
    return (await this.#child.ask({ kind: "generate", ...request })) as Generated
  }

  async memory(): Promise<ProcessMemory> {
    return (await this.#child.ask({ kind: "memory" })) as ProcessMemory
  }

  end(): Promise<void> {
    return this.#child.end()
  }
}

/** One question at a time. */
class Child {
  readonly #process: ChildProcess
  readonly #signal: AbortSignal | undefined
  readonly #ended: Promise<void>
  #text = ""
  #state = ""
  #settle: ((answer: Answer | null) => void) | null = null

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal
    // What a peer prints must not come between the lines of this process; the last of it explains a crash.
    this.#process = fork(workerFile, { stdio: ["ignore", "pipe", "pipe", "ipc"] })
    for (const stream of [this.#process.stdout, this.#process.stderr])
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.#text = (this.#text + text).slice(-lastWords)
      })
    this.#ended = new Promise(resolve => {
      this.#process.once("error", error => {
        this.#state = error.message
        this.#settle?.(null)
        resolve()
      })
      this.#process.once("close", (code, killer) => {
        this.#state ||= killer === null ? `it exited with ${code}` : `it was ended by ${killer}`
        this.#settle?.(null)
        resolve()
      })
    })
    this.#process.on("message", message => this.#settle?.(message as Answer))
  }

  async ask(request: Request): Promise<Loaded | Generated | ProcessMemory> {
    const kill = () => this.#process.kill("SIGKILL")
    if (this.#signal?.aborted) throw abortError(this.#signal)
    this.#signal?.addEventListener("abort", kill, { once: true })
    try {
      const answer = await new Promise<Answer | null>(resolve => {
        this.#settle = resolve
        if (this.#state !== "") return resolve(null)
        // A failure to send is the end of the process, which is told by itself.
        this.#process.send(request, error => error && resolve(null))
      })
      if (this.#signal?.aborted) throw abortError(this.#signal)
      if (answer === null) {
        await this.end()
        const said = this.#text.trim()
        throw new TsqError(
          "ERR_UNSUPPORTED",
          `the process that runs the model ended: ${this.#state}${said ? `; it said: ${said}` : ""}`,
        )
      }
      if ("error" in answer) throw errorOf(answer.error)
      return answer.result
    } finally {
      this.#settle = null
      this.#signal?.removeEventListener("abort", kill)
    }
  }

  /** Ends it: there is nothing it would have to tidy up. */
  async end(): Promise<void> {
    this.#process.kill("SIGKILL")
    await this.#ended
  }
}

const errorOf = ({ code, message }: { code?: string; message: string }): TsqError =>
  new TsqError(code?.startsWith("ERR_") ? (code as ErrorCode) : "ERR_UNSUPPORTED", message)
