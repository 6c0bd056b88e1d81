// Text to token ids and back, by tokenizer.json.
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { Worker } from "node:worker_threads"
import { Tokenizer as JsonTokenizer } from "@huggingface/tokenizers"
import { ioError, TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import { type ChatMessage, type ChatOptions, ChatTemplates, readChatTemplates } from "./chat-template.ts"
import { parseObject, readOptionalObject } from "./companion-files.ts"
import { StreamDecoder } from "./stream-decoder.ts"

export type { ChatMessage, ChatOptions } from "./chat-template.ts"
export type { StreamDecoder } from "./stream-decoder.ts"

export interface EncodeOptions {
  /** Add what the tokenizer's post-processor adds (BOS, for most models). Default true. */
  addSpecial?: boolean
}

/** Characters from which encodeAsync leaves the event loop's thread: about ten milliseconds of work. */
const longText = 20_000

/** What is made from tokenizer.json. */
interface Vocabulary {
  tokenizer: JsonTokenizer
  special: ReadonlySet<number>
  size: number
  bosTokenId: number | null
  eosTokenIds: readonly number[]
}

export class Tokenizer {
  readonly #inWorker: WorkerSource
  readonly #templates: ChatTemplates
  #make: (() => Vocabulary) | null
  #made: Vocabulary | null = null

  /**
   * See loadTokenizer. `json` may be made later, by a function: it is called when the vocabulary is first needed. With `files`, `path`
   * is a folder with both JSON files, which are read again where a text is encoded in a worker; otherwise they are sent there.
   */
  constructor(
    path: string,
    json: Record<string, unknown> | (() => Record<string, unknown>),
    config: Record<string, unknown>,
    templates: ReadonlyMap<string, string>,
    { files = false } = {},
  ) {
    const make = typeof json === "function" ? json : () => json
    this.#inWorker = files ? fromFiles(path) : fromMemory(make, config)
    this.#templates = new ChatTemplates(templates, specialTokens(config))
    this.#make = () => makeVocabulary(files ? join(path, "tokenizer.json") : path, make(), config)
    if (typeof json !== "function") this.build()
  }

  /** Makes the vocabulary now, where it was left for later: a large one takes half a second. */
  build(): void {
    if (this.#make === null) return
    this.#made = this.#make()
    this.#make = null
  }

  get #vocabulary(): Vocabulary {
    this.build()
    return this.#made as Vocabulary
  }

  get vocabularySize(): number {
    return this.#vocabulary.size
  }

  /** What the tokenizer itself puts in front of a text; null where it adds nothing. */
  get bosTokenId(): number | null {
    return this.#vocabulary.bosTokenId
  }

  /** tokenizer_config.json's eos_token, as a list; a model's generation config may name more. */
  get eosTokenIds(): readonly number[] {
    return this.#vocabulary.eosTokenIds
  }

  /** ERR_OPTION when `text` is not a string. */
  encode(text: string, { addSpecial = true }: EncodeOptions = {}): number[] {
    checkText(text)
    return this.#vocabulary.tokenizer.encode(text, { add_special_tokens: addSpecial }).ids
  }

  /** The same off the event loop for long texts: a file of some megabytes takes seconds. */
  async encodeAsync(text: string, { addSpecial = true }: EncodeOptions = {}): Promise<number[]> {
    checkText(text)
    if (text.length < longText) return this.encode(text, { addSpecial })
    return encodeInWorker(await this.#inWorker(), text, addSpecial)
  }

  /**
   * Nothing is cleaned up: clean_up_tokenization_spaces is ignored, because it removes spaces that the tokens stand for and
   * a streamed text could not agree with it. Ids without a token (padding of the vocabulary) decode to nothing.
   */
  decode(ids: readonly number[], { skipSpecial = true }: { skipSpecial?: boolean } = {}): string {
    const { tokenizer, special } = this.#vocabulary
    const known: number[] = []
    ids.forEach((id, i) => {
      if (!Number.isSafeInteger(id) || id < 0)
        throw new TsqError("ERR_OPTION", `tokenizer.decode: ids[${i}] is ${describe(id)}, expected a token id`)
      // Special tokens are dropped here by id: the package goes by text and drops ordinary tokens that read the same.
      if (!(skipSpecial && special.has(id)) && tokenizer.id_to_token(id) !== undefined) known.push(id)
    })
    if (known.length === 0) return ""
    return tokenizer.decode(known, { skip_special_tokens: false, clean_up_tokenization_spaces: false })
  }

  /** `context`: the prompt that the text continues, so that its first token keeps its leading space. */
  streamDecoder(context: readonly number[] = []): StreamDecoder {
    return new StreamDecoder(ids => this.decode(ids), context)
  }

  /** Names of the chat templates; empty where the model has none. */
  get chatTemplates(): readonly string[] {
    return this.#templates.names
  }

  /** The prompt text of a conversation. It holds the special tokens already: encode it with addSpecial false. */
  renderChat(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    return this.#templates.render(messages, options)
  }
}

/**
 * Reads tokenizer.json, tokenizer_config.json and the chat templates of a directory. ERR_FORMAT where tokenizer.json is
 * missing or describes no tokenizer; with `later`, for a file that is known to, only its bytes are read and the rest is
 * done when it is first needed.
 */
export async function loadTokenizer(directory: string, { later = false } = {}): Promise<Tokenizer> {
  const path = join(directory, "tokenizer.json")
  const json = later ? await parseLater(path) : await readOptionalObject(directory, "tokenizer.json")
  if (!json)
    throw new TsqError(
      "ERR_FORMAT",
      `${directory} has no tokenizer.json; save the model's fast tokenizer there (tokenizer.model and vocab.json are not read)`,
    )
  const config = (await readOptionalObject(directory, "tokenizer_config.json")) ?? {}
  return new Tokenizer(directory, json, config, await readChatTemplates(directory, config), { files: true })
}

async function parseLater(path: string): Promise<() => Record<string, unknown>> {
  let bytes: Buffer
  try {
    bytes = await readFile(path)
  } catch (cause) {
    throw ioError("read", path, cause)
  }
  return () => parseObject(bytes.toString("utf8"), path)
}

function makeVocabulary(path: string, json: Record<string, unknown>, config: Record<string, unknown>): Vocabulary {
  let tokenizer: JsonTokenizer
  try {
    tokenizer = new JsonTokenizer(json, config)
  } catch (cause) {
    throw new TsqError("ERR_FORMAT", `${path} does not describe a tokenizer: ${(cause as Error).message}`, { cause })
  }
  const added = tokenizer.get_added_tokens_decoder()
  const special = new Set([...added.values()].filter(token => token.special).map(token => token.id))
  let largest = -1
  for (const id of tokenizer.get_vocab().values()) largest = Math.max(largest, id)
  const first = tokenizer.encode("").ids[0]
  const eos = tokenText(config.eos_token)
  const eosId = eos === null ? undefined : tokenizer.token_to_id(eos)
  return {
    tokenizer,
    special,
    size: largest + 1,
    bosTokenId: first !== undefined && special.has(first) ? first : null,
    eosTokenIds: eosId === undefined ? [] : [eosId],
  }
}

function checkText(text: unknown): asserts text is string {
  if (typeof text !== "string")
    throw new TsqError("ERR_OPTION", `tokenizer.encode: text is ${describe(text)}, expected a string`)
}

/** A token in tokenizer_config.json: its text, or an object with the text as "content". */
export function tokenText(value: unknown): string | null {
  const text = typeof value === "object" && value !== null ? (value as { content?: unknown }).content : value
  return typeof text === "string" ? text : null
}

function specialTokens(config: Record<string, unknown>): Record<string, unknown> {
  const names = Object.keys(config).filter(key => key.endsWith("_token"))
  return Object.fromEntries(
    names.flatMap(name => (tokenText(config[name]) === null ? [] : [[name, tokenText(config[name])]])),
  )
}

// Plain JavaScript in a string: a worker thread of its own file would have to be found both among the sources and in the build.
const workerCode = `
const { parentPort, workerData } = require("node:worker_threads")
const { readFileSync } = require("node:fs")
const read = source => typeof source === "string" ? JSON.parse(readFileSync(source, "utf8")) : source
import(workerData.module).then(({ Tokenizer }) => {
  const config = read(workerData.config)
  const { ids } = new Tokenizer(read(workerData.json), config).encode(workerData.text, { add_special_tokens: workerData.addSpecial })
  parentPort.postMessage(Int32Array.from(ids))
})
`

/** tokenizer.json and tokenizer_config.json: paths, or what they hold. */
type WorkerSource = () => Promise<Record<"json" | "config", string | Record<string, unknown>>>

// Functions of their own, so that one which reads files does not keep what was parsed from them.
const fromFiles =
  (directory: string): WorkerSource =>
  async () => {
    const config = await readOptionalObject(directory, "tokenizer_config.json")
    return { json: join(directory, "tokenizer.json"), config: config ? join(directory, "tokenizer_config.json") : {} }
  }
const fromMemory =
  (make: () => Record<string, unknown>, config: Record<string, unknown>): WorkerSource =>
  async () => ({ json: make(), config })

async function encodeInWorker(
  source: Awaited<ReturnType<WorkerSource>>,
  text: string,
  addSpecial: boolean,
): Promise<number[]> {
  const workerData = { module: import.meta.resolve("@huggingface/tokenizers"), ...source, text, addSpecial }
  const worker = new Worker(workerCode, { eval: true, workerData })
  try {
    return await new Promise((resolve, reject) => {
      worker.once("message", (ids: Int32Array) => resolve(Array.from(ids)))
      worker.once("error", cause => reject(new TsqError("ERR_FORMAT", `encoding failed: ${cause.message}`, { cause })))
      worker.once("exit", code =>
        reject(new TsqError("ERR_FORMAT", `encoding ended without a result (exit code ${code})`)),
      )
    })
  } finally {
    await worker.terminate()
  }
}
