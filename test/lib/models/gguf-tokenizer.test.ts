import { existsSync, readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { Tokenizer as JsonTokenizer } from "@huggingface/tokenizers"
import t from "tap"
import { syntheticVocabulary } from "../../../lib/bench/synthetic-tokenizer.ts"
import { flag, GgufFields, string, strings, u32 } from "../../../lib/containers/gguf-fields.ts"
import type { GgufMetadata, GgufValue } from "../../../lib/containers/gguf-types.ts"
import { mergesOfScores } from "../../../lib/models/gguf-merges.ts"
import { preTokenizerJson, preTokenizerName, preTokenizerNamed } from "../../../lib/models/gguf-pre.ts"
import { tokenizerOfGguf } from "../../../lib/models/gguf-tokenizer.ts"
import { ggufOfTokenizer } from "../../../lib/models/gguf-tokenizer-writer.ts"
import { Tokenizer } from "../../../lib/models/tokenizer.ts"
import { fable, type ReferenceModel, referenceModels, stories } from "./support/reference-models.ts"

type Json = Record<string, unknown>

const path = "model.gguf"
const tokenizerOf = (metadata: GgufMetadata) => {
  const { json, config, templates } = tokenizerOfGguf(metadata, path)
  return new Tokenizer(path, json, config, templates)
}
const filesOf = ({ directory }: ReferenceModel) =>
  ["tokenizer.json", "tokenizer_config.json"].map(
    name => JSON.parse(readFileSync(`${directory}/${name}`, "utf8")) as Json,
  ) as [Json, Json]

/** Texts that lie beside the models, in pieces of some paragraphs. */
function samples(): string[] {
  const folders = ["../../../models/text/", "../../../../shared/text/"].map(each =>
    fileURLToPath(new URL(each, import.meta.url)),
  )
  const folder = folders.reverse().find(existsSync)!
  return readdirSync(folder)
    .filter(name => name.endsWith(".txt"))
    .flatMap(
      name =>
        readFileSync(`${folder}${name}`, "utf8")
          .slice(0, 40_000)
          .match(/.{1,900}/gs)!,
    )
}

for (const model of referenceModels)
  t.test(`${model.name}: to GGUF and back`, { skip: model.skip }, async t => {
    const [json, config] = filesOf(model)
    const original = new Tokenizer(model.directory, json, config, new Map())
    const size = original.vocabularySize
    const { metadata, notes } = ggufOfTokenizer(json, config, { vocabularySize: size })
    t.same(notes, [], "nothing is lost")
    const back = tokenizerOf(metadata)

    t.test("ids and texts of an independent implementation", async t => {
      for (const { text, ids, decoded } of model.tokenizerCases()) {
        t.same(back.encode(text), ids, JSON.stringify(text))
        t.equal(back.decode(ids), decoded, JSON.stringify(text))
        t.equal(back.decode(ids, { skipSpecial: false }), original.decode(ids, { skipSpecial: false }))
      }
    })

    t.test("longer texts", async t => {
      const texts = samples()
      t.ok(texts.length > 80)
      for (const text of texts) {
        const ids = original.encode(text)
        t.same(back.encode(text), ids)
        t.equal(back.decode(ids), original.decode(ids))
      }
    })

    t.test("what the two say of themselves", async t => {
      t.equal(back.vocabularySize, size)
      t.equal(back.bosTokenId, original.bosTokenId)
      t.same(back.eosTokenIds, original.eosTokenIds)
    })

    t.test("once more, the same metadata", async t => {
      const { json, config } = tokenizerOfGguf(metadata, path)
      const again = ggufOfTokenizer(json, config, { vocabularySize: size })
      t.same(again.metadata, metadata)
    })

    t.test("ids without a token are padded, and decode to nothing", async t => {
      const padded = ggufOfTokenizer(json, config, { vocabularySize: size + 3 }).metadata
      const fields = new GgufFields(padded, path)
      t.same(fields.strings("tokenizer.ggml.tokens").slice(-2), [`[PAD${size + 1}]`, `[PAD${size + 2}]`])
      t.same(Array.from(fields.integers("tokenizer.ggml.token_type")).slice(-3), [5, 5, 5])
      const tokenizer = tokenizerOf(padded)
      t.equal(tokenizer.vocabularySize, size)
      t.equal(tokenizer.decode([size + 1]), "")
      t.same(tokenizer.encode(`[PAD${size}]`), original.encode(`[PAD${size}]`))
    })
  })

t.test("a long text is encoded off the event loop though there are no files", async t => {
  const [json, config] = filesOf(fable)
  const tokenizer = tokenizerOf(ggufOfTokenizer(json, config, { vocabularySize: 2048 }).metadata)
  const text = samples().join("").slice(0, 50_000)
  t.same(await tokenizer.encodeAsync(text), tokenizer.encode(text))
})

t.test("the keys of fable-5m", async t => {
  const [json, config] = filesOf(fable)
  const { metadata } = ggufOfTokenizer(json, config, {
    vocabularySize: 2048,
    eosTokenIds: [0, 7, 9, 11],
    templates: new Map([
      ["default", "{{ bos_token }}a"],
      ["tool_use", "b"],
    ]),
  })
  const plain = Object.fromEntries([...metadata].filter(([, value]) => value.type !== "array"))
  t.same(plain, {
    "tokenizer.ggml.model": string("gpt2"),
    "tokenizer.ggml.pre": string("qwen2"),
    "tokenizer.ggml.bos_token_id": u32(0),
    "tokenizer.ggml.eos_token_id": u32(0),
    "tokenizer.ggml.eot_token_id": u32(7),
    "tokenizer.ggml.eom_token_id": u32(9),
    "tokenizer.ggml.padding_token_id": u32(0),
    "tokenizer.ggml.add_bos_token": flag(true),
    "tokenizer.ggml.add_eos_token": flag(false),
    "tokenizer.chat_template": string("{{ bos_token }}a"),
    "tokenizer.chat_template.tool_use": string("b"),
  })
  const tokenizer = tokenizerOf(metadata)
  t.same(tokenizer.chatTemplates, ["default", "tool_use"])
  t.equal(tokenizer.renderChat([{ role: "user", content: "x" }]), "<|endoftext|>a")
})

t.test("scores of stories260K", { skip: stories.skip }, async t => {
  const [json, config] = filesOf(stories)
  const fields = new GgufFields(ggufOfTokenizer(json, config, { vocabularySize: 512 }).metadata, path)
  const tokens = fields.strings("tokenizer.ggml.tokens")
  const types = Array.from(fields.integers("tokenizer.ggml.token_type"))
  t.same(types.slice(0, 4), [2, 3, 3, 6])
  t.same(types.slice(258, 260), [6, 1])
  const merges = mergesOf(tokens, fields.numbers("tokenizer.ggml.scores"))
  t.same(
    merges.map(merge => merge.join(" ")),
    (json.model as { merges: string[] }).merges,
    "merge by merge what tokenizer.json has",
  )
})

function mergesOf(tokens: readonly string[], scores: ArrayLike<number>) {
  return mergesOfScores(tokens, scores, new Map(tokens.map((text, id) => [text, id])), path)
}

t.test("merges follow from scores", async t => {
  const merges = (tokens: Record<string, number>) => {
    const names = Object.keys(tokens)
    const found = mergesOf(names, Object.values(tokens))
    return found.map(merge => merge.join(" "))
  }
  t.same(merges({ a: 0, b: 0, c: 0, ab: -1, abc: -2, bc: 1 }), ["b c", "a b", "a bc", "ab c"], "by result, then by ids")
  t.same(
    merges({ x: 0, xx: -5, xxx: -5, xxxx: -4 }),
    ["x xxx", "xx xx", "xxx x", "x x", "x xx", "xx x"],
    "equal scores: by id",
  )
  t.same(merges({ "𝄞": 0, "𝄟": 0, "𝄞𝄟": 0 }), ["𝄞 𝄟"], "characters of two UTF-16 units stay whole")
  t.same(merges({ ab: 0, cd: 1 }), [])
})

t.test("merges agree with trying every split", async t => {
  let state = 1
  const random = (below: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return (state >>> 8) % below
  }
  for (let round = 0; round < 30; round++) {
    const words = new Set(["a", "b", "▁"])
    while (words.size < 200) words.add(Array.from({ length: 1 + random(7) }, () => "ab▁"[random(3)]).join(""))
    const tokens = [...words]
    const scores = tokens.map(() => -random(150))
    const ids = new Map(tokens.map((text, id) => [text, id]))
    const expected = tokens
      .flatMap((token, id) =>
        Array.from({ length: token.length - 1 }, (_, i) => [token.slice(0, i + 1), token.slice(i + 1)] as const)
          .filter(halves => halves.every(half => ids.has(half)))
          .map(([left, right]) => ({ left, right, key: [-scores[id]!, id, ids.get(left)!, ids.get(right)!] })),
      )
      .sort((x, y) => x.key.map((value, i) => value - y.key[i]!).find(difference => difference !== 0) ?? 0)
      .map(({ left, right }) => [left, right])
    t.same(mergesOf(tokens, scores), expected)
  }
})

/** Words by pre-tokenizer; llama.cpp's own splits, seen through a vocabulary in which every two bytes of a word merge. */
const words: Record<string, string[]> = {
  "llama-bpe": ["I", "'LL", " pay", " ", "123", "45", " €!!\n\n", " ", " ok"],
  "smaug-bpe": ["I", "'LL", " pay", " ", "123", "45", " €!!\n\n", " ", " ok"],
  qwen2: ["I", "'LL", " pay", " ", "1", "2", "3", "4", "5", " €!!\n\n", " ", " ok"],
  "gpt-2": ["I", "'", "LL", " pay", " 12345", " €!!", "\n\n ", " ok"],
  smollm: ["I", "'", "LL", " pay", " ", "1", "2", "3", "4", "5", " €!!", "\n\n ", " ok"],
  tekken: ["I", "'LL", " pay", " ", "1", "2", "3", "4", "5", " €!!\n\n", " ", " ok"],
  "gpt-4o": ["I'LL", " pay", " ", "123", "45", " €!!\n\n", " ", " ok"],
  "deepseek-llm": ["I", "'", "LL", " pay", " ", "12345", " ", "€", "!!", "\n", "\n", " ", " ok"],
  "deepseek-coder": ["I", "'", "LL", " pay", " ", "1", "2", "3", "4", "5", " ", "€", "!!", "\n", "\n", " ", " ok"],
  "deepseek-v3": ["I", "'LL", " pay", " ", "123", "45", " €!!\n\n", " ", " ok"],
  default: ["I", "'", "LL", " pay", " ", "123", "45", " €", "!!", "\n\n ", " ok"],
}

t.test("pre-tokenizers split as their models do, and are known again by what they split by", async t => {
  const text = "I'LL pay 12345 €!!\n\n  ok"
  for (const [name, expected] of Object.entries(words)) {
    const pre = preTokenizerNamed(name, path)
    const pre_tokenizer = preTokenizerJson(pre)
    const empty = { normalizer: null, post_processor: null, decoder: null, added_tokens: [] }
    const tokenizer = new JsonTokenizer({ ...empty, pre_tokenizer, model: { type: "BPE", vocab: {}, merges: [] } }, {})
    const found = tokenizer.pre_tokenizer!(text).map((word: string) => fromByteLevel(word))
    t.same(found, expected, name)
    const first = pre.names[0]!
    t.equal(preTokenizerName(pre_tokenizer, pre.ignoreMerges ?? false), first, `${name} is written as ${first}`)
  }
})

/** The text of a byte-level word. */
function fromByteLevel(word: string): string {
  const bytes = [...word].map(char => syntheticVocabulary(258).tokens.indexOf(char))
  return Buffer.from(bytes).toString("utf8")
}

t.test("digits and built-in expressions of tokenizer.json are known as well", async t => {
  const byteLevel = (use_regex: boolean) => ({ type: "ByteLevel", add_prefix_space: false, use_regex })
  const sequence = (...pretokenizers: object[]) => ({ type: "Sequence", pretokenizers })
  t.equal(preTokenizerName(byteLevel(true), false), "gpt-2")
  t.equal(preTokenizerName(sequence({ type: "Digits", individual_digits: true }, byteLevel(true)), false), "smollm")
})

/** Bytes, pairs and three special tokens. */
function byteLevel(changes: Record<string, GgufValue> = {}): GgufMetadata {
  const { tokens, merges } = syntheticVocabulary(600)
  const types = Int32Array.from(tokens, (_, id) => (id === 597 ? 4 : id >= 598 ? 3 : 1))
  return new Map<string, GgufValue>(
    Object.entries({
      "tokenizer.ggml.model": string("gpt2"),
      "tokenizer.ggml.pre": string("llama-bpe"),
      "tokenizer.ggml.tokens": strings(tokens.with(597, "user defined")),
      "tokenizer.ggml.token_type": { type: "array", of: "i32", value: types },
      "tokenizer.ggml.merges": strings(merges.slice(0, -1)),
      "tokenizer.ggml.bos_token_id": u32(598),
      "tokenizer.ggml.eos_token_id": u32(599),
      ...changes,
    }),
  )
}

t.test("BOS and EOS by key, or as the pre-tokenizer's models have it", async t => {
  const ids = (changes: Record<string, GgufValue>) => tokenizerOf(byteLevel(changes)).encode("!")
  const exclamation = 33
  t.same(ids({}), [598, exclamation], "llama-bpe begins with BOS")
  t.same(ids({ "tokenizer.ggml.pre": string("qwen2") }), [exclamation])
  t.same(ids({ "tokenizer.ggml.add_bos_token": flag(false) }), [exclamation])
  t.same(ids({ "tokenizer.ggml.add_eos_token": flag(true) }), [598, exclamation, 599])
})

t.test("user-defined tokens are found in the text as they stand", async t => {
  const tokenizer = tokenizerOf(byteLevel({ "tokenizer.ggml.add_bos_token": flag(false) }))
  t.same(tokenizer.encode("!user defined!<|end_of_text|>"), [33, 597, 33, 599])
  t.equal(tokenizer.decode([33, 597, 599]), "!user defined", "they are text, control tokens are not")
})

t.test("a SentencePiece vocabulary without a prefix", async t => {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`)
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, "▁", "a", "b", "▁a", "ab", "", "a b"]
  const scores = [0, 0, 0, ...bytes.map(() => 0), -9, -9, -9, -2, -1, 0, 0]
  const types = Int32Array.from(tokens, (_, id) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : id === 265 ? 4 : 1))
  const of = (changes: Record<string, GgufValue>) =>
    tokenizerOf(
      new Map<string, GgufValue>(
        Object.entries({
          "tokenizer.ggml.model": string("llama"),
          "tokenizer.ggml.tokens": strings(tokens),
          "tokenizer.ggml.scores": { type: "array", of: "f32", value: Float32Array.from(scores) },
          "tokenizer.ggml.token_type": { type: "array", of: "i32", value: types },
          ...changes,
        }),
      ),
    )
  const [s, a, b, sa, ab, user] = [259, 260, 261, 262, 263, 265]
  const prefixed = of({})
  t.same(prefixed.encode("ab a"), [1, s, ab, sa], "ab has the higher score; ids 1 and 2 begin and end by default")
  t.same(prefixed.encode("ba éb"), [1, s, b, a, s, 3 + 0xc3, 3 + 0xa9, b])
  t.same(prefixed.encode("ba b"), [1, s, b, user], "the longest added token of the text")
  t.equal(prefixed.decode([1, s, ab, sa]), "ab a")
  t.same(prefixed.eosTokenIds, [2])
  const bare = of({ "tokenizer.ggml.add_space_prefix": flag(false), "tokenizer.ggml.add_bos_token": flag(false) })
  t.same(bare.encode("ab a"), [ab, sa])
  t.equal(bare.decode([sa, ab]), " aab", "no space is taken away")
})

t.test("spaces that added tokens take with them follow from the model's name", async t => {
  const [json, config] = filesOf(fable)
  const token = (content: string, i: number, changes: Json) => ({ id: 2048 + i, content, special: true, ...changes })
  const written = (changes: Json, name: string, more = ["<unk>", "<s>", "</s>"]) => {
    const texts = ["<|end|>", ...more]
    const added_tokens = [
      { id: 0, content: "<|endoftext|>", special: true },
      ...texts.map((content, i) => token(content, i, /end|<\/s/.test(content) ? changes : {})),
    ]
    return ggufOfTokenizer({ ...json, added_tokens }, config, { vocabularySize: 2052, name })
  }
  t.same(written({}, "fable").notes, [])
  t.same(written({ rstrip: true }, "Phi-3-mini").notes, [])
  t.match(written({ lstrip: true }, "fable").notes[0], /for "<\|end\|>", "<\/s>" that is not what/)
  t.match(written({ rstrip: true }, "fable").notes[0], /for "<\|end\|>", "<\/s>" that is not what/)
  t.match(written({}, "phi3").notes[0], /for "<\|end\|>", "<\/s>" that is not what/)
  // llama.cpp looks these four up without asking whether they are there.
  t.equal(written({}, "Phi-3-mini").metadata.get("general.name"), undefined)
  t.same(written({}, "My-Phi-3", []).metadata.get("general.name"), string("My-Phi 3"))
  t.same(written({}, "My-Phi-3", []).notes, [])
  const back = (name: string) => {
    const { metadata } = written({}, name)
    const { json: found } = tokenizerOfGguf(new Map([...metadata, ["general.name", string(name)]]), path)
    return (found.added_tokens as Json[]).filter(({ rstrip }) => rstrip).map(({ content }) => content)
  }
  t.same(back("Phi-3-mini"), ["<|end|>", "</s>"])
  t.same(back("fable"), [])
})

t.test("what GGUF cannot express of a tokenizer is refused with the reason", async t => {
  const [json, config] = filesOf(fable)
  const model = json.model as Json & { merges: string[][]; vocab: Record<string, number> }
  const added = json.added_tokens as Json[]
  const refuses = (changes: Json, message: RegExp, code = "ERR_UNSUPPORTED") =>
    t.throws(
      () => ggufOfTokenizer({ ...json, ...changes }, config, { vocabularySize: 2048 }),
      { code, message },
      String(message),
    )
  const withModel = (changes: Json, message: RegExp, code?: string) =>
    refuses({ model: { ...model, ...changes } }, message, code)
  withModel({ type: "Unigram" }, /the model is of type "Unigram"/)
  withModel({ end_of_word_suffix: "</w>" }, /end_of_word_suffix, "<\/w>"/)
  withModel(
    { ignore_merges: true },
    /ignore_merges is true, and a GGUF file's tokenizer.ggml.pre "qwen2" means the contrary/,
  )
  withModel({ merges: [["Ġ", "t", "h"]] }, /merge 0 is an array of 3/, "ERR_FORMAT")
  withModel({ merges: ["Ġ none of it"] }, /merge 0 is "Ġ none of it", expected two tokens/, "ERR_FORMAT")
  withModel({ merges: ["Ġ qqq"] }, /merge 0 is of "Ġ" and "qqq"; "Ġqqq" is no token/, "ERR_FORMAT")
  withModel({ vocab: { ...model.vocab, more: 2048 } }, /"more" has the id 2048, expected one below.*2048/, "ERR_FORMAT")
  withModel({ vocab: { ...model.vocab, more: 5 } }, /and "more" both have the id 5/, "ERR_FORMAT")
  withModel({ vocab: { ...model.vocab, more: "5" } }, /the id "5"/, "ERR_FORMAT")
  refuses({ added_tokens: [{ ...added[0], single_word: true }] }, /has single_word/)
  refuses({ normalizer: { type: "Lowercase" } }, /the normalizer has a step "Lowercase"/)
  refuses({ pre_tokenizer: { type: "ByteLevel", add_prefix_space: true } }, /a step "ByteLevel" as GGUF cannot have it/)
  const odd = { type: "Split", pattern: { Regex: "x+" }, behavior: "Isolated" }
  refuses(
    { pre_tokenizer: { type: "Sequence", pretokenizers: [odd, { type: "ByteLevel", use_regex: false }] } },
    /splits by "x\+"/,
  )
  refuses({ post_processor: { type: "BertProcessing" } }, /the post_processor "BertProcessing" adds more/)
  refuses({ pre_tokenizer: { type: "BertPreTokenizer" } }, /no byte_fallback/)
  refuses({ model: undefined }, /tokenizer.json: model is missing/, "ERR_FORMAT")
})

t.test("a normaliser of Unicode is told, not refused: no GGUF file has one", async t => {
  const [json, config] = filesOf(fable)
  const { notes } = ggufOfTokenizer({ ...json, normalizer: { type: "NFC" } }, config, { vocabularySize: 2048 })
  t.match(notes, [/no Unicode normalisation/])
})

t.test("SentencePiece vocabularies that scores cannot describe", { skip: stories.skip }, async t => {
  const [json, config] = filesOf(stories)
  const model = json.model as Json & { merges: string[] }
  const write = (changes: Json, modelChanges: Json = {}) =>
    ggufOfTokenizer({ ...json, ...changes, model: { ...model, ...modelChanges } }, config, { vocabularySize: 512 })
  const refuses = (changes: Json, modelChanges: Json, message: RegExp) =>
    t.throws(() => write(changes, modelChanges), { code: "ERR_UNSUPPORTED", message }, String(message))
  refuses({}, { merges: model.merges.filter(merge => merge !== "▁th e") }, /"▁th" and "e" do not merge/)
  refuses(
    {},
    { merges: [...model.merges.filter(merge => merge !== "▁th e"), "▁th e"] },
    /merges that make "▁the" have others between/,
  )
  refuses({}, { byte_fallback: false }, /no byte_fallback/)
  const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false }
  t.match(write({ normalizer: null, pre_tokenizer: metaspace }).notes, [/a space is put in front of every text/])
  refuses({ normalizer: null, pre_tokenizer: { ...metaspace, split: true } }, {}, /"Metaspace" does more/)
  refuses({ normalizer: { type: "NFKC" } }, {}, /the normalizer's steps are "NFKC"/)
  const never = write({ normalizer: null, pre_tokenizer: { ...metaspace, prepend_scheme: "never" } })
  t.same(never.notes, [])
  t.same(never.metadata.get("tokenizer.ggml.add_space_prefix"), flag(false))
})

t.test("a large vocabulary takes well under a second", async t => {
  const { tokens, merges } = syntheticVocabulary(128_000)
  const types = Int32Array.from(tokens, (_, id) => (id >= 127_998 ? 3 : 1))
  const metadata = byteLevel({
    "tokenizer.ggml.tokens": strings(tokens),
    "tokenizer.ggml.token_type": { type: "array", of: "i32", value: types },
    "tokenizer.ggml.merges": strings(merges),
  })
  const start = performance.now()
  const { json } = tokenizerOfGguf(metadata, path)
  const took = performance.now() - start
  t.equal((json.model as { merges: unknown[] }).merges.length, merges.length)
  t.ok(took < 5000, `${Math.round(took)} ms; the bound leaves room for a busy machine`)
})

t.test("tokens that are too long to look at all their halves", async t => {
  const of = (...tokens: string[]) => mergesOf(tokens, new Float32Array(tokens.length))
  t.equal(of("a", "a".repeat(4000), "a".repeat(4001)).length, 2)
  const message = /model.gguf: the tokens are too long for a vocabulary: token 1 has 500001 characters/
  t.throws(() => of("a", `${"b".repeat(500_000)}c`, "b".repeat(500_000)), { code: "ERR_CORRUPT", message })
  const chain = Array.from({ length: 3000 }, (_, i) => "a".repeat(i + 1))
  t.throws(() => of(...chain), { code: "ERR_CORRUPT", message: /token 2999 has 3000 characters/ })
})
