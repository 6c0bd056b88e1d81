// The vocabulary of option checks that every public function shares: unknown names, types and ranges, one form of message.
import { TsqError } from "./errors.ts"
import type { Progress } from "./progress.ts"

/** A value as messages show it: strings quoted and shortened, arrays and objects by kind. */
export function describe(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value)
  if (typeof value === "bigint") return `${value}n`
  if (typeof value === "function") return "a function"
  if (typeof value === "symbol") return "a symbol"
  if (typeof value !== "object" || value === null) return String(value)
  if (Array.isArray(value)) return `an array of ${value.length}`
  const name: unknown = Object.getPrototypeOf(value)?.constructor?.name
  if (typeof name !== "string" || name === "" || name === "Object") return "an object"
  return withArticle(name)
}

/** "a Tensor", "an AbortSignal". */
export const withArticle = (name: string): string =>
  `${/^[aeiou]/i.test(name) && !/^uint/i.test(name) ? "an" : "a"} ${name}`

/** `"a", "b" or "c"`. */
export function listChoices(choices: readonly string[]): string {
  const quoted = choices.map(choice => JSON.stringify(choice))
  return quoted.length < 2 ? quoted.join("") : `${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}`
}

/** The candidate that `word` was probably meant to be, or null: at most two edits (one for words of up to four letters), case apart. */
export function closest(word: string, candidates: readonly string[]): string | null {
  if (word.length > 64) return null
  const plain = (text: string) => text.toLowerCase().replaceAll(/[-_ ]/g, "")
  const sought = plain(word)
  let best: string | null = null
  let least = sought.length <= 4 ? 2 : 3
  for (const candidate of candidates) {
    const edits = editDistance(sought, plain(candidate))
    if (edits < least) {
      least = edits
      best = candidate
    }
  }
  return best
}

/** Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b` (optimal string alignment). */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      let edits = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + cost)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        edits = Math.min(edits, beforeLast[j - 2]! + 1)
      row.push(edits)
    }
    beforeLast = last
    last = row
  }
  return last[b.length]!
}

export interface NumberRange {
  min?: number
  max?: number
  /** min itself is not allowed. */
  aboveMin?: boolean
}

/** Reads the options of one call. Every failed check throws ERR_OPTION: `<function>: option "groupSize" is -1, expected …`. */
export class Options {
  readonly caller: string
  readonly #values: Readonly<Record<string, unknown>>

  /** `values` may be undefined. Names outside `known` are refused, with the known one that was probably meant. */
  constructor(caller: string, values: unknown, known: readonly string[]) {
    this.caller = caller
    if (values === undefined) {
      this.#values = {}
      return
    }
    if (typeof values !== "object" || values === null || Array.isArray(values) || ArrayBuffer.isView(values))
      throw new TsqError("ERR_OPTION", `${caller}: options are ${describe(values)}, expected an object`)
    for (const name of Object.keys(values)) {
      if (known.includes(name)) continue
      const meant = closest(name, known)
      const hint = meant ? `did you mean ${JSON.stringify(meant)}?` : `it knows ${[...known].sort().join(", ")}`
      throw new TsqError("ERR_OPTION", `${caller}: unknown option ${describe(name)}; ${hint}`)
    }
    this.#values = values as Record<string, unknown>
  }

  /** The value as it was given. */
  raw(name: string): unknown {
    return this.#values[name]
  }

  /** Whether the option was given (undefined counts as not). */
  has(name: string): boolean {
    return this.#values[name] !== undefined
  }

  fail(name: string, expected: string): never {
    const found = describe(this.#values[name])
    throw new TsqError("ERR_OPTION", `${this.caller}: option ${JSON.stringify(name)} is ${found}, expected ${expected}`)
  }

  #read<T, F>(name: string, fallback: F, valid: (value: unknown) => value is T, expected: () => string): T | F {
    const value = this.#values[name]
    if (value === undefined) return fallback
    return valid(value) ? value : this.fail(name, expected())
  }

  boolean<F>(name: string, fallback: F): boolean | F {
    return this.#read(
      name,
      fallback,
      (value): value is boolean => typeof value === "boolean",
      () => "true or false",
    )
  }

  /** A string that is not empty. */
  string<F>(name: string, fallback: F): string | F {
    return this.#read(
      name,
      fallback,
      (value): value is string => typeof value === "string" && value !== "",
      () => "a string that is not empty",
    )
  }

  strings<F>(name: string, fallback: F): readonly string[] | F {
    return this.#read(
      name,
      fallback,
      (value): value is readonly string[] => Array.isArray(value) && value.every(item => typeof item === "string"),
      () => "an array of strings",
    )
  }

  oneOf<const T extends string, F>(name: string, choices: readonly T[], fallback: F): T | F {
    return this.#read(
      name,
      fallback,
      (value): value is T => (choices as readonly unknown[]).includes(value),
      () => listChoices(choices),
    )
  }

  /** A finite number within the range. */
  number<F>(name: string, range: NumberRange, fallback: F): number | F {
    return this.#read(
      name,
      fallback,
      (value): value is number => typeof value === "number" && Number.isFinite(value) && within(value, range),
      () => `a number${rangeText(range)}`,
    )
  }

  /** A safe integer within the range. */
  integer<F>(name: string, range: NumberRange, fallback: F): number | F {
    return this.#read(
      name,
      fallback,
      (value): value is number => typeof value === "number" && Number.isSafeInteger(value) && within(value, range),
      () => `an integer${rangeText(range)}`,
    )
  }

  /** An instance of the class `kind`, whose constructor may be private. */
  instance<T, F>(name: string, kind: { readonly prototype: T; readonly name: string }, fallback: F): T | F {
    return this.#read(
      name,
      fallback,
      (value): value is T => value instanceof (kind as unknown as new () => unknown),
      () => withArticle(kind.name),
    )
  }

  /** The option "signal". */
  signal(): AbortSignal | undefined {
    return this.instance("signal", AbortSignal, undefined)
  }

  /** The option "onProgress". */
  onProgress(): ((progress: Progress) => void) | undefined {
    return this.#read(
      "onProgress",
      undefined,
      (value): value is (progress: Progress) => void => typeof value === "function",
      () => "a function",
    )
  }
}

/** Whether a number lies within a range. */
export function within(value: number, { min, max, aboveMin }: NumberRange): boolean {
  if (min !== undefined && (aboveMin ? value <= min : value < min)) return false
  return max === undefined || value <= max
}

/** " of at least 1", " from 1 to 5", or nothing. */
export function rangeText({ min, max, aboveMin }: NumberRange): string {
  if (min === undefined) return max === undefined ? "" : ` of at most ${max}`
  if (max === undefined) return aboveMin ? ` above ${min}` : ` of at least ${min}`
  return aboveMin ? ` above ${min} and at most ${max}` : ` from ${min} to ${max}`
}
