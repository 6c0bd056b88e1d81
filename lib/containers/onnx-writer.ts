// Streaming writer of ONNX models: the graph is declared first, and the bytes of its initializers come after, in that order.
import type { FileHandle } from "node:fs/promises"
import { open } from "node:fs/promises"
import { basename, resolve } from "node:path"
import { TsqError, throwIfAborted } from "../core/errors.ts"
import { writeError, writeFully } from "./disk.ts"
import { checkedData, externalOffsets, type InitializerData, type OnnxGraph, onnxModel } from "./onnx-bytes.ts"
import { onnxBytes } from "./onnx-types.ts"
import { OutputFiles } from "./output-files.ts"

export interface OnnxWriterOptions {
  /**
   * Initializers in a file `<name>.data` beside the model. Default: where the model would be larger than the 2 GiB that protocol
   * buffers may have.
   */
  externalData?: boolean | undefined
  /** Replace existing files, at `finish` and not before. */
  force?: boolean | undefined
  signal?: AbortSignal | undefined
}

export const largestModel = 2 ** 31 - 1

/** Bytes of a file in order: some that are known, and the places of initializers' data. */
type Piece = Uint8Array | InitializerData

/** `write` every initializer in the graph's order, then `finish`. After a failure only `discard` is left. */
export class OnnxWriter {
  readonly #files: OutputFiles
  /** Of the file that initializers go to; the other one is written at once. */
  readonly #pieces: readonly Piece[]
  readonly #signal: AbortSignal | undefined
  readonly #handles: FileHandle[] = []
  #at = 0
  #bytes = 0
  #state: "open" | "failed" | "finished" = "open"

  private constructor(files: OutputFiles, pieces: readonly Piece[], signal: AbortSignal | undefined) {
    this.#files = files
    this.#pieces = pieces
    this.#signal = signal
  }

  /** ERR_OPTION when a file exists and force is not set, ERR_UNSUPPORTED for a model larger than 2 GiB without its data. */
  static async create(path: string, graph: OnnxGraph, options: OnnxWriterOptions = {}): Promise<OnnxWriter> {
    if (typeof path !== "string" || !path.endsWith(".onnx"))
      throw new TsqError("ERR_OPTION", `the output is ${JSON.stringify(path)}, expected the name of an .onnx file`)
    const target = resolve(path)
    const whole = onnxModel(graph)
    const external = options.externalData ?? whole.bytes > largestModel
    const location = `${basename(target)}.data`
    const model = external ? onnxModel(graph, { location, ...externalOffsets(graph) }) : whole
    if (model.bytes > largestModel)
      throw new TsqError(
        "ERR_UNSUPPORTED",
        `${path}: the model takes ${model.bytes} bytes, protocol buffers have at most ${largestModel}; ${external ? "make several models" : "leave its data to a file of its own (externalData)"}`,
      )
    const files = await OutputFiles.create(external ? [target, `${target}.data`] : [target], options.force)
    const writer = new OnnxWriter(files, external ? dataPieces(graph) : model.chunks, options.signal)
    try {
      for (const part of files.paths) writer.#handles.push(await open(part, "wx"))
      if (external) for (const piece of model.chunks) await writer.#store(0, piece as Uint8Array)
    } catch (cause) {
      await writer.discard()
      throw writeError("create", files.paths[0]!, cause)
    }
    return writer
  }

  /** All bytes of the initializer that is due. */
  async write(name: string, data: Uint8Array): Promise<void> {
    await this.#attempt(async () => {
      await this.#storeKnown()
      const due = this.#pieces[this.#at] as InitializerData | undefined
      if (due?.name !== name)
        throw new TsqError(
          "ERR_OPTION",
          `initializer ${JSON.stringify(name)} has come, expected ${due ? JSON.stringify(due.name) : "the end"}; they come in the graph's order`,
        )
      await this.#store(this.#handles.length - 1, checkedData(due, data))
      this.#at++
    })
  }

  /** Brings everything to disk and gives the files their final names. */
  async finish(): Promise<{ files: string[]; totalBytes: number }> {
    await this.#attempt(async () => {
      await this.#storeKnown()
      const due = this.#pieces[this.#at] as InitializerData | undefined
      if (due) throw new TsqError("ERR_OPTION", `initializer ${JSON.stringify(due.name)} has not come`)
      for (const handle of this.#handles) await handle.sync()
      await this.#close()
      await this.#files.commit()
      this.#state = "finished"
    })
    return { files: [...this.#files.targets], totalBytes: this.#bytes }
  }

  /** Closes and removes what was written and not finished. */
  async discard(): Promise<void> {
    if (this.#state === "finished") return
    this.#state = "failed"
    await this.#close()
    await this.#files.discard()
  }

  async #attempt(work: () => Promise<void>): Promise<void> {
    const target = this.#files.targets[0]!
    if (this.#state !== "open")
      throw new TsqError("ERR_OPTION", `the ONNX writer of ${target} has ${this.#state}; make a new one`)
    try {
      throwIfAborted(this.#signal)
      await work()
    } catch (cause) {
      this.#state = "failed"
      throw writeError("write", target, cause)
    }
  }

  /** Writes up to the next initializer. */
  async #storeKnown(): Promise<void> {
    for (;;) {
      const piece = this.#pieces[this.#at]
      if (!(piece instanceof Uint8Array)) return
      await this.#store(this.#handles.length - 1, piece)
      this.#at++
    }
  }

  async #store(file: number, bytes: Uint8Array): Promise<void> {
    await writeFully(this.#handles[file]!, bytes)
    this.#bytes += bytes.byteLength
  }

  async #close(): Promise<void> {
    for (const handle of this.#handles.splice(0)) await handle.close()
  }
}

/** The data file: initializers, with zeros up to where the next one begins. */
function dataPieces(graph: OnnxGraph): Piece[] {
  const { offsets } = externalOffsets(graph)
  let end = 0
  return graph.initializers.flatMap((tensor, index) => {
    const gap = new Uint8Array(offsets[index]! - end)
    end = offsets[index]! + onnxBytes(tensor)
    return [gap, { name: tensor.name, bytes: onnxBytes(tensor) }]
  })
}
