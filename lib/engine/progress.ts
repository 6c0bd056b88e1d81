// Progress with elapsed and remaining time.
import type { LongWork, Progress } from "../core/progress.ts"

/** Calls onProgress with times filled in; the remaining time assumes that the units still to do take as long as those done. */
export function progressOf(
  stage: string,
  total: number,
  onProgress: LongWork["onProgress"],
): (done: number, detail?: string) => void {
  const start = performance.now()
  return (done, detail) => {
    if (!onProgress) return
    const elapsedMs = performance.now() - start
    const progress: Progress = { stage, done, total, elapsedMs }
    if (detail !== undefined) progress.detail = detail
    if (done > 0) progress.remainingMs = (elapsedMs / done) * (total - done)
    onProgress(progress)
  }
}
