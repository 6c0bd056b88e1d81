// Progress on stderr: a bar on a terminal, a quiet line now and then elsewhere.
import cliProgress from "cli-progress"
import type { Progress } from "../core/progress.ts"
import { durationText, note } from "./output.ts"

export interface ProgressDisplay {
  onProgress: (progress: Progress) => void
  /** A note that does not tear the bar. */
  note: (text: string) => void
  /** Call when done, also after an error. */
  stop: () => void
}

const quietEveryMs = 10_000

export function showProgress(): ProgressDisplay {
  return process.stderr.isTTY ? terminalProgress() : quietProgress()
}

function terminalProgress(): ProgressDisplay {
  const bar = new cliProgress.SingleBar({
    format: "{stage} {bar} {value}/{total} {left} {detail}",
    stream: process.stderr,
    hideCursor: true,
    clearOnComplete: true,
    barsize: 24,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    fps: 8,
  })
  let running = false
  let stage = ""
  const stop = () => {
    if (running) bar.stop()
    running = false
  }
  return {
    onProgress(progress) {
      if (progress.stage !== stage) {
        stop()
        stage = progress.stage
      }
      const payload = {
        stage: stage.padEnd(9),
        left: progress.remainingMs === undefined ? "" : `${durationText(progress.remainingMs)} left`,
        detail: [progress.detail, progress.tensor].filter(Boolean).join(" "),
      }
      if (running) bar.update(progress.done, payload)
      else {
        bar.start(Math.max(progress.total, 1), progress.done, payload)
        running = true
      }
    },
    note(text) {
      stop()
      note(text)
    },
    stop,
  }
}

function quietProgress(): ProgressDisplay {
  let stage = ""
  let last = 0
  return {
    onProgress({ stage: current, done, total, detail, elapsedMs, remainingMs }) {
      const now = performance.now()
      if (current === stage && now - last < quietEveryMs) return
      stage = current
      last = now
      const left = remainingMs === undefined ? "" : `, ${durationText(remainingMs)} left`
      note(`${current} ${done}/${total}${detail ? ` ${detail}` : ""} (${durationText(elapsedMs)}${left})`)
    },
    note,
    stop() {},
  }
}
