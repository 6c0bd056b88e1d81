// What every table of docs/quality.md is made with: models with their texts, a folder to work in, and one way to quantize and to measure.
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { basename, join } from "node:path"
import { fileURLToPath } from "node:url"
import type { showProgress } from "../../lib/cli/progress.ts"
import {
  type Evaluation,
  evaluateModel,
  inspectModel,
  type QuantizeModelOptions,
  quantizeModel,
} from "../../lib/index.ts"

export const root = fileURLToPath(new URL("../..", import.meta.url))

export interface Subject {
  name: string
  /** Folder of the checkpoint. */
  path: string
  /** Files of texts. */
  calibration: string
  evaluation: string
  groupSize: number
}

/** Figures that came with a model: float64, from another implementation. */
export interface Reference {
  quantization: { method: string; bits: number; group: number; ppl: number; kl: number; top1: number }[]
  perplexity: { file: string; protocol: string; window: number; ppl: number }[]
}

export interface Context {
  subjects: readonly Subject[]
  /** An empty folder; what is written there is deleted at the end. */
  work: string
  progress: ReturnType<typeof showProgress>
  /** Quantizes a subject and compares it with the unquantized model over its whole text. What was measured once is not measured again. */
  measure(subject: Subject, label: string, options: QuantizeModelOptions): Promise<Measured>
}

export interface Measured {
  bitsPerWeight: number
  perplexity: number
  against: NonNullable<Evaluation["against"]>
  /** Of what learned from GPTQ's codes: how many tensors, and how many whose layer objective is no larger than GPTQ's. */
  learned: { tensors: number; noWorse: number }
}

export const readReference = (subject: Subject): Reference | null => {
  const path = join(subject.path, "reference.json")
  return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Reference) : null
}

/** The protocol of all tables. */
export const evaluation = { protocol: "whole", window: 512 } as const

/** The model of the repository, and every model of a folder with its text in another: what its reference.json names, otherwise WikiText-2. */
export function findSubjects(models: string | undefined, texts: string | undefined): Subject[] {
  const found = [subjectOf(join(root, "models/fable-5m"), join(root, "models/text"))]
  if (models && texts)
    for (const name of readdirSync(models).sort()) {
      const path = join(models, name)
      if (!existsSync(join(path, "config.json")) || found.some(subject => subject.name === name)) continue
      found.push(subjectOf(path, texts))
    }
  return found
}

function subjectOf(path: string, texts: string): Subject {
  const name = basename(path)
  const subject = { name, path, calibration: "", evaluation: "", groupSize: 128 }
  const reference = readReference(subject)
  const file = reference?.perplexity[0] ? basename(reference.perplexity[0].file) : "wikitext2-test.txt"
  subject.evaluation = join(texts, file)
  subject.calibration = join(texts, file.replace("-eval.", "-calib.").replace("wikitext2-test", "wikitext2-valid"))
  for (const text of [subject.evaluation, subject.calibration])
    if (!existsSync(text)) throw new Error(`${name}: there is no text ${text}`)
  return { ...subject, groupSize: reference?.quantization[0]?.group ?? groupSizeOf(path) }
}

/** 128, or the largest power of two that divides all widths of the model: groups as its recipe would have them. */
function groupSizeOf(path: string): number {
  const config = JSON.parse(readFileSync(join(path, "config.json"), "utf8")) as Record<string, number>
  const widths = ["hidden_size", "intermediate_size", "n_embd", "n_inner"].flatMap(key => config[key] ?? [])
  let size = 128
  while (size > 16 && widths.some(width => width % size !== 0)) size /= 2
  return size
}

export function createContext(subjects: readonly Subject[], work: string, progress: Context["progress"]): Context {
  const known = new Map<string, Promise<Measured>>()
  const measure = async (subject: Subject, label: string, options: QuantizeModelOptions): Promise<Measured> => {
    const out = join(work, "measured")
    const needsText =
      options.preset === "best" ||
      (options.rounding !== undefined && !["nearest", "hqq"].includes(options.rounding)) ||
      (options.transforms?.length ?? 0) > 0
    const { tensors } = await quantizeModel(subject.path, out, {
      ...options,
      ...(needsText && {
        ...{ calibration: readFileSync(subject.calibration, "utf8"), samples: 128, sequenceLength: 256, force: true },
      }),
      onProgress: step => progress.onProgress({ ...step, stage: `${subject.name} ${label}` }),
    })
    try {
      const text = readFileSync(subject.evaluation, "utf8")
      const { perplexity, against } = await evaluateModel(out, { text, ...evaluation, against: subject.path })
      const { bitsPerWeight } = await inspectModel(out)
      const started = tensors.filter(({ startError }) => startError !== undefined)
      const noWorse = started.filter(({ error, startError }) => error <= startError!).length
      return { bitsPerWeight, perplexity, against: against!, learned: { tensors: started.length, noWorse } }
    } finally {
      rmSync(out, { recursive: true })
    }
  }
  return {
    ...{ subjects, work, progress },
    measure(subject, label, options) {
      const key = JSON.stringify([subject.path, options])
      const before = known.get(key)
      if (before) return before
      const now = measure(subject, label, options)
      known.set(key, now)
      return now
    },
  }
}

export const percent = (share: number): string => `${(share * 100).toFixed(1)} %`
export const klText = ({ klMean, klStdError }: Measured["against"]): string =>
  `${klMean.toPrecision(3)} ± ${klStdError.toPrecision(1)}`
/** What a version does not have is said in its place; anything else is an error. */
export async function orUnsupported<T>(work: Promise<T>): Promise<T | string> {
  try {
    return await work
  } catch (error) {
    const { code, message } = error as Error & { code?: string }
    if (code === "ERR_UNSUPPORTED" || code === "ERR_OPTION") return message
    throw error
  }
}
