// Tasks in the shape of lm-evaluation-harness: multiple choice, cloze and rolling perplexity, from a file of documents.
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"
import { codePoints } from "../engine/text-size.ts"

/** What parts a context from each of its choices where the file does not say so (the harness's target_delimiter). */
const defaultDelimiter = " "

export interface ChoiceDocument {
  context: string
  choices: string[]
  /** Index of the right choice. */
  label: number
}

export interface ContinuationDocument {
  context: string
  /** With the space that parts it from the context. */
  continuation: string
}

export interface TextDocument {
  text: string
}

export type Task = { name: string; delimiter: string } & (
  | { kind: "multiple_choice"; documents: ChoiceDocument[] }
  | { kind: "loglikelihood"; documents: ContinuationDocument[] }
  | { kind: "loglikelihood_rolling"; documents: TextDocument[] }
)

/**
 * Reads a task: JSON Lines, a JSON array of documents, or { name?, targetDelimiter?, documents }. Every document is of one
 * kind: { context, choices, label }, { context, continuation } or { text }; other keys are ignored. ERR_FORMAT names the document.
 */
export function parseTask(source: string, name: string): Task {
  return makeTask(readDocuments(source, name), name)
}

/** A task that was not read from a file. ERR_OPTION for what is none, ERR_FORMAT for its documents. */
export function checkTask(task: unknown): Task {
  if (!isRecord(task) || !Array.isArray(task.documents))
    throw new TsqError(
      "ERR_OPTION",
      `evaluateTask: the task is ${describe(task)}, expected the path of a file or { name, kind, delimiter, documents }`,
    )
  const name = typeof task.name === "string" ? task.name : "task"
  const { kind, delimiter: targetDelimiter, documents } = task
  const checked = makeTask(checkAbout({ name, targetDelimiter, documents } as Documents, name), name)
  if (kind === checked.kind) return checked
  throw new TsqError(
    "ERR_OPTION",
    `evaluateTask: the kind of ${name} is ${describe(kind)}, expected ${JSON.stringify(checked.kind)} for its documents`,
  )
}

function makeTask({ documents, ...about }: Documents, name: string): Task {
  const task = { name: about.name ?? name, delimiter: about.targetDelimiter ?? defaultDelimiter }
  const kind = kindOf(documents[0], place(name, 0))
  const objects = documents.map((document, i) => {
    const found = kindOf(document, place(name, i))
    if (found !== kind)
      throw new TsqError(
        "ERR_FORMAT",
        `${place(name, i)} is of the kind ${found}, the first one ${kind}; give every kind a file of its own`,
      )
    return document as Record<string, unknown>
  })
  const read = <T>(check: (document: Record<string, unknown>, where: string) => T): T[] =>
    objects.map((document, i) => check(document, place(name, i)))
  if (kind === "multiple_choice") return { ...task, kind, documents: read(choiceDocument) }
  if (kind === "loglikelihood") return { ...task, kind, documents: read(continuationDocument) }
  return { ...task, kind, documents: read(textDocument) }
}

const place = (name: string, index: number) => `${name}: document ${index + 1}`

interface Documents {
  name?: string
  targetDelimiter?: string
  documents: unknown[]
}

function readDocuments(source: string, name: string): Documents {
  const parse = (text: string, what: string): unknown => {
    try {
      return JSON.parse(text)
    } catch (cause) {
      throw new TsqError("ERR_FORMAT", `${what} is no JSON: ${(cause as Error).message}`, { cause })
    }
  }
  let found: Documents
  const lines = source.split("\n").filter(line => line.trim() !== "")
  if (lines.length > 1 && /^\s*\{.*\}\s*$/.test(lines[0]!) && isDocument(lines[0]!))
    found = { documents: lines.map((line, i) => parse(line, place(name, i))) }
  else {
    const value = parse(source, name)
    if (Array.isArray(value)) found = { documents: value }
    else if (isRecord(value) && Array.isArray(value.documents)) found = value as unknown as Documents
    else found = { documents: [value] }
  }
  return checkAbout(found, name)
}

function checkAbout(found: Documents, name: string): Documents {
  if (found.documents.length === 0) throw new TsqError("ERR_FORMAT", `${name} has no documents, expected at least one`)
  for (const key of ["name", "targetDelimiter"] as const)
    if (found[key] !== undefined && typeof found[key] !== "string")
      throw new TsqError("ERR_FORMAT", `${name}: ${key} is ${describe(found[key])}, expected a string`)
  return found
}

/** Whether a line is a whole JSON value: the first line of JSON Lines, but not of an object written over several. */
function isDocument(line: string): boolean {
  try {
    JSON.parse(line)
    return true
  } catch (error) {
    if (error instanceof SyntaxError) return false
    throw error
  }
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

function kindOf(document: unknown, where: string): Task["kind"] {
  if (isRecord(document)) {
    if ("choices" in document) return "multiple_choice"
    if ("continuation" in document) return "loglikelihood"
    if ("text" in document) return "loglikelihood_rolling"
  }
  throw new TsqError(
    "ERR_FORMAT",
    `${where} is ${isRecord(document) ? `an object of ${Object.keys(document).join(", ") || "nothing"}` : describe(document)}, expected { context, choices, label }, { context, continuation } or { text }`,
  )
}

function text(document: Record<string, unknown>, key: string, where: string, mayBeEmpty = false): string {
  const value = document[key]
  if (typeof value === "string" && (mayBeEmpty || value !== "")) return value
  throw new TsqError(
    "ERR_FORMAT",
    `${where}: ${key} is ${value === undefined ? "missing" : describe(value)}, expected a string${mayBeEmpty ? "" : " that is not empty"}`,
  )
}

function choiceDocument(document: Record<string, unknown>, where: string): ChoiceDocument {
  const { choices, label } = document
  if (!Array.isArray(choices) || choices.length < 2 || !choices.every(item => typeof item === "string" && item !== ""))
    throw new TsqError(
      "ERR_FORMAT",
      `${where}: choices is ${describe(choices)}, expected at least two strings that are not empty`,
    )
  if (typeof label !== "number" || !Number.isInteger(label) || label < 0 || label >= choices.length)
    throw new TsqError(
      "ERR_FORMAT",
      `${where}: label is ${label === undefined ? "missing" : describe(label)}, expected the index of the right choice, 0 to ${choices.length - 1}`,
    )
  return { context: text(document, "context", where, true), choices, label }
}

const continuationDocument = (document: Record<string, unknown>, where: string): ContinuationDocument => ({
  context: text(document, "context", where, true),
  continuation: text(document, "continuation", where),
})

const textDocument = (document: Record<string, unknown>, where: string): TextDocument => ({
  text: text(document, "text", where),
})

/** Of a choice, as the harness counts it: without the delimiter; for acc_norm in characters, for acc_bytes in UTF-8 bytes. */
export const lengthOf = {
  characters: codePoints,
  bytes: (choice: string) => Buffer.byteLength(choice),
}
