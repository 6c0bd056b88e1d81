// A byte-level BPE vocabulary of any size, made up: bytes, pairs of bytes, then pairs and a byte. Loading it takes the time that a
// real one takes, and it encodes any text.

export interface SyntheticVocabulary {
  /** By id; the last two begin and end a text. */
  tokens: string[]
  /** "left right", by rank. */
  merges: string[]
  beginId: number
  endId: number
}

// The printable stand-ins for bytes that byte-level tokenizers use: a byte that prints is itself, others follow from 256 on.
const byteText: readonly string[] = (() => {
  const prints = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173)
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(prints(byte) ? byte : next++))
})()

/** The smallest vocabulary there can be: bytes and the two special tokens. */
export const smallestVocabulary = 258

export function syntheticVocabulary(size: number): SyntheticVocabulary {
  const tokens = [...byteText]
  const merges: string[] = []
  const ordinary = size - 2
  // Every token is extended by every byte, in order, which yields each text once.
  for (let left = 0; tokens.length < ordinary; left++)
    for (let byte = 0; byte < 256 && tokens.length < ordinary; byte++) {
      merges.push(`${tokens[left]} ${byteText[byte]}`)
      tokens.push(`${tokens[left]}${byteText[byte]}`)
    }
  tokens.push("<|begin_of_text|>", "<|end_of_text|>")
  return { tokens, merges, beginId: size - 2, endId: size - 1 }
}

/** tokenizer.json and tokenizer_config.json. */
export function tokenizerFiles({ tokens, merges, beginId, endId }: SyntheticVocabulary): Record<string, unknown> {
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
  const vocabulary = Object.fromEntries(tokens.slice(0, beginId).map((token, id) => [token, id]))
  return {
    "tokenizer.json": {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: [beginId, endId].map(id => ({ id, content: tokens[id], ...plain })),
      normalizer: null,
      pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      post_processor: null,
      decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: { type: "BPE", dropout: null, unk_token: null, vocab: vocabulary, merges },
    },
    "tokenizer_config.json": {
      tokenizer_class: "PreTrainedTokenizerFast",
      bos_token: tokens[beginId],
      eos_token: tokens[endId],
    },
  }
}
