// Where things go: results to stdout, notes and errors to stderr, exactly one JSON object with --json.

import { writeFile } from "node:fs/promises"
import { ioError } from "../core/errors.ts"

export const printJson = (value: unknown): void => {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

export const print = (text: string): void => {
  process.stdout.write(`${text}\n`)
}

export const note = (text: string): void => {
  process.stderr.write(`${text}\n`)
}

export const warn = (text: string): void => note(`warning: ${text}`)

/** One line: code, what, what to do. Details for developers with TSQ_DEBUG. */
export function printError(error: unknown): void {
  const { code, message, stack } =
    error instanceof Error
      ? (error as Error & { code?: string })
      : { code: undefined, message: String(error), stack: undefined }
  note(`${code ?? "error"}: ${message.replaceAll(/\s*\n\s*/g, " ")}`)
  if (process.env.TSQ_DEBUG && stack) note(stack)
}

/** A page beside the output, for --html. */
export async function writePage(path: string, page: string): Promise<void> {
  try {
    await writeFile(path, page)
  } catch (cause) {
    throw ioError("write", path, cause)
  }
  note(`wrote ${path}`)
}

const units = ["B", "kB", "MB", "GB", "TB"]

export function bytesText(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${units[unit]}`
}

export function durationText(milliseconds: number): string {
  const seconds = Math.round(milliseconds / 1000)
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`
}
