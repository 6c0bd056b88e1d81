// Metadata of a GGUF file, read by type and range, and made.
import { TsqError } from "../core/errors.ts"
import { describe, type NumberRange, rangeText, within } from "../core/options.ts"
import type { GgufArray, GgufMetadata, GgufValue } from "./gguf-types.ts"

/** Whole numbers of every width and sign: writers differ. */
const integerTypes: ReadonlySet<string> = new Set(["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64"])
const flagTypes: ReadonlySet<string> = new Set(["bool"])
const floatTypes: ReadonlySet<string> = new Set(["f32", "f64"])

/** Reads one file's metadata. Failed checks throw ERR_FORMAT: `<path>: metadata <key> is <found>, expected <what>`. */
export class GgufFields {
  readonly path: string
  readonly #metadata: GgufMetadata

  constructor(metadata: GgufMetadata, path: string) {
    this.#metadata = metadata
    this.path = path
  }

  has(key: string): boolean {
    return this.#metadata.has(key)
  }

  keys(): Iterable<string> {
    return this.#metadata.keys()
  }

  isArray(key: string): boolean {
    return this.#metadata.get(key)?.type === "array"
  }

  fail(key: string, expected: string, code: "ERR_FORMAT" | "ERR_UNSUPPORTED" = "ERR_FORMAT"): never {
    throw new TsqError(code, `${this.path}: metadata ${key} is ${this.#found(key)}, expected ${expected}`)
  }

  #found(key: string): string {
    const field = this.#metadata.get(key)
    if (field === undefined) return "missing"
    if (field.type === "array") return `an array of ${field.value.length} (${field.of})`
    return field.type === "string" ? describe(field.value) : String(field.value)
  }

  /** A value of the wrong type is named by its type. */
  #failType(key: string, type: string, expected: string): never {
    throw new TsqError("ERR_FORMAT", `${this.path}: metadata ${key} is of type ${type}, expected ${expected}`)
  }

  #read<T, F>(key: string, expected: string, fallback: [F?], read: (field: GgufValue) => T | undefined): T | F {
    const field = this.#metadata.get(key)
    if (field === undefined) return fallback.length > 0 ? (fallback[0] as F) : this.fail(key, expected)
    return read(field) ?? this.#failType(key, field.type === "array" ? `array of ${field.of}` : field.type, expected)
  }

  /** Any integer type. Without a fallback the key has to be there. */
  integer<F = never>(key: string, range: NumberRange = {}, ...fallback: [F?]): number | F {
    const expected = `an integer${rangeText(range)}`
    return this.#read(key, expected, fallback, field => {
      if (!integerTypes.has(field.type)) return undefined
      const value = Number(field.value)
      return Number.isSafeInteger(value) && within(value, range) ? value : this.fail(key, expected)
    })
  }

  /** A finite f32 or f64. An f32 comes as the shortest decimal that it stands for: 1e-5, not 9.999999747378752e-6. */
  number<F = never>(key: string, range: NumberRange = {}, ...fallback: [F?]): number | F {
    const expected = `a number${rangeText(range)}`
    return this.#read(key, expected, fallback, field => {
      if (!floatTypes.has(field.type)) return undefined
      const value = field.value as number
      if (!Number.isFinite(value) || !within(value, range)) this.fail(key, expected)
      return field.type === "f32" ? shortest(value, decimal => Math.fround(decimal) === value) : value
    })
  }

  string<F = never>(key: string, ...fallback: [F?]): string | F {
    return this.#read(key, "a string", fallback, field => (field.type === "string" ? field.value : undefined))
  }

  flag<F = never>(key: string, ...fallback: [F?]): boolean | F {
    return this.#read(key, "true or false", fallback, field => (field.type === "bool" ? field.value : undefined))
  }

  strings<F = never>(key: string, ...fallback: [F?]): readonly string[] | F {
    return this.#read(key, "an array of strings", fallback, field =>
      field.type === "array" && field.of === "string" ? field.value : undefined,
    )
  }

  /** Elements of an integer type. */
  integers<F = never>(key: string, ...fallback: [F?]): ArrayLike<number> | F {
    return this.#read(key, "an array of integers", fallback, field => numbersOf(field, integerTypes))
  }

  /** Booleans, or integers that are 0 for false. */
  flags(key: string): boolean[] {
    const values = this.#read<ArrayLike<number>, never>(
      key,
      "an array of booleans",
      [],
      field => numbersOf(field, flagTypes) ?? numbersOf(field, integerTypes),
    )
    return Array.from(values, value => value !== 0)
  }

  /** Elements of any numeric type. */
  numbers<F = never>(key: string, ...fallback: [F?]): ArrayLike<number> | F {
    return this.#read(
      key,
      "an array of numbers",
      fallback,
      field => numbersOf(field, floatTypes) ?? numbersOf(field, integerTypes),
    )
  }
}

function numbersOf(field: GgufValue, types: ReadonlySet<string>): ArrayLike<number> | undefined {
  if (field.type !== "array" || !types.has(field.of)) return undefined
  const { value } = field as Exclude<GgufArray, { of: "string" | "array" }>
  return value instanceof BigUint64Array || value instanceof BigInt64Array
    ? Array.from(value as Iterable<bigint>, Number)
    : value
}

/** The number of fewest decimal digits that `stands` for the same as `value`. */
export function shortest(value: number, stands: (decimal: number) => boolean): number {
  for (let digits = 1; digits < 17; digits++) {
    const decimal = Number(value.toPrecision(digits))
    if (stands(decimal)) return decimal
  }
  return value
}

export const u32 = (value: number): GgufValue => ({ type: "u32", value })
export const f32 = (value: number): GgufValue => ({ type: "f32", value })
export const flag = (value: boolean): GgufValue => ({ type: "bool", value })
export const string = (value: string): GgufValue => ({ type: "string", value })
export const strings = (value: readonly string[]): GgufValue => ({ type: "array", of: "string", value })
