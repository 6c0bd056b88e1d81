// One run an output at a time: two would share the folder of finished blocks.
import { open, readFile, rm } from "node:fs/promises"
import { writeError } from "../containers/disk.ts"
import { ioError, TsqError } from "../core/errors.ts"
import { isAlive } from "../core/processes.ts"

/** Locks that this process holds; a file that names this process but is not here was left by an earlier one of the same number. */
const held = new Set<string>()

/** Holds `<out>.tsq-lock` until released. ERR_OPTION when another run is writing the same output. */
export class RunLock {
  readonly #path: string

  private constructor(path: string) {
    this.#path = path
  }

  static async acquire(out: string): Promise<RunLock> {
    const path = `${out}.tsq-lock`
    if (held.has(path)) throw busy(out, path, process.pid)
    held.add(path)
    try {
      // The second attempt follows the removal of a lock whose process is gone.
      for (let attempt = 0; ; attempt++) {
        if (await create(path)) return new RunLock(path)
        const pid = await ownerOf(path)
        if (attempt > 0 || (pid !== null && pid !== process.pid && isAlive(pid))) throw busy(out, path, pid)
        await rm(path, { force: true })
      }
    } catch (error) {
      held.delete(path)
      throw error
    }
  }

  async release(): Promise<void> {
    await rm(this.#path, { force: true })
    held.delete(this.#path)
  }
}

async function create(path: string): Promise<boolean> {
  try {
    const file = await open(path, "wx")
    try {
      await file.writeFile(`${process.pid}\n`)
    } finally {
      await file.close()
    }
    return true
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return false
    throw writeError("lock the output with", path, cause)
  }
}

/** The process that a lock names; null when it is empty or gone. */
async function ownerOf(path: string): Promise<number | null> {
  try {
    const pid = Number.parseInt(await readFile(path, "utf8"), 10)
    return Number.isSafeInteger(pid) ? pid : null
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return null
    throw ioError("read", path, cause)
  }
}

const busy = (out: string, path: string, pid: number | null) =>
  new TsqError(
    "ERR_OPTION",
    `another run (process ${pid ?? "unknown"}) is writing ${out}; wait for it or choose another output. If none is running, remove ${path}`,
  )
