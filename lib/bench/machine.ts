// The machine and the software that figures were measured on: what someone needs to judge or repeat them.
import { execFile } from "node:child_process"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { availableParallelism, cpus, freemem, release, totalmem } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { packageVersion } from "../core/version.ts"
import { native } from "../native.ts"

export interface CacheLevel {
  level: number
  bytes: number
}

export interface BenchMachine {
  cpu: string
  /** CPUs that this process may use. */
  cpus: number
  memoryBytes: number
  /** Data and unified caches as one core sees them, smallest first; empty where the system does not tell. */
  caches: CacheLevel[]
  /** Instruction sets with kernels that run here, best last. */
  kernels: string[]
  features: string[]
  /** "always", "madvise" or "never"; null where there is no such setting. */
  hugePages: string | null
  system: string
  node: string
  /** This package. */
  version: string
  /** Of the source tree, with "+" where it was changed; null for an installed package. */
  commit: string | null
  /** ISO 8601. */
  date: string
}

export async function describeMachine(): Promise<BenchMachine> {
  const { supported, features } = native.cpu()
  return {
    cpu: cpus()[0]?.model.trim() || "unknown processor",
    cpus: availableParallelism(),
    memoryBytes: totalmem(),
    caches: cacheLevels("/sys/devices/system/cpu/cpu0/cache"),
    kernels: [...supported],
    features: [...features],
    hugePages: /\[(\w+)\]/.exec(textOf("/sys/kernel/mm/transparent_hugepage/enabled"))?.[1] ?? null,
    system: `${process.platform} ${process.arch} ${release()}`,
    node: process.version,
    version: packageVersion,
    commit: await commitOf(fileURLToPath(new URL("../..", import.meta.url))),
    date: new Date().toISOString(),
  }
}

/** Bytes of the largest cache; 32 MiB where the system does not tell. */
export const lastLevelCache = ({ caches }: Pick<BenchMachine, "caches">): number => caches.at(-1)?.bytes ?? 2 ** 25

/** Memory that can be had without pushing anything out: the system's own estimate where it gives one. */
export function availableMemory(): number {
  const kilobytes = /^MemAvailable:\s+(\d+) kB$/m.exec(textOf("/proc/meminfo"))?.[1]
  return kilobytes === undefined ? freemem() : Number(kilobytes) * 1024
}

/** The caches that a folder of the kernel's form describes (cache/index0/{level,type,size}). */
export function cacheLevels(folder: string): CacheLevel[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter(name => /^index\d+$/.test(name))
    .map(name => {
      const [level, type, size] = ["level", "type", "size"].map(file => textOf(join(folder, name, file)).trim())
      const [, count, unit] = /^(\d+)([KMG]?)$/.exec(size!) ?? []
      const bytes = Number(count ?? 0) * { "": 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[unit ?? ""]!
      return { level: Number(level), bytes: type === "Instruction" ? 0 : bytes }
    })
    .filter(({ level, bytes }) => level > 0 && bytes > 0)
    .sort((a, b) => a.level - b.level)
}

/** "" for what cannot be read: not every system has these files. */
function textOf(path: string): string {
  return existsSync(path) ? readFileSync(path, "utf8") : ""
}

async function commitOf(root: string): Promise<string | null> {
  if (!existsSync(join(root, ".git"))) return null
  const git = async (...args: string[]) => (await promisify(execFile)("git", ["-C", root, ...args])).stdout.trim()
  try {
    const commit = await git("rev-parse", "--short=12", "HEAD")
    return (await git("status", "--porcelain", "--untracked-files=no")) === "" ? commit : `${commit}+`
  } catch {
    return null // no git here: the version says enough
  }
}
