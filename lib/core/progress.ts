// Progress of long work, as passed to onProgress.

export interface Progress {
  /** What is being done: "plan", "calibrate", "quantize", "write", "evaluate", "load" … */
  stage: string
  /** Units finished and in all (blocks, windows, tensors). */
  done: number
  total: number
  /** What is being worked on, for people: "block 3/6 self_attn.q_proj". */
  detail?: string
  /** Milliseconds since the start, and expected to remain (absent until it can be estimated). */
  elapsedMs: number
  remainingMs?: number
  /** quantize: the tensor just finished, its objective and the damp used. */
  tensor?: string
  loss?: number
  damp?: number
}

export interface LongWork {
  signal?: AbortSignal | undefined
  onProgress?: ((progress: Progress) => void) | undefined
}

/** What a step reports; times are added by the reporter. */
export type ProgressStep = Omit<Progress, "elapsedMs" | "remainingMs">

/**
 * Calls onProgress with the time since the reporter was made. The time that remains is estimated within a stage, from its
 * second report on: the stage's own pace times the units left.
 */
export function progressReporter(onProgress: LongWork["onProgress"]): (step: ProgressStep) => void {
  if (!onProgress) return () => {}
  const start = performance.now()
  let stage = ""
  let stageStart = start
  let stageDone = 0
  return step => {
    const now = performance.now()
    if (step.stage !== stage) {
      stage = step.stage
      stageStart = now
      stageDone = step.done
    }
    const progress: Progress = { ...step, elapsedMs: now - start }
    if (step.done > stageDone)
      progress.remainingMs = ((now - stageStart) / (step.done - stageDone)) * Math.max(0, step.total - step.done)
    onProgress(progress)
  }
}
