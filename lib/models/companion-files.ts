// The small JSON and text files beside a checkpoint's weights.
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { ioError, TsqError } from "../core/errors.ts"

/** The text of a file, null where there is none. */
export async function readOptionalText(directory: string, name: string): Promise<string | null> {
  const path = join(directory, name)
  try {
    return await readFile(path, "utf8")
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return null
    throw ioError("read", path, cause)
  }
}

/** A parsed JSON object, null where there is no such file. ERR_FORMAT when it holds anything else. */
export async function readOptionalObject(directory: string, name: string): Promise<Record<string, unknown> | null> {
  const text = await readOptionalText(directory, name)
  return text === null ? null : parseObject(text, join(directory, name))
}

/** ERR_FORMAT, naming the file, for anything but a JSON object. */
export function parseObject(text: string, path: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new TsqError("ERR_FORMAT", `${path} is not valid JSON: ${(cause as Error).message}`, { cause })
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new TsqError("ERR_FORMAT", `${path} does not hold a JSON object`)
  return value as Record<string, unknown>
}
