// Reading quantization_config: values of the types they should have, or an error that names the key.

import { describe } from "../containers/json.ts"
import { TsqError } from "../core/errors.ts"

type Fields = Record<string, unknown>

const refuse = (key: string, value: unknown, expected: string) =>
  new TsqError("ERR_FORMAT", `quantization_config.${key} is ${describe(value)}, expected ${expected}`)

/** The first of `keys` that is there (old writers used other names); `fallback` where none is and it is not undefined. */
export function integerField(fields: Fields, keys: readonly string[], fallback?: number): number {
  for (const key of keys) {
    const value = fields[key]
    if (value === undefined || value === null) continue
    if (!Number.isSafeInteger(value)) throw refuse(key, value, "an integer")
    return value as number
  }
  if (fallback === undefined) throw refuse(keys[0] as string, undefined, "an integer")
  return fallback
}

export function booleanField(fields: Fields, key: string, fallback: boolean): boolean {
  const value = fields[key]
  if (value === undefined || value === null) return fallback
  if (typeof value !== "boolean") throw refuse(key, value, "true or false")
  return value
}

export function stringField(fields: Fields, key: string): string | undefined {
  const value = fields[key]
  if (value === undefined || value === null) return undefined
  if (typeof value !== "string") throw refuse(key, value, "a string")
  return value
}

export function stringsField(fields: Fields, key: string): string[] {
  const value = fields[key]
  if (value === undefined || value === null) return []
  if (!Array.isArray(value) || value.some(item => typeof item !== "string"))
    throw refuse(key, value, "an array of strings")
  return value as string[]
}

/** A group size: −1 for one group a row, or a positive integer. */
export function groupSizeField(fields: Fields, keys: readonly string[], fallback?: number): number {
  const size = integerField(fields, keys, fallback)
  if (size !== -1 && size < 1) throw refuse(keys[0] as string, size, "-1 or a positive integer")
  return size
}
