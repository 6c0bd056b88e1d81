// An output folder that appears under its final name only when it is complete.
import { randomBytes } from "node:crypto"
import { lstat, mkdir, open, readdir, realpath, rename, rm } from "node:fs/promises"
import { basename, dirname, join, resolve, sep } from "node:path"
import { TsqError } from "../core/errors.ts"
import { isAlive } from "../core/processes.ts"
import { writeError } from "./disk.ts"

export interface OutputOptions {
  /** The checkpoint that is read; writing over it or over a folder that holds it is refused. */
  source?: string
  /** Replace an existing output, at commit and not before. */
  force?: boolean
}

/** Files are written to `path`; `commit` moves it to its final name, `discard` removes it. */
export class OutputDirectory {
  /** Final name. */
  readonly target: string
  /** Where files are written meanwhile. */
  readonly path: string
  readonly #force: boolean

  private constructor(target: string, path: string, force: boolean) {
    this.target = target
    this.path = path
    this.#force = force
  }

  /**
   * Creates `<out>.tsq-partial-<pid>-<random>` beside `out`, with missing parents, and removes those of killed runs. ERR_OPTION when out exists and force is not
   * set, is not a folder, or is (or contains) the source; ERR_IO when the place cannot be written to.
   */
  static async create(out: string, options: OutputOptions = {}): Promise<OutputDirectory> {
    if (typeof out !== "string" || out === "") throw new TsqError("ERR_OPTION", "the output folder has no name")
    const target = resolve(out)
    if (options.source !== undefined) await refuseOverlap(target, options.source)
    await checkFree(target, options.force ?? false)
    const path = partialName(target)
    try {
      await mkdir(dirname(target), { recursive: true })
      await removeAbandoned(target)
      await mkdir(path)
    } catch (cause) {
      throw writeError("create the output folder", path, cause)
    }
    return new OutputDirectory(target, path, options.force ?? false)
  }

  /** Brings everything to disk and moves it to the final name. An earlier output is replaced only here, and is put back on failure. */
  async commit(): Promise<void> {
    await checkFree(this.target, this.#force)
    const replaced = (await exists(this.target))
      ? `${this.target}.tsq-replaced-${randomBytes(4).toString("hex")}`
      : null
    try {
      await syncTree(this.path)
      if (replaced !== null) await rename(this.target, replaced)
      try {
        await rename(this.path, this.target)
      } catch (cause) {
        if (replaced !== null) await rename(replaced, this.target)
        throw cause
      }
      await syncDirectory(dirname(this.target))
      if (replaced !== null) await rm(replaced, { recursive: true, force: true })
    } catch (cause) {
      throw writeError("complete the output folder", this.target, cause)
    }
  }

  /** Removes what was written; the final name is not touched. */
  async discard(): Promise<void> {
    try {
      await rm(this.path, { recursive: true, force: true })
    } catch (cause) {
      throw writeError("remove", this.path, cause)
    }
  }
}

/** Also of a symbolic link that leads nowhere. */
export async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false
    throw writeError("look at", path, error)
  }
}

async function checkFree(target: string, force: boolean): Promise<void> {
  if (!(await exists(target))) return
  if (!(await lstat(await realPath(target))).isDirectory())
    throw new TsqError("ERR_OPTION", `the output ${target} is an existing file, expected a folder; choose another name`)
  if (!force)
    throw new TsqError(
      "ERR_OPTION",
      `the output folder ${target} exists already; choose another name, remove it, or replace it with --force`,
    )
}

/** Where an output is written until it is complete. */
export const partialName = (target: string): string =>
  `${target}.tsq-partial-${process.pid}-${randomBytes(4).toString("hex")}`

/** Removes what runs of the same output that were killed have left behind: `<out>.tsq-partial-<pid>-<random>` of processes that are gone. */
export async function removeAbandoned(target: string): Promise<void> {
  const prefix = `${basename(target)}.tsq-partial-`
  const processStart = Date.now() - process.uptime() * 1000
  for (const name of await readdir(dirname(target))) {
    const pid = name.startsWith(prefix)
      ? Number(/^(\d+)-[0-9a-f]{8}$/.exec(name.slice(prefix.length))?.[1])
      : Number.NaN
    if (Number.isNaN(pid)) continue
    const path = join(dirname(target), name)
    // This process's own number may have been another's before: in containers they are few.
    const abandoned = pid === process.pid ? (await lstat(path)).mtimeMs < processStart - 1000 : !isAlive(pid)
    if (abandoned) await rm(path, { recursive: true, force: true })
  }
}

/** The real path of something that may not exist yet: its deepest existing parent's, and the rest. */
async function realTarget(path: string): Promise<string> {
  if (await exists(path)) return realPath(path)
  const parent = dirname(path)
  return parent === path ? path : join(await realTarget(parent), basename(path))
}

async function realPath(path: string): Promise<string> {
  try {
    return await realpath(path)
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    if (code === "ENOENT" || code === "ELOOP")
      throw new TsqError(
        "ERR_OPTION",
        `${path} is a symbolic link that leads nowhere; remove it or choose another name`,
        { cause },
      )
    throw writeError("follow", path, cause)
  }
}

async function refuseOverlap(target: string, source: string): Promise<void> {
  const real = await realTarget(target)
  const from = await realTarget(resolve(source))
  if (from === real)
    throw new TsqError(
      "ERR_OPTION",
      `source and output are the same folder, ${real}; the source is never changed: choose another output`,
    )
  if (from.startsWith(real.endsWith(sep) ? real : real + sep))
    throw new TsqError("ERR_OPTION", `the output folder ${real} contains the source ${from}; choose another output`)
}

export async function syncDirectory(path: string): Promise<void> {
  // Windows does not open folders.
  if (process.platform === "win32") return
  const handle = await open(path, "r")
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** fsync of every file, then of every folder, so that the rename never becomes durable before the data. */
async function syncTree(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) await syncTree(path)
    else if (entry.isFile()) {
      const handle = await open(path, "r+")
      try {
        await handle.sync()
      } finally {
        await handle.close()
      }
    }
  }
  await syncDirectory(directory)
}
