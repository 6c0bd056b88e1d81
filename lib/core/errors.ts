// The one error class. Codes are stable; messages name the tensor or option, what was found, what was expected, what to do.

export type ErrorCode =
  | "ERR_SHAPE"
  | "ERR_DTYPE"
  | "ERR_FORMAT"
  | "ERR_CORRUPT"
  | "ERR_UNSUPPORTED"
  | "ERR_IO"
  | "ERR_NUMERIC"
  | "ERR_MEMORY"
  | "ERR_DEVICE"
  | "ERR_OPTION"
  | "ERR_ABORTED"

/** Every error that the library throws. `name` is "AbortError" for ERR_ABORTED, whose `cause` is the signal's reason. */
export class TsqError extends Error {
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
    this.name = code === "ERR_ABORTED" ? "AbortError" : "TsqError"
  }
}

/** Wraps a failed file-system call: keeps the system's code and text, names the path. */
export function ioError(action: string, path: string, cause: unknown): TsqError {
  const detail = cause instanceof Error ? cause.message : String(cause)
  return new TsqError("ERR_IO", `cannot ${action} ${path}: ${detail}`, { cause })
}

/** The error for an aborted operation. */
export function abortError(signal?: AbortSignal): TsqError {
  return new TsqError("ERR_ABORTED", "the operation was aborted", { cause: signal?.reason })
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal)
}
