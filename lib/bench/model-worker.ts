// A process that holds one model and generates with it when asked: ours, or node-llama-cpp's. Nothing but this file's few lines is loaded
// before the time of a start is taken.
import { existsSync, readFileSync } from "node:fs"
import type { Answer, Generate, Generated, Loaded, ProcessMemory, Request } from "./model-messages.ts"

interface Engine {
  loaded: Loaded
  generate(request: Generate): Promise<Generated>
}

let engine: Engine | null = null

async function answer(request: Request): Promise<Loaded | Generated | ProcessMemory> {
  switch (request.kind) {
    case "load":
      engine =
        request.engine === "tsq"
          ? await (await import("./model-tsq.ts")).startTsq(request)
          : await (await import("./model-llama.ts")).startLlama(request)
      return engine.loaded
    case "generate":
      if (!engine) throw new Error("no model was loaded")
      return engine.generate(request)
    case "memory":
      return memory()
  }
}

/** Resident now and at most; files that are mapped count as far as they are in memory. */
function memory(): ProcessMemory {
  const status = existsSync("/proc/self/status") ? readFileSync("/proc/self/status", "utf8") : ""
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? 0) * 1024
  return {
    residentBytes: field("VmRSS") || process.memoryUsage.rss(),
    peakBytes: field("VmHWM") || process.resourceUsage().maxRSS * 1024,
  }
}

process.on("message", (request: Request) => {
  answer(request).then(
    result => send({ result }),
    (error: unknown) => {
      const code = (error as { code?: unknown } | null)?.code
      const message = error instanceof Error ? error.message : String(error)
      send({ error: { message, ...(typeof code === "string" && { code }) } })
    },
  )
})

// A parent that is gone takes its processes along.
process.on("disconnect", () => process.exit(0))

function send(message: Answer): void {
  process.send?.(message)
}
