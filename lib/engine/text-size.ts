// How long the text of scored tokens is: what likelihoods are divided by to compare models of different tokenizers.
import { setImmediate } from "node:timers/promises"
import { throwIfAborted } from "../core/errors.ts"
import type { Tokenizer } from "../models/tokenizer.ts"
import type { WindowPlan } from "./windows.ts"

/** Decoding that long keeps the event loop waiting; then others have their turn. */
const turnMs = 5

/**
 * UTF-8 bytes and code points of all scored tokens of a plan. Decoded behind the tokens before them, so that leading spaces count; a
 * character whose bytes lie in two windows counts in both.
 */
export async function scoredTextSize(
  tokenizer: Tokenizer,
  plan: Pick<WindowPlan, "count" | "scored">,
  signal?: AbortSignal,
): Promise<{ bytes: number; characters: number }> {
  let [bytes, characters, turn] = [0, 0, performance.now()]
  for (let index = 0; index < plan.count; index++) {
    const { before, tokens } = plan.scored(index)
    const head = tokenizer.decode(Array.from(before))
    const whole = tokenizer.decode([...before, ...tokens])
    bytes += Buffer.byteLength(whole) - Buffer.byteLength(head)
    characters += codePoints(whole) - codePoints(head)
    if (performance.now() - turn < turnMs) continue
    await setImmediate()
    throwIfAborted(signal)
    turn = performance.now()
  }
  return { bytes, characters }
}

export function codePoints(text: string): number {
  let count = 0
  for (const _ of text) count++
  return count
}
