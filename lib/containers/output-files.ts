// Output files that appear under their final names together, when all of them are complete.
import { mkdir, rename, rm } from "node:fs/promises"
import { dirname } from "node:path"
import { TsqError } from "../core/errors.ts"
import { writeError } from "./disk.ts"
import { exists, partialName, removeAbandoned, syncDirectory } from "./output.ts"

/** Files of one folder are written to `paths`; `commit` gives them their final names, `discard` removes them. */
export class OutputFiles {
  /** Final names, absolute, and where the files are written meanwhile. */
  readonly targets: readonly string[]
  readonly paths: readonly string[]
  readonly #force: boolean

  private constructor(targets: readonly string[], force: boolean) {
    this.targets = targets
    this.paths = targets.map(partialName)
    this.#force = force
  }

  /** Makes missing parents, and removes what killed runs left behind. ERR_OPTION when a file exists and force is not set. */
  static async create(targets: readonly string[], force = false): Promise<OutputFiles> {
    const files = new OutputFiles(targets, force)
    await files.#checkFree()
    try {
      await mkdir(dirname(targets[0]!), { recursive: true })
      for (const target of targets) await removeAbandoned(target)
    } catch (cause) {
      throw writeError("write to the folder of", targets[0]!, cause)
    }
    return files
  }

  /** The first file last: it is the one that loaders open. The files must be closed, and on the disk. */
  async commit(): Promise<void> {
    await this.#checkFree()
    try {
      for (const [index, target] of [...this.targets.entries()].reverse()) await rename(this.paths[index]!, target)
      await syncDirectory(dirname(this.targets[0]!))
    } catch (cause) {
      throw writeError("complete", this.targets[0]!, cause)
    }
  }

  /** Removes what was written and has no final name. */
  async discard(): Promise<void> {
    for (const path of this.paths) await rm(path, { force: true })
  }

  async #checkFree(): Promise<void> {
    if (this.#force) return
    for (const target of this.targets)
      if (await exists(target))
        throw new TsqError(
          "ERR_OPTION",
          `the output ${target} exists already; choose another name, remove it, or replace it with --force`,
        )
  }
}
