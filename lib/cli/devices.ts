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
      for (const device of report.devices) {
        print(`${device.id}  ${device.name}, ${device.threads} threads, ${bytesText(device.memoryBytes)}`)
        print(
          `     kernels ${device.kernels} (of ${device.supported.join(", ")}); features ${device.features.join(" ")}`,
        )
      }
      print(`cuda ${report.cuda.available ? "available" : `not available: ${report.cuda.reason}`}`)
    })
}
