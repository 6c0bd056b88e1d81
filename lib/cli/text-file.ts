// Text that calibrates or evaluates, from a file.
import { readFile } from "node:fs/promises"
import { ioError, TsqError } from "../core/errors.ts"

/** UTF-8 text; ERR_OPTION when the file is empty or no text. */
export async function readText(path: string, flag: string): Promise<string> {
  let bytes: Buffer
  try {
    bytes = await readFile(path)
  } catch (cause) {
    throw ioError(`read ${flag}`, path, cause)
  }
  let text: string
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new TsqError("ERR_OPTION", `${flag} ${path}: is not UTF-8 text`, { cause })
  }
  if (text.trim() === "") throw new TsqError("ERR_OPTION", `${flag} ${path}: is empty`)
  if (text.includes("\0")) throw new TsqError("ERR_OPTION", `${flag} ${path}: holds NUL bytes, expected plain text`)
  return text
}
