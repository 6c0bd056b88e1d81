// Merges of a vocabulary that has only scores, as SentencePiece's BPE has them.

/** Two neighbours that become one token. */
export type Merge = readonly [left: string, right: string]

/**
 * Every way to put a token together from two others, in the order in which a text is merged: by the score of the result, highest
 * first. Of equal scores the lower id comes first, of one token's splits the one with the lower ids (as in Hugging Face's conversion of
 * such models; SentencePiece takes the leftmost in the text, which differs only in runs of one repeated piece).
 *
 * Time: sorting the tokens twice, then the length of the texts and the number of merges.
 */
export function mergesOfScores(
  tokens: readonly string[],
  scores: ArrayLike<number>,
  ids: ReadonlyMap<string, number>,
): Merge[] {
  const heads = properPrefixes(tokens)
  const tails = properPrefixes(tokens.map(reversed))
  const order = tokens.map((_, id) => id).filter(id => heads[id]!.length > 0 && tails[id]!.length > 0)
  order.sort((a, b) => scores[b]! - scores[a]! || a - b)
  return order.flatMap(id => splitsOf(tokens[id]!, heads[id]!, tails[id]!, ids))
}

function splitsOf(
  token: string,
  heads: readonly number[],
  tails: readonly number[],
  ids: ReadonlyMap<string, number>,
): Merge[] {
  const tailLengths = new Set(tails)
  const splits = heads
    .filter(length => tailLengths.has(token.length - length))
    .map((length): Merge => [token.slice(0, length), token.slice(length)])
  const id = (text: string) => ids.get(text)!
  return splits.sort(([a, b], [c, d]) => id(a) - id(c) || id(b) - id(d))
}

const none: readonly number[] = []

/** For every text the lengths of the others that it begins with, shortest first. Sorted, they stand before it as a chain. */
function properPrefixes(texts: readonly string[]): (readonly number[])[] {
  const sorted = texts.map((_, index) => index)
  sorted.sort((a, b) => (texts[a]! < texts[b]! ? -1 : 1))
  const found: (readonly number[])[] = new Array(texts.length).fill(none)
  const chain: string[] = []
  for (const index of sorted) {
    const text = texts[index]!
    while (chain.length > 0 && !text.startsWith(chain.at(-1)!)) chain.pop()
    if (chain.length > 0) found[index] = chain.map(prefix => prefix.length)
    chain.push(text)
  }
  return found
}

/** By UTF-16 units: a half that begins within a character is no token, so none is found there. */
function reversed(text: string): string {
  let result = ""
  for (let i = text.length - 1; i >= 0; i--) result += text[i]
  return result
}
