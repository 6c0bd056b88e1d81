// Merges of a vocabulary that has only scores, as SentencePiece's BPE has them.
import { TsqError } from "../core/errors.ts"

/** Two neighbours that become one token. */
export type Merge = readonly [left: string, right: string]

/** Characters of all merges together: a hundred times what large vocabularies have, and what memory can hold. */
const maxCharacters = 2 ** 28

/**
 * Every way to put a token together from two others, in the order in which a text is merged: by the score of the result, highest
 * first. Of equal scores the lower id comes first, of one token's splits the one with the lower ids (as in Hugging Face's conversion of
 * such models; SentencePiece takes the leftmost in the text, which differs only in runs of one repeated piece).
 *
 * Time: sorting the tokens twice, then the length of the texts and the number of merges. ERR_CORRUPT, naming `source`, for tokens that
 * can be put together in too many ways to be a vocabulary.
 */
export function mergesOfScores(tokens: readonly string[], scores: ArrayLike<number>, source: string): Merge[] {
  const heads = properPrefixes(tokens)
  const tails = properPrefixes(tokens.map(reversed))
  const order = tokens.map((_, id) => id).filter(id => heads[id]!.length > 0 && tails[id]!.length > 0)
  order.sort((a, b) => scores[b]! - scores[a]! || a - b)
  const merges: Merge[] = []
  let characters = 0
  for (const id of order) {
    const length = tokens[id]!.length
    for (const [left, right] of splitsOf(length, heads[id]!, tails[id]!, tokens)) {
      merges.push([tokens[left]!, tokens[right]!])
      characters += length
    }
    if (characters > maxCharacters)
      throw new TsqError(
        "ERR_CORRUPT",
        `${source}: the tokens can be put together from each other in over ${merges.length} ways, of ${characters} characters; this is no vocabulary`,
      )
  }
  return merges
}

/** Pairs of ids: a beginning and an end that together are as long as the whole are the whole. */
function splitsOf(
  length: number,
  heads: readonly number[],
  tails: readonly number[],
  tokens: readonly string[],
): (readonly [number, number])[] {
  const byLength = new Map(tails.map(id => [tokens[id]!.length, id]))
  const splits = heads.flatMap(head => {
    const tail = byLength.get(length - tokens[head]!.length)
    return tail === undefined ? [] : [[head, tail] as const]
  })
  return splits.sort(([a, b], [c, d]) => a - c || b - d)
}

const none: readonly number[] = []

/** For every text the indices of those that it begins with. In order of the alphabet they stand before it, as a chain. */
function properPrefixes(texts: readonly string[]): (readonly number[])[] {
  const sorted = texts.map((_, index) => index)
  sorted.sort((a, b) => (texts[a]! < texts[b]! ? -1 : 1))
  const found: (readonly number[])[] = new Array(texts.length).fill(none)
  const chain: number[] = []
  for (const index of sorted) {
    const text = texts[index]!
    while (chain.length > 0 && !text.startsWith(texts[chain.at(-1)!]!)) chain.pop()
    if (chain.length > 0) found[index] = chain.slice()
    chain.push(index)
  }
  return found
}

/** By UTF-16 units: a half that begins within a character is no token, so none is found there. */
const reversed = (text: string) => text.split("").reverse().join("")
