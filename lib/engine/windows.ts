// Evaluation protocols: how a text's tokens become windows, and which positions of a window are scored.
import { TsqError } from "../core/errors.ts"
import { sharedInts } from "../core/tensor.ts"

/**
 * gptq: disjoint windows of the tokens as they stand; every position but a window's first is scored (Frantar et al., GPTQ, 5).
 * llama.cpp: as its perplexity tool: disjoint windows whose first token is replaced by BOS where there is one; the second half is scored.
 * whole: every window is BOS and window - 1 tokens; all of these are scored.
 */
export type Protocol = "gptq" | "llama.cpp" | "whole"

export const protocols: readonly Protocol[] = ["gptq", "llama.cpp", "whole"]

export interface WindowPlan {
  protocol: Protocol
  /** Tokens of a window. */
  window: number
  /** Tokens from the start of one window to the next. */
  stride: number
  count: number
  /** First position of a window whose token is predicted and scored; positions first ... window - 1 are. */
  first: number
  /** The tokens of a window, [window] on shared memory. */
  tokens(index: number): Int32Array
  /** Its scored tokens as they stand in the text, and the tokens of the text before them that the window has (one at least, where there is one). */
  scored(index: number): { before: Int32Array; tokens: Int32Array }
}

export interface WindowRequest {
  protocol: Protocol
  window: number
  /** gptq only: less than the window scores only each window's last `stride` positions. */
  stride: number
  bos: number | null
}

/** Whether a protocol wants the text with what the tokenizer adds (BOS), or plain. */
export const wantsSpecial = (protocol: Protocol): boolean => protocol !== "whole"

/** ERR_OPTION when the text is too short for one window or the request makes no sense. */
export function planWindows(ids: Int32Array, request: WindowRequest): WindowPlan {
  const { protocol, window, stride, bos } = request
  if (protocol !== "gptq" && stride !== window)
    throw new TsqError(
      "ERR_OPTION",
      `evaluation: stride is ${stride}, but windows of protocol ${protocol} do not overlap; leave stride out or use protocol gptq`,
    )
  if (protocol === "whole" && bos === null)
    throw new TsqError(
      "ERR_OPTION",
      "evaluation: protocol whole begins every window with BOS, but the tokenizer adds none; use protocol gptq",
    )
  const step = protocol === "whole" ? window - 1 : stride
  const needed = protocol === "whole" ? window - 1 : window
  const count = ids.length < needed ? 0 : Math.floor((ids.length - needed) / step) + 1
  if (count === 0)
    throw new TsqError(
      "ERR_OPTION",
      `evaluation: the text has ${ids.length} tokens, one window of ${window} needs ${needed}; give a longer text or a smaller window`,
    )
  const first = firstScored(request)
  if (first >= window)
    throw new TsqError(
      "ERR_OPTION",
      `evaluation: a window of ${window} leaves nothing to score under protocol ${protocol}; make it larger`,
    )
  return {
    protocol,
    window,
    stride: step,
    count,
    first,
    tokens(index) {
      const tokens = sharedInts(window)
      tokens.set(ids.subarray(index * step, index * step + needed), window - needed)
      if (protocol !== "gptq" && bos !== null) tokens[0] = bos
      return tokens
    },
    scored(index) {
      const begin = index * step + first - (window - needed)
      const from = Math.max(0, Math.min(index * step, begin - 1))
      return { before: ids.subarray(from, begin), tokens: ids.subarray(begin, index * step + needed) }
    },
  }
}

function firstScored({ protocol, window, stride }: WindowRequest): number {
  // llama.cpp keeps the logits from position window / 2 on; the first of them predicts the token after it.
  if (protocol === "llama.cpp") return Math.floor(window / 2) + 1
  return Math.max(1, window - stride)
}
