// Stop strings in a streamed text: they may begin in one piece and end in another.

export class StopStrings {
  readonly #stops: readonly string[]
  #held = ""
  #stopped = false

  /** Empty strings are not allowed: they would stop everything. */
  constructor(stops: readonly string[]) {
    this.#stops = stops
  }

  /** Whether a stop string has been met; what follows it is dropped. */
  get stopped(): boolean {
    return this.#stopped
  }

  /** The text that can be shown: up to the first stop string, without an end that may turn out to begin one. */
  push(piece: string): string {
    if (this.#stopped) return ""
    const text = this.#held + piece
    const ends = this.#stops.map(stop => text.indexOf(stop)).filter(index => index >= 0)
    if (ends.length > 0) {
      this.#stopped = true
      this.#held = ""
      return text.slice(0, Math.min(...ends))
    }
    const hold = Math.max(0, ...this.#stops.map(stop => overlap(text, stop)))
    this.#held = text.slice(text.length - hold)
    return text.slice(0, text.length - hold)
  }

  /** What was held back, when no more text comes. */
  finish(): string {
    const rest = this.#held
    this.#held = ""
    return rest
  }
}

/** Length of the longest end of `text` that begins `stop`. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--)
    if (text.endsWith(stop.slice(0, length))) return length
  return 0
}
