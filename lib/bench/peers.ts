// The libraries that figures are compared with. They are no dependencies: bench/peers has a package.json of its own, and one
// that is missing is reported, not fatal.
import { existsSync, readFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { TsqError } from "../core/errors.ts"

export type PeerName = "onnxruntime-node" | "node-llama-cpp"

export interface FoundPeer {
  name: PeerName
  version: string
  /** Its folder. */
  directory: string
  /** What to import, as a URL. */
  entry: string
}

export interface MissingPeer {
  name: PeerName
  /** Why, and what to do about it. */
  reason: string
}

const ownPeers = fileURLToPath(new URL("../../bench/peers", import.meta.url))

/** Looks into `directory` (where given), bench/peers of this package and the working directory, in that order. */
export function findPeer(name: PeerName, directory?: string): FoundPeer | MissingPeer {
  if (directory !== undefined && !existsSync(directory))
    throw new TsqError("ERR_IO", `peers: there is no folder ${directory}; give one with a node_modules folder`)
  const roots = [...(directory === undefined ? [] : [resolve(directory)]), ownPeers, process.cwd()]
  for (const root of roots) {
    const folder = join(root, "node_modules", name)
    const manifest = join(folder, "package.json")
    if (!existsSync(manifest)) continue
    const { version, exports, main } = JSON.parse(readFileSync(manifest, "utf8")) as Manifest
    const entry = join(folder, entryOf(exports) ?? main ?? "index.js")
    if (existsSync(entry)) return { name, version, directory: folder, entry: pathToFileURL(entry).href }
    return { name, reason: `${name} in ${folder} is incomplete: there is no ${entry}; install it again` }
  }
  return {
    name,
    reason: `${name} is not installed; \`npm run bench:peers\` installs it, --peers DIR says where it is (looked in ${roots.join(", ")})`,
  }
}

export const isFound = (peer: FoundPeer | MissingPeer): peer is FoundPeer => "entry" in peer

/** The module. A peer that does not load is as good as missing: its reason is the error's text. */
export async function importPeer<T>(peer: FoundPeer): Promise<T | MissingPeer> {
  try {
    const module = (await import(peer.entry)) as { default?: T } & T
    return module.default ?? module
  } catch (error) {
    return {
      name: peer.name,
      reason: `${peer.name} ${peer.version} does not load: ${error instanceof Error ? error.message : String(error)}`,
    }
  }
}

interface Manifest {
  version: string
  main?: string
  exports?: unknown
}

/** The file that `import` would take of a package's "exports"; undefined where it says nothing. */
function entryOf(exports: unknown): string | undefined {
  if (typeof exports === "string") return exports
  if (typeof exports !== "object" || exports === null) return undefined
  const conditions = exports as Record<string, unknown>
  for (const key of [".", "node", "import", "default"]) {
    const found = entryOf(conditions[key])
    if (found !== undefined) return found
  }
  return undefined
}
