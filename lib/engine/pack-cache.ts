// Cache files of packed models (docs/cache.md): where they lie, whether one belongs to a checkpoint, and how one is written.
import { createHash, randomBytes } from "node:crypto"
import { lstat, mkdir, readdir, realpath, rename, rm, statfs } from "node:fs/promises"
import { homedir } from "node:os"
import { basename, dirname, join, resolve } from "node:path"
import { writeError } from "../containers/disk.ts"
import { TsqError } from "../core/errors.ts"
import { packageVersion } from "../core/version.ts"
import { abortable, native } from "../native.ts"
import type { WeightSummary } from "./model.ts"
import { type PackMeta, writeMeta } from "./pack-meta.ts"
import {
  describeSources,
  describeTokenizer,
  firstDifference,
  mayChangeUnseen,
  type SourceFile,
} from "./pack-sources.ts"
import { StoredPack } from "./stored-pack.ts"
import type { WeightRecorder } from "./weight-recorder.ts"

/** Beside a checkpoint, behind the options that change packing; elsewhere the folder's name stands in front of it all. */
const suffix = ".tsq-cache"

/** A partial file that nobody has written to for so long was left by a process that was killed. */
const abandonedMs = 3_600_000

/** Bytes of packed weights that are read in the time that a byte of tokenizer.json takes. */
const tokenizerCost = 200

export interface PackCacheOptions {
  /** false: files are read, never written. */
  write: boolean
  /** The only place, if given. */
  cacheDir?: string | undefined
  /** Options of loading that change how weights are packed. */
  packing?: Readonly<Record<string, string>>
  warn: (message: string) => void
}

export class PackCache {
  readonly directory: string
  readonly write: boolean
  readonly #cacheDir: string | undefined
  readonly #packing: Readonly<Record<string, string>>
  readonly #warn: (message: string) => void
  #sources: readonly SourceFile[] = []
  #tokenizer: readonly SourceFile[] = []

  constructor(directory: string, { write, cacheDir, packing = {}, warn }: PackCacheOptions) {
    this.directory = directory
    this.write = write
    this.#cacheDir = cacheDir ?? (process.env.TSQ_CACHE_DIR || undefined)
    this.#packing = packing
    this.#warn = warn
  }

  /** The packed weights of the checkpoint as it is now, or null: then what is wrong with a file that is there was told. */
  async find(): Promise<StoredPack | null> {
    try {
      this.#sources = await describeSources(this.directory)
      this.#tokenizer = await describeTokenizer(this.directory)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === undefined) throw error
      return null // reading the checkpoint itself will say what is wrong with it
    }
    const unusable: [path: string, reason: unknown][] = []
    for (const path of await this.#places()) {
      if (!(await exists(path))) continue
      try {
        const pack = await StoredPack.open(path)
        const reason = this.#stale(pack.meta)
        if (reason === null) return pack
        await pack.close()
        unusable.push([path, reason])
      } catch (error) {
        unusable.push([path, error])
      }
    }
    for (const [path, reason] of unusable) this.notUsed(path, reason)
    return null
  }

