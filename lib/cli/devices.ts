import type { Command } from "commander"
import { bytesText, print, printJson } from "./output.ts"

export function addDevices(program: Command): void {
  program
    .command("devices")
    .description("what can compute here")
    .option("--json", "one JSON object on stdout")
    .action(async ({ json }: { json?: boolean }) => {
      const { devices } = await import("../core/machine.ts")
      const report = devices()
      if (json) return printJson(report)
      const [cpu, ...others] = report.devices
      print(`cpu  ${cpu.name}, ${cpu.threads} threads, ${bytesText(cpu.memoryBytes)}`)
      print(`     kernels ${cpu.kernels} (of ${cpu.supported.join(", ")}); features ${cpu.features.join(" ")}`)
      for (const { id, name, computeCapability, memoryBytes } of others)
        print(`${id}  ${name}, compute capability ${computeCapability}, ${bytesText(memoryBytes)}`)
      if (!report.cuda.available) print(`cuda not available: ${report.cuda.reason}`)
    })
}
