// Pre-tokenizers of byte-level vocabularies: what tokenizer.ggml.pre stands for, as regular expressions of tokenizer.json.
// Sources: the tokenizer.json of the models named, and ggml-org/llama.cpp, src/llama-vocab.cpp, for which names share one.
import { z } from "zod"
import { TsqError } from "../core/errors.ts"
import { describe } from "../core/options.ts"

export interface PreTokenizer {
  /** Values of tokenizer.ggml.pre. The first is written. */
  names: readonly string[]
  /** Each splits what the ones before have left, into matches and what lies between them. */
  splits: readonly string[]
  /** A word that is a token is not put together from merges. */
  ignoreMerges?: boolean
  /** A text gets a BOS where the file does not say. */
  addBos?: boolean
}

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
const rest = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
const upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
const lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
const start = "[^\\r\\n\\p{L}\\p{N}]?"

/** GPT-2's, which tokenizer.json's ByteLevel has built in. */
const gpt2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/** cl100k's, by how digits are taken. */
const cl100k = (digits: string) => `${contractions}|${start}\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${rest}`
/** o200k's, which ends a word where a capital follows. `ending`: what may follow a word. */
const o200k = (ending: string, digits: string) =>
  `${start}${upper}*${lower}+${ending}|${start}${upper}+${lower}*${ending}|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${rest}`

const digit = "\\p{N}"
const threeDigits = "\\p{N}{1,3}"
/** DeepSeek's: cased letters, full-width and general punctuation, Chinese with its neighbours, Chinese and kana. */
const cased =
  "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿ\u0386\u0388-\u038a\u038c\u038e-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽ\u1c90-\u1cba\u1cbd-\u1cbfᴀ-ᴫᵫ-ᵷᵹ-ᶚ" +
  "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4" +
  "\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffcℂℇ\u210a-\u2113ℕ\u2119-\u211dℤ\u2126ℨ\u212a-\u212d\u212f-\u2134" +
  "ℹ\u213c-\u213f\u2145-\u2149ⅎ\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f" +
  "\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\u{10400}-\u{1044f}\u{104b0}-\u{104d3}" +
  "\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}"
const punctuation = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
const chinese = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
const kana = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
const deepseek3 =
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" +
  rest