  /**
   * Whether the tokenizer's vocabulary is better made when it is first needed: its files are those that the model was loaded with
   * before, and reading the weights leaves no time for it.
   */
  tokenizerMayWait(pack: StoredPack): boolean {
    if (firstDifference(pack.meta.tokenizer, this.#tokenizer) !== null) return false
    const bytes = this.#tokenizer.reduce((sum, file) => sum + file.bytes, 0)
    return pack.bytes < bytes * tokenizerCost
  }

  /** Tells why a file that is there is not used. */
  notUsed(path: string, reason: unknown): void {
    this.#warn(`${path}: ${reason instanceof Error ? reason.message : String(reason)}; the model is packed anew`)
  }

  /** Writes the file. Nothing but an abort is an error: without a file the next start takes longer, that is all. */
  async store(weights: WeightRecorder, summary: WeightSummary, signal: AbortSignal | undefined): Promise<void> {
    const reason = await this.#changed()
    if (reason !== null) {
      this.#warn(`${this.directory}: ${reason} while it was loaded; its packed weights are not cached`)
      return
    }
    if (mayChangeUnseen(this.#sources, Date.now())) return
    const meta = writeMeta({
      packing: this.#packing,
      sources: this.#sources,
      tokenizer: this.#tokenizer,
      linears: [...weights.linears.keys()],
      vectors: weights.vectors,
      summary,
    })
    let failure: unknown
    for (const path of await this.#places()) {
      try {
        await this.#writeTo(path, meta, weights, signal)
        return
      } catch (error) {
        if (error instanceof TsqError && error.code === "ERR_ABORTED") throw error
        failure = error
      }
    }
    this.#warn(`the packed weights are not cached: ${writeError("write", this.directory, failure).message}`)
  }

  /** In the order in which they are tried. */
  async #places(): Promise<string[]> {
    const path = await realpath(this.directory)
    const key = createHash("sha256").update(path).digest("hex").slice(0, 16)
    // Files of one folder that are packed differently lie side by side.
    const packing = Object.values(this.#packing)
    const name = `${[basename(path), key, ...packing].join("-")}${suffix}`
    if (this.#cacheDir !== undefined) return [join(resolve(this.#cacheDir), name)]
    const own = userCache()
    return [join(path, packing.map(value => `.${value}`).join("") + suffix), ...(own === null ? [] : [join(own, name)])]
  }

  #stale(meta: PackMeta): string | null {
    if (meta.version !== packageVersion) return `made by version ${meta.version}, this is ${packageVersion}`
    if (JSON.stringify(meta.packing) !== JSON.stringify(this.#packing)) return "made with other options"
    const changed = firstDifference(meta.sources, this.#sources)
    return changed === null ? null : `made from another ${changed}`
  }

  async #changed(): Promise<string | null> {
    try {
      const changed = firstDifference(this.#sources, await describeSources(this.directory))
      return changed === null ? null : `${changed} changed`
    } catch (error) {
      return `it became unreadable (${(error as Error).message})`
    }
  }

  async #writeTo(path: string, meta: string, weights: WeightRecorder, signal: AbortSignal | undefined): Promise<void> {
    const folder = dirname(path)
    await mkdir(folder, { recursive: true })
    await removeAbandoned(path)
    await checkRoom(folder, weights)
    const partial = `${path}.${process.pid}-${randomBytes(4).toString("hex")}.partial`
    try {
      const handles = Float64Array.from(weights.linears.values(), weight => weight.handle)
      await abortable(signal, flag => native.writePackFile(partial, meta, weights.floats(), handles, flag))
      // Complete or not there at all; of several writers the last one wins, and what it replaces stays open to its readers.
      await rename(partial, path)
    } catch (error) {
      await rm(partial, { force: true })
      throw error
    }
  }
}

async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    error => !["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? ""),
  )
}

/** null for a user without a home. */
function userCache(): string | null {
  try {
    return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "tsq-native")
  } catch {
    return null
  }
}

async function removeAbandoned(path: string): Promise<void> {
  for (const name of await readdir(dirname(path))) {
    if (!name.startsWith(`${basename(path)}.`) || !name.endsWith(".partial")) continue
    const partial = join(dirname(path), name)
    const info = await lstat(partial).catch(() => null) // null: complete by now, and renamed
    if (info && Date.now() - info.mtimeMs > abandonedMs) await rm(partial, { force: true })
  }
}

/** A disk that a cache file would fill is left alone. */
async function checkRoom(folder: string, weights: WeightRecorder): Promise<void> {
  let bytes = 0
  for (const weight of weights.linears.values()) bytes += weight.bytes
  const { bavail, bsize } = await statfs(folder)
  const free = bavail * bsize
  if (free < bytes * 1.1)
    throw new TsqError(
      "ERR_IO",
      `${folder} has ${Math.round(free / 1e6)} MB free, the cache file takes ${Math.round(bytes / 1e6)} MB: free some space or give another cacheDir`,
    )
}
