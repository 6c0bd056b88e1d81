// Writing files so that a full disk, a quota or a read-only place ends in a message that says what to do.
import { randomBytes } from "node:crypto"
import type { FileHandle } from "node:fs/promises"
import { open, rename } from "node:fs/promises"
import { TsqError } from "../core/errors.ts"

const hints: Record<string, string> = {
  ENOSPC: "the disk is full: free some space or choose an output folder on another disk",
  EDQUOT: "the disk quota is used up: free some space or choose an output folder elsewhere",
  EFBIG: "the file system does not hold files of this size: use smaller shards or another disk",
  EROFS: "the file system is read-only: choose another output folder",
  EACCES: "permission denied: choose an output folder that you may write to",
  EPERM: "permission denied: choose an output folder that you may write to",
}

/** ERR_IO for a failed write, with advice where the system's code allows some. A TsqError passes through. */
export function writeError(action: string, path: string, cause: unknown): TsqError {
  if (cause instanceof TsqError) return cause
  const detail = cause instanceof Error ? cause.message : String(cause)
  const hint = hints[(cause as NodeJS.ErrnoException | null)?.code ?? ""]
  return new TsqError("ERR_IO", `cannot ${action} ${path}: ${hint ? `${hint} (${detail})` : detail}`, { cause })
}

/** Writes all of `bytes` at the file's position (or at `position`). */
export async function writeFully(file: FileHandle, bytes: Uint8Array, position: number | null = null): Promise<void> {
  let done = 0
  while (done < bytes.byteLength) {
    const at = position === null ? null : position + done
    const { bytesWritten } = await file.write(bytes, done, bytes.byteLength - done, at)
    if (bytesWritten === 0) throw Object.assign(new Error("the system wrote 0 bytes"), { code: "ENOSPC" })
    done += bytesWritten
  }
}

/** Creates a file that must not exist yet. */
export async function writeNewFile(path: string, bytes: Uint8Array | string): Promise<void> {
  try {
    const file = await open(path, "wx")
    try {
      await writeFully(file, typeof bytes === "string" ? Buffer.from(bytes) : bytes)
    } finally {
      await file.close()
    }
  } catch (cause) {
    throw writeError("write", path, cause)
  }
}

/** Writes a file beside its name and renames it: it is there whole or not at all. */
export async function writeAtomically(path: string, parts: readonly Uint8Array[]): Promise<void> {
  const partial = `${path}.${process.pid}-${randomBytes(4).toString("hex")}.partial`
  const file = await open(partial, "wx")
  try {
    for (const part of parts) await writeFully(file, part)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(partial, path)
}
