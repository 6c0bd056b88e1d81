// Text of a growing list of tokens, a piece at a time.

/** What a token that is cut within a character decodes to, until the rest of the character arrives. */
const incomplete = "\uFFFD"

/** Tokens decoded together; the oldest are dropped beyond it. Long enough for any state that decoders carry along. */
const window = 24
const kept = 8
/** No character takes so many tokens: what does not end by then is broken, and decoding it again for every token would take for ever. */
const longest = 4 * window

/**
 * Emits a character when it is complete: byte-level and byte-fallback tokens split characters, and a decoder that strips the
 * first token's space must not strip it in the middle of a text. Every piece is the difference between two decodings of the
 * last tokens, the first ones of which come from `context` (the end of the prompt) where it is given.
 */
export class StreamDecoder {
  readonly #decode: (ids: number[]) => string
  #ids: number[]
  /** Length of what has been emitted (or belongs to the context) of the decoded #ids. */
  #sent: number

  constructor(decode: (ids: number[]) => string, context: readonly number[] = []) {
    this.#decode = decode
    this.#ids = context.slice(-kept)
    this.#sent = decode(this.#ids).length
  }

  /** The text that `id` completes, which may be empty. */
  push(id: number): string {
    this.#ids.push(id)
    const text = this.#decode(this.#ids)
    const stable = stableLength(text)
    const piece = text.slice(this.#sent, stable)
    this.#sent = Math.max(this.#sent, stable)
    if (this.#ids.length >= (stable === text.length ? window : longest)) this.#shorten()
    return piece
  }

  /** The rest: a character that was never completed. */
  finish(): string {
    const text = this.#decode(this.#ids)
    const rest = text.slice(this.#sent)
    this.#sent = text.length
    return rest
  }

  #shorten(): void {
    this.#ids = this.#ids.slice(-kept)
    this.#sent = stableLength(this.#decode(this.#ids))
  }
}

/** One replacement character at the end may be the beginning of a character; any before it is really broken. */
const stableLength = (text: string): number =>
  text.endsWith(incomplete) ? text.length - incomplete.length : text.length