/** Where several have the same splits, those that keep merges are told apart by ignoreMerges. */
const preTokenizers: readonly PreTokenizer[] = [
  {
    names: ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
    splits: [cl100k(threeDigits)],
    ignoreMerges: true,
    addBos: true,
  },
  { names: ["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], splits: [cl100k(threeDigits)] },
  {
    names: ["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "megrez", "hunyuan", "solar-open", "grok-2"],
    splits: [cl100k(digit)],
  },
  {
    names: ["qwen35"],
    splits: [`${contractions}|${start}[\\p{L}\\p{M}]+|${digit}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|${rest}`],
  },
  {
    names: [
      ...["gpt-2", "phi-2", "mpt", "olmo", "gigachat", "a.x-4.0", "mellum", "exaone4", "trillion", "granite-docling"],
      ...["jina-es", "jina-de", "modern-bert", "jais"],
    ],
    splits: [gpt2],
  },
  {
    names: ["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
    splits: [digit, gpt2],
  },
  { names: ["tekken"], splits: [o200k("", digit)], ignoreMerges: true, addBos: true },
  { names: ["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], splits: [o200k(`${contractions}?`, threeDigits)] },
  {
    names: ["deepseek-llm"],
    splits: ["[\\r\\n]", `\\s?[${cased}]+`, `\\s?[${punctuation}]+`, "\\s+$", chinese, "\\p{N}+"],
  },
  { names: ["deepseek-coder"], splits: ["[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", chinese, digit] },
  { names: ["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], splits: [threeDigits, kana, deepseek3] },
  {
    names: ["bailingmoe", "bailingmoe2", "llada-moe"],
    splits: [
      `'(?i:[sdmt]|ll|ve|re)|${start}\\p{L}+|${digit}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+`,
    ],
  },
  {
    names: ["seed-coder"],
    splits: [`${contractions}|${start}\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|${rest}`],
  },
  { names: ["minicpm5"], splits: [threeDigits, cl100k("\\p{N}+")], ignoreMerges: true },
  { names: ["falcon"], splits: ["[\\p{P}$+<=>^~|`]+", gpt2, "[0-9][0-9][0-9]"] },
  // What llama.cpp takes where a file does not say.
  { names: ["default"], splits: ["[\\p{P}$+<=>^~|]+", gpt2, "\\p{N}+", "[0-9][0-9][0-9]"] },
]

const byName = new Map(preTokenizers.flatMap(each => each.names.map(name => [name, each] as const)))

/** ERR_UNSUPPORTED, listing the known ones, for another name: to guess would split words in the wrong places. */
export function preTokenizerNamed(name: string, path: string): PreTokenizer {
  const found = byName.get(name)
  if (found) return found
  throw new TsqError(
    "ERR_UNSUPPORTED",
    `${path}: metadata tokenizer.ggml.pre is ${describe(name)}, which this version does not know; known are ${[...byName.keys()].sort().join(", ")}`,
  )
}

/** tokenizer.json's pre_tokenizer. */
export function preTokenizerJson({ splits }: PreTokenizer): Record<string, unknown> {
  const builtIn = splits.at(-1) === gpt2
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: builtIn }
  const split = (Regex: string) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false })
  const steps = [...(builtIn ? splits.slice(0, -1) : splits).map(split), byteLevel]
  return steps.length === 1 ? byteLevel : { type: "Sequence", pretokenizers: steps }
}

const stepSchema = z.object({
  type: z.string(),
  pretokenizers: z.array(z.unknown()).nullish(),
  pattern: z.object({ Regex: z.string().nullish() }).nullish(),
  behavior: z.string().nullish(),
  invert: z.boolean().nullish(),
  individual_digits: z.boolean().nullish(),
  add_prefix_space: z.boolean().nullish(),
  use_regex: z.boolean().nullish(),
})

/** Whether a pre_tokenizer of tokenizer.json is a byte-level one. */
export function isByteLevel(json: unknown): boolean {
  return stepsOf(json).some(step => step?.type === "ByteLevel")
}

/** The name of tokenizer.json's pre_tokenizer and ignore_merges. ERR_UNSUPPORTED, with what it does, where there is none. */
export function preTokenizerName(json: unknown, ignoreMerges: boolean): string {
  const splits = stepsOf(json).flatMap(step => splitsOf(step))
  const same = preTokenizers.filter(each => sameSplits(each.splits, splits))
  const found = same.find(each => (each.ignoreMerges ?? false) === ignoreMerges)
  if (found) return found.names[0]!
  throw new TsqError(
    "ERR_UNSUPPORTED",
    same.length > 0
      ? `tokenizer.json: ignore_merges is ${ignoreMerges}, and a GGUF file's tokenizer.ggml.pre ${JSON.stringify(same[0]!.names[0])} means the contrary`
      : `tokenizer.json: the pre_tokenizer splits by ${splits.map(describe).join(", then by ") || "nothing"}, which no known value of tokenizer.ggml.pre means`,
  )
}

type Step = z.infer<typeof stepSchema> | null

function stepsOf(json: unknown): Step[] {
  const { data } = stepSchema.nullable().safeParse(json ?? null)
  if (!data) return [null]
  return data.type === "Sequence" ? (data.pretokenizers ?? []).flatMap(stepsOf) : [data]
}

/** The regular expressions that a step splits by. */
function splitsOf(step: Step): string[] {
  if (step?.type === "ByteLevel" && !step.add_prefix_space) return (step.use_regex ?? true) ? [gpt2] : []
  if (step?.type === "Digits") return [step.individual_digits ? digit : "\\p{N}+"]
  const regex = step?.type === "Split" && step.behavior === "Isolated" && !step.invert ? step.pattern?.Regex : null
  if (regex !== null && regex !== undefined) return [regex]
  throw new TsqError(
    "ERR_UNSUPPORTED",
    `tokenizer.json: the pre_tokenizer has a step ${describe(step?.type ?? null)} as GGUF cannot have it; a Split by a regular expression into isolated pieces, Digits and ByteLevel without a prefix space can be written`,
  )
}

/** Line breaks stand in a regular expression as themselves or escaped; digits that never merge may be taken one by one or in runs. */
function sameSplits(known: readonly string[], found: readonly string[]): boolean {
  const plain = (regex: string) => regex.replaceAll("\r", "\\r").replaceAll("\n", "\\n")
  return known.length === found.length && known.every((regex, i) => plain(regex) === plain(found[i]!))
}
