// What a search has found so far, beside the output: measured damages and the mixtures that were tried, so that an interrupted run goes on.
import { readFile, rm } from "node:fs/promises"
import { writeAtomically, writeError } from "../../containers/disk.ts"
import { ioError, TsqError } from "../../core/errors.ts"
import type { Target } from "./request.ts"
import type { Damage } from "./sensitivity.ts"

const version = 1

/** A mixture that was quantized, and the KL divergence measured. */
export interface Attempt {
  /** Sum of its damages; for targetKl what that was to stay below. */
  predicted: number
  measured: number
  /** Index of every group's choice. */
  picks: readonly number[]
}

interface Contents {
  version: number
  /** Of everything that damages depend on: not of the target. */
  fingerprint: string
  damages: Damage[][]
  /** As JSON: what follows belongs to it. */
  target: string
  attempts: Attempt[]
  /** Fingerprint of the blocks that are being quantized; null before. */
  blocks: string | null
}

export class SearchFile {
  readonly #path: string
  readonly #contents: Contents

  private constructor(path: string, contents: Contents) {
    this.#path = path
    this.#contents = contents
  }

  /**
   * `<out>.tsq-search.json`. Fresh unless `resume`; then ERR_OPTION where one of another run is found. Damages serve another target too, what
   * was tried does not.
   */
  static async open(out: string, fingerprint: string, target: Target, resume: boolean): Promise<SearchFile> {
    const path = `${out}.tsq-search.json`
    const found = resume ? await readContents(path) : null
    if (found && found.fingerprint !== fingerprint)
      throw new TsqError(
        "ERR_OPTION",
        `resume: ${path} belongs to another run (other weights, calibration, recipe, candidates, instruction set or version of tsq-native); ` +
          "repeat that run's options, or start over without resume",
      )
    const fresh = { version, fingerprint, damages: found?.damages ?? [], target: JSON.stringify(target) }
    const goesOn = found !== null && found.target === fresh.target
    return new SearchFile(path, goesOn ? found : { ...fresh, attempts: [], blocks: null })
  }

  get damages(): readonly (readonly Damage[])[] {
    return this.#contents.damages
  }

  get attempts(): readonly Attempt[] {
    return this.#contents.attempts
  }

  get blocks(): string | null {
    return this.#contents.blocks
  }

  async save(change: Partial<Pick<Contents, "damages" | "attempts" | "blocks">>): Promise<void> {
    Object.assign(this.#contents, change)
    try {
      await writeAtomically(this.#path, [Buffer.from(`${JSON.stringify(this.#contents)}\n`)])
    } catch (cause) {
      throw writeError("write", this.#path, cause)
    }
  }

  async remove(): Promise<void> {
    try {
      await rm(this.#path, { force: true })
    } catch (cause) {
      throw writeError("remove", this.#path, cause)
    }
  }
}

/** null where there is none. A file is written whole or not at all: one that does not parse is no file of ours. */
async function readContents(path: string): Promise<Contents | null> {
  let text: string
  try {
    text = await readFile(path, "utf8")
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null
    throw ioError("read", path, error)
  }
  try {
    const contents = JSON.parse(text) as Contents
    if (contents.version === version && Array.isArray(contents.damages) && Array.isArray(contents.attempts))
      return contents
  } catch (cause) {
    throw new TsqError("ERR_CORRUPT", `${path} is not JSON; remove it, or start over without resume`, { cause })
  }
  throw new TsqError("ERR_CORRUPT", `${path} is not what a search writes; remove it, or start over without resume`)
}
