// The trained models that reference figures exist for.
import { existsSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"

const repository = fileURLToPath(new URL("../../../../", import.meta.url))
/** Models and texts that do not ship with the repository. */
const shared = fileURLToPath(new URL("../../../../../shared/", import.meta.url))

export interface Reference {
  prompts: {
    text: string
    ids: number[]
    last_logits: number[]
    greedy_ids: number[]
    greedy_margins: number[]
    greedy_text: string
  }[]
  window: { ids: number[]; nll: number[] }
  perplexity: { file: string; protocol: string; window: number; tokens_scored: number; ppl: number }[]
}

export interface ReferenceModel {
  name: string
  directory: string
  /** Why it cannot be tested here, or false. */
  skip: string | false
  reference(): Reference
  tokenizerCases(): { text: string; ids: number[]; decoded: string }[]
  /** Text of an evaluation file named in the reference, or null where it is not here. */
  text(file: string): string | null
}

function model(name: string, directory: string): ReferenceModel {
  const json = <T>(file: string): T => JSON.parse(readFileSync(`${directory}/${file}`, "utf8")) as T
  return {
    name,
    directory,
    skip: existsSync(`${directory}/reference.json`) ? false : `${name} is not at ../shared/models/${name}`,
    reference: () => json("reference.json"),
    tokenizerCases: () => json("tokenizer-cases.json"),
    text: file => {
      const path = [`${repository}models/${file}`, `${shared}${file}`].find(candidate => existsSync(candidate))
      return path ? readFileSync(path, "utf8") : null
    },
  }
}

export const fable = model("fable-5m", `${repository}models/fable-5m`)
export const stories = model("stories260K", `${shared}models/stories260K`)
export const referenceModels = [fable, stories]

/** Rope vectors of an independent implementation of the formulas in transformers' modeling_rope_utils.py. */
export function ropeVectors(): Record<string, Record<string, unknown>> {
  return JSON.parse(readFileSync(new URL("rope-vectors.json", import.meta.url), "utf8"))
}
