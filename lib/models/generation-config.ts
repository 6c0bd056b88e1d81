// generation_config.json: how the model's makers want it sampled.
import { z } from "zod"
import { readOptionalObject } from "./companion-files.ts"
import { idList, parseWith } from "./config.ts"

const ids = z.union([z.number().int().min(0), z.array(z.number().int().min(0))])
const schema = z.object({
  bos_token_id: ids.nullish(),
  eos_token_id: ids.nullish(),
  do_sample: z.boolean().nullish(),
  temperature: z.number().min(0).nullish(),
  top_k: z.number().int().min(0).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().gt(0).nullish(),
  max_new_tokens: z.number().int().min(1).nullish(),
})

export interface GenerationDefaults {
  /** 0 where do_sample is not true: greedy. */
  temperature: number
  topK: number
  topP: number
  minP: number
  repetitionPenalty: number
  /** null: not stated. */
  maxTokens: number | null
  /** Empty: not stated. */
  eosTokenIds: number[]
}

/** Of a model that states nothing: greedy. */
export const plainGeneration = (): GenerationDefaults => defaultsOf({})

/** Keys that the file lacks are off: it states what differs from plain sampling. */
export async function readGenerationDefaults(directory: string): Promise<GenerationDefaults> {
  const keys = parseWith(
    schema,
    (await readOptionalObject(directory, "generation_config.json")) ?? {},
    "generation_config.json",
  )
  return defaultsOf(keys)
}

function defaultsOf(keys: z.infer<typeof schema>): GenerationDefaults {
  return {
    temperature: keys.do_sample ? (keys.temperature ?? 1) : 0,
    topK: keys.top_k ?? 0,
    topP: keys.top_p ?? 1,
    minP: keys.min_p ?? 0,
    repetitionPenalty: keys.repetition_penalty ?? 1,
    maxTokens: keys.max_new_tokens ?? null,
    eosTokenIds: idList(keys.eos_token_id),
  }
}
