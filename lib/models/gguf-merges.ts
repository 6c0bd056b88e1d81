// Merges of a vocabulary that has only scores, as SentencePiece's BPE has them.
import { TsqError } from "../core/errors.ts"

/** Two neighbours that become one token. */
export type Merge = readonly [left: string, right: string]

/** Characters of the halves that are looked up: over ten times what a vocabulary of 256 000 tokens has, and done in a second or two. */
const maxCharacters = 2 ** 28

/**
 * Every way to put a token together from two others, in the order in which a text is merged: by the score of the result, highest
 * first. Of equal scores the lower id comes first, of one token's splits the one with the lower ids (as in Hugging Face's conversion of
 * such models; SentencePiece takes the leftmost in the text, which differs only in runs of one repeated piece).
 *
 * ERR_CORRUPT, naming `source`, for tokens so long that looking at all their halves has no end.
 */
export function mergesOfScores(
  tokens: readonly string[],
  scores: ArrayLike<number>,
  ids: ReadonlyMap<string, number>,
  source: string,
): Merge[] {
  checkLengths(tokens, source)
  const splits: (readonly Merge[])[] = tokens.map(token => splitsOf(token, ids))
  const order = splits.flatMap((found, id) => (found.length > 0 ? [id] : []))
  order.sort((a, b) => scores[b]! - scores[a]! || a - b)
  return order.flatMap(id => splits[id]!)
}

function splitsOf(token: string, ids: ReadonlyMap<string, number>): Merge[] {
  const splits: Merge[] = []
  for (let at = 1; at < token.length; at++) {
    const left = token.slice(0, at)
    if (!ids.has(left)) continue
    const right = token.slice(at)
    if (ids.has(right)) splits.push([left, right])
  }
  const id = (text: string) => ids.get(text)!
  return splits.length < 2 ? splits : splits.sort(([a, b], [c, d]) => id(a) - id(c) || id(b) - id(d))
}

function checkLengths(tokens: readonly string[], source: string): void {
  const characters = tokens.reduce((sum, { length }) => sum + length ** 2, 0)
  if (characters <= maxCharacters) return
  const id = tokens.reduce((longest, { length }, id) => (length > tokens[longest]!.length ? id : longest), 0)
  throw new TsqError(
    "ERR_CORRUPT",
    `${source}: the tokens are too long for a vocabulary: token ${id} has ${tokens[id]!.length} characters`,
  )
}
