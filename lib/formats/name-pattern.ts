// Patterns that a checkpoint's configuration brings along: they come with the file, so that a slow one must not stop the process.
import { createContext, Script } from "node:vm"
import { TsqError } from "../core/errors.ts"

/** Steps of backtracking that a match may take in the worst case before it is watched. */
const unwatchedSteps = 1e6

/** For all watched matches of a pattern together. */
const budgetMs = 2000

const watched = createContext(Object.create(null), { codeGeneration: { strings: false, wasm: false } })
const script = new Script("pattern.test(name)")

export class NamePattern {
  readonly #source: string
  readonly #key: string
  readonly #where: string
  readonly #pattern: RegExp
  /** A match takes at most about length^degree steps. */
  readonly #degree: number
  #spentMs = 0

  /**
   * `source` in Python's dialect, matched from the start of a name as re.match does. ERR_FORMAT, naming `key` of the object `where`, for
   * what cannot be read.
   */
  constructor(source: string, key: string, where = "quantization_config") {
    this.#source = source
    this.#key = key
    this.#where = where
    this.#degree = degreeOf(source)
    try {
      this.#pattern = new RegExp(`^(?:${source})`)
    } catch (cause) {
      throw this.#refused(`is not a regular expression that can be read here: ${(cause as Error).message}`, cause)
    }
  }

  /** ERR_FORMAT where the matches of this pattern take longer than any that is meant to be used. */
  test(name: string): boolean {
    if (name.length ** this.#degree <= unwatchedSteps) return this.#pattern.test(name)
    const begin = performance.now()
    try {
      watched.pattern = this.#pattern
      watched.name = name
      return script.runInContext(watched, { timeout: Math.max(1, Math.ceil(budgetMs - this.#spentMs)) }) as boolean
    } catch (cause) {
      throw this.#refused(`takes too long to match names such as ${JSON.stringify(name.slice(0, 80))}`, cause)
    } finally {
      this.#spentMs += performance.now() - begin
    }
  }

  #refused(what: string, cause: unknown): TsqError {
    return new TsqError("ERR_FORMAT", `${this.#where}.${this.#key}: ${JSON.stringify(this.#source)} ${what}`, {
      cause,
    })
  }
}

/**
 * Unbounded repetitions, each of which may try every length, and what is optional, which doubles the ways; Infinity where a group
 * is repeated, which may hold more of them, or referred back to.
 */
function degreeOf(source: string): number {
  const plain = source.replace(/\\[^\d]/g, "x").replace(/\[(?:\\.|[^\]\\])*\]/g, "x")
  if (/\)[*+{]/.test(plain) || /\\[1-9]/.test(plain)) return Number.POSITIVE_INFINITY
  const count = (pattern: RegExp) => (plain.match(pattern) ?? []).length
  return count(/[*+{]/g) + count(/[^(]\?/g) / 4
}
