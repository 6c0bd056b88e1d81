// The files of a model benchmark: made-up ones are written to a working folder, under names that say what they hold.
import { createHash } from "node:crypto"
import { existsSync } from "node:fs"
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { ioError, TsqError } from "../core/errors.ts"
import type { ModelShape } from "./shapes.ts"
import { type SyntheticScheme, writeSyntheticCheckpoint } from "./synthetic-checkpoint.ts"
import { type GgufType, writeSyntheticGguf } from "./synthetic-gguf.ts"

/** Raised whenever the files' contents change: a folder that is kept must not hand out former ones. */
const contents = 1

export class WorkFolder {
  readonly directory: string
  readonly #temporary: boolean

  private constructor(directory: string, temporary: boolean) {
    this.directory = directory
    this.#temporary = temporary
  }

  /** The given folder, made where it is not there and kept, or a temporary one. */
  static async open(directory: string | undefined): Promise<WorkFolder> {
    if (directory === undefined) return new WorkFolder(await mkdtemp(join(tmpdir(), "tsq-bench-")), true)
    try {
      await mkdir(directory, { recursive: true })
    } catch (cause) {
      throw ioError("make", directory, cause)
    }
    return new WorkFolder(resolve(directory), false)
  }

  get cache(): string {
    return join(this.directory, "cache")
  }

  checkpoint(shape: ModelShape, scheme: SyntheticScheme, signal: AbortSignal | undefined): Promise<string> {
    const { bits, groupSize, headBits } = scheme
    return this.#made(`${shape.name}-w${bits}-g${groupSize}-head${headBits}-${keyOf(shape)}`, path =>
      writeSyntheticCheckpoint(path, shape, scheme, signal),
    )
  }

  async gguf(shape: ModelShape, type: GgufType, signal: AbortSignal | undefined): Promise<string> {
    const path = join(this.directory, `${shape.name}-${type}-${keyOf(shape)}.gguf`)
    // Its writer lets no incomplete file appear under the name.
    if (!existsSync(path)) await writeSyntheticGguf(path, shape, type, signal)
    return path
  }

  /** Complete or not there at all. */
  async #made(name: string, write: (path: string) => Promise<void>): Promise<string> {
    const path = join(this.directory, name)
    if (existsSync(path)) return path
    const partial = `${path}.${process.pid}.partial`
    try {
      await write(partial)
      await rename(partial, path)
    } catch (cause) {
      await rm(partial, { recursive: true, force: true })
      throw cause instanceof TsqError ? cause : ioError("write", path, cause)
    }
    return path
  }

  /** Removes a temporary folder. */
  async close(): Promise<void> {
    if (this.#temporary) await rm(this.directory, { recursive: true, force: true })
  }
}

const keyOf = (shape: ModelShape): string =>
  createHash("sha256")
    .update(JSON.stringify([contents, shape]))
    .digest("hex")
    .slice(0, 8)
