// Strict JSON: duplicate keys are refused (two readers of one file must never see different values), and edits of a text
// leave every untouched value as it was written, number lexemes included (`30.0` stays `30.0`: transformers 5 rejects `30`).
import { TsqError } from "../core/errors.ts"

export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue }
export type JsonObject = { [key: string]: JsonValue }

/** Nesting beyond this is refused; it is the limit of the reference safetensors parser's JSON reader too. */
const maxDepth = 128

/**
 * Parses `text`; `what` names it in errors. ERR_CORRUPT for anything but one JSON value, for duplicate keys, for strings
 * that are not valid Unicode and for nesting deeper than 128. `number` turns the lexeme of a number into its value.
 */
export function parseJson(text: string, what: string, number: (lexeme: string) => number = Number): JsonValue {
  checkGrammar(text, what)
  return new Reader(text, what, number).value(0)
}

/** parseJson for a text that has to be an object. */
export function parseJsonObject(text: string, what: string, number?: (lexeme: string) => number): JsonObject {
  const value = parseJson(text, what, number)
  if (!isObject(value)) throw new TsqError("ERR_CORRUPT", `${what}: holds ${describe(value)}, expected a JSON object`)
  return value
}

export const isObject = (value: unknown): value is Record<string, unknown> & JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** What a value is, for messages: "a string", "an array" … */
export function describe(value: unknown): string {
  if (value === undefined) return "nothing"
  if (value === null) return "null"
  if (Array.isArray(value)) return "an array"
  if (typeof value === "object") return "an object"
  return `${typeof value} ${JSON.stringify(value)?.slice(0, 60)}`
}

/**
 * Changes, inserts (at the end) and, with undefined, deletes top-level keys of a JSON object's text. Keys and values that
 * are not named keep their text byte for byte; indentation and a final newline follow the original.
 */
export function editJson(text: string, edits: Readonly<Record<string, unknown>>, what = "JSON text"): string {
  checkGrammar(text, what)
  const members = new Reader(text, what, Number).members()
  const multiline = /^\s*\{\s*\n/.test(text)
  const indent = multiline ? (/\n([ \t]*)"/.exec(text)?.[1] ?? "  ") : ""
  const write = (value: unknown) => {
    if (!multiline) return JSON.stringify(value)
    return JSON.stringify(value, null, indent || 2).replaceAll("\n", `\n${indent}`)
  }
  const kept = members.filter(({ key }) => !(Object.hasOwn(edits, key) && edits[key] === undefined))
  const lines = kept.map(member => {
    const edited = Object.hasOwn(edits, member.key)
    return `${member.keyText}: ${edited ? write(edits[member.key]) : member.valueText}`
  })
  const present = new Set(members.map(member => member.key))
  for (const [key, value] of Object.entries(edits))
    if (value !== undefined && !present.has(key)) lines.push(`${JSON.stringify(key)}: ${write(value)}`)
  const ending = /\n\s*$/.test(text) ? "\n" : ""
  if (lines.length === 0) return `{}${ending}`
  if (!multiline) return `{${lines.join(", ")}}${ending}`
  return `{\n${lines.map(line => indent + line).join(",\n")}\n}${ending}`
}

function checkGrammar(text: string, what: string): void {
  try {
    JSON.parse(text)
  } catch (cause) {
    throw new TsqError("ERR_CORRUPT", `${what}: not valid JSON: ${(cause as Error).message}`, { cause })
  }
}

interface Member {
  key: string
  keyText: string
  valueText: string
}

/** Walks a text whose grammar has been checked, so that every token is what its first character says. */
class Reader {
  readonly #text: string
  readonly #what: string
  readonly #number: (lexeme: string) => number
  readonly #token = /[ \t\r\n]*("(?:[^"\\]|\\.)*"|[{}[\],:]|[^ \t\r\n{}[\],:"]+)/y

  constructor(text: string, what: string, number: (lexeme: string) => number) {
    this.#text = text
    this.#what = what
    this.#number = number
  }

  value(depth: number, token = this.#next()): JsonValue {
    if (token === "{") return this.#object(depth + 1)
    if (token === "[") return this.#array(depth + 1)
    if (token.startsWith('"')) return this.#string(token)
    if (token === "true" || token === "false") return token === "true"
    return token === "null" ? null : this.#number(token)
  }

  /** The members of the text, which has to be an object, with the text of each. */
  members(): Member[] {
    const members: Member[] = []
    if (this.#next() !== "{") throw new TsqError("ERR_CORRUPT", `${this.#what}: expected a JSON object`)
    const seen = new Set<string>()
    for (let keyText = this.#next(); keyText !== "}"; keyText = this.#next()) {
      if (keyText === ",") continue
      const key = this.#uniqueKey(keyText, seen)
      this.#next()
      const begin = this.#token.lastIndex
      this.value(1)
      members.push({ key, keyText, valueText: this.#text.slice(begin, this.#token.lastIndex).trim() })
    }
    return members
  }

  #object(depth: number): JsonObject {
    this.#checkDepth(depth)
    const object: JsonObject = {}
    const seen = new Set<string>()
    for (let token = this.#next(); token !== "}"; token = this.#next()) {
      if (token === ",") continue
      const key = this.#uniqueKey(token, seen)
      this.#next()
      const value = this.value(depth)
      // Assigning `__proto__` would set the prototype instead of a key.
      if (key === "__proto__")
        Object.defineProperty(object, key, { value, enumerable: true, writable: true, configurable: true })
      else object[key] = value
    }
    return object
  }

  #array(depth: number): JsonValue[] {
    this.#checkDepth(depth)
    const array: JsonValue[] = []
    for (let token = this.#next(); token !== "]"; token = this.#next())
      if (token !== ",") array.push(this.value(depth, token))
    return array
  }

  #uniqueKey(token: string, seen: Set<string>): string {
    const key = this.#string(token)
    if (seen.has(key))
      throw new TsqError("ERR_CORRUPT", `${this.#what}: the key ${token.slice(0, 200)} appears twice in one object`)
    seen.add(key)
    return key
  }

  #string(token: string): string {
    const value = JSON.parse(token) as string
    if (/[\ud800-\udfff]/u.test(value))
      throw new TsqError("ERR_CORRUPT", `${this.#what}: the string ${token.slice(0, 200)} holds half a surrogate pair`)
    return value
  }

  #checkDepth(depth: number): void {
    if (depth > maxDepth) throw new TsqError("ERR_CORRUPT", `${this.#what}: nested more than ${maxDepth} levels deep`)
  }

  #next(): string {
    return (this.#token.exec(this.#text) as RegExpExecArray)[1] as string
  }
}
