// The kinds of tokenizer.json that Gemma (BPE over "▁" with bytes to fall back on) and GPT-2 (byte-level BPE without a prefix space)
// have, with ids that Hugging Face's tokenizers 0.22 gives for the same files.
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { loadTokenizer } from "../../../lib/models/tokenizer.ts"

const special = (id: number, content: string) => ({
  ...{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
})
const vocabulary = (tokens: string[]) => Object.fromEntries([...new Set(tokens)].map((token, id) => [token, id]))
const merges = (space: string): [string, string][] => [
  ["h", "e"],
  ["l", "l"],
  ["he", "ll"],
  ["hell", "o"],
  [space, "w"],
  ["o", "r"],
  [`${space}w`, "or"],
  ["l", "d"],
  [`${space}wor`, "ld"],
]

function gemma(): object {
  const rules: [string, string][] = [...merges("▁"), ["▁", "▁"]]
  const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`)
  const controls = ["<pad>", "<eos>", "<bos>", "<unk>"]
  const vocab = vocabulary([...controls, ...bytes, ..."▁abcdehlortw!\n", ...rules.map(pair => pair.join(""))])
  const text = { Sequence: { id: "A", type_id: 0 } }
  const bos = { SpecialToken: { id: "<bos>", type_id: 0 } }
  return {
    version: "1.0",
    added_tokens: controls.map((content, id) => special(id, content)),
    normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" },
    pre_tokenizer: { type: "Split", pattern: { String: " " }, behavior: "MergedWithPrevious", invert: false },
    post_processor: {
      type: "TemplateProcessing",
      single: [bos, text],
      pair: [bos, text],
      special_tokens: { "<bos>": { id: "<bos>", ids: [2], tokens: ["<bos>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
      ],
    },
    model: { type: "BPE", unk_token: "<unk>", fuse_unk: true, byte_fallback: true, vocab, merges: rules },
  }
}

function gpt2(): object {
  const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i)
  const printable = [...range(33, 126), ...range(161, 172), ...range(174, 255)]
  // Bytes that are not printable come after all others, as characters from 256 on.
  const letters = [...printable, ...range(256, 511 - printable.length)].map(code => String.fromCodePoint(code))
  const rules: [string, string][] = [...merges("Ġ"), ["'", "s"], ["Ġ", "Ġ"]]
  const vocab = vocabulary([...letters, ...rules.map(pair => pair.join("")), "<|endoftext|>"])
  const byteLevel = { type: "ByteLevel", trim_offsets: true, use_regex: true }
  return {
    version: "1.0",
    added_tokens: [special(vocab["<|endoftext|>"]!, "<|endoftext|>")],
    normalizer: null,
    pre_tokenizer: { ...byteLevel, add_prefix_space: false },
    post_processor: { ...byteLevel, add_prefix_space: true, trim_offsets: false },
    decoder: { ...byteLevel, add_prefix_space: true },
    model: { type: "BPE", vocab, merges: rules.map(pair => pair.join(" ")) },
  }
}

const cases: Record<string, [tokenizer: object, list: [text: string, ids: number[], decoded?: string][]]> = {
  gemma: [
    gemma(),
    [
      ["hello world", [2, 277, 282]],
      [" hello  world", [2, 260, 277, 260, 282]],
      ["hello\nworld!", [2, 277, 273, 271, 279, 281, 272]],
      ["héllo wörld 🦊", [2, 266, 199, 173, 275, 268, 278, 199, 186, 269, 281, 260, 244, 163, 170, 142]],
      ["", [2]],
      ["   ", [2, 283, 260]],
      ["<bos>hello<eos>", [2, 2, 277, 1], "hello"],
      ["12 日本", [2, 53, 54, 260, 234, 155, 169, 234, 160, 176]],
    ],
  ],
  "gpt-2": [
    gpt2(),
    [
      ["hello world", [259, 264]],
      [" hello  world", [220, 259, 220, 264]],
      ["hello\nworld!", [259, 198, 86, 261, 263, 0]],
      ["it's hello's", [72, 83, 265, 220, 259, 265]],
      ["héllo wörld 🦊", [71, 127, 102, 257, 78, 260, 127, 114, 81, 263, 220, 172, 253, 99, 232]],
      ["", []],
      ["   ", [266, 220]],
      ["<|endoftext|>hello", [267, 259], "hello"],
      ["12 日本", [16, 17, 220, 162, 245, 98, 162, 250, 105]],
    ],
  ],
}

for (const [name, [json, list]] of Object.entries(cases))
  t.test(name, async t => {
    const directory = t.testdir()
    writeFileSync(join(directory, "tokenizer.json"), JSON.stringify(json))
    const tokenizer = await loadTokenizer(directory)
    for (const [text, ids, decoded = text] of list) {
      t.same([...tokenizer.encode(text)], ids, JSON.stringify(text))
      t.equal(tokenizer.decode(ids), decoded, JSON.stringify(text))
      const stream = tokenizer.streamDecoder()
      t.equal(ids.map(id => stream.push(id)).join("") + stream.finish(), decoded, `${JSON.stringify(text)} streamed`)
    }
  })
