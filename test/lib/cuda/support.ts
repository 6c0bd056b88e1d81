// Modules that `npm run test:native` builds: the CUDA module on an emulated runtime with two devices, and those to refuse.
import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"

const build = fileURLToPath(new URL("../../../build-native/", import.meta.url))

/** The emulation needs Linux on x86-64 or arm64. */
export const skip = process.platform === "linux" ? false : "the CUDA module is for Linux"

export function builtModule(name: "emulated" | "other_version" | "no_table"): string {
  const path = `${build}libtsq_cuda_${name}.so`
  if (!existsSync(path)) throw new Error(`${path} is missing: run \`npm run test:native\` first`)
  return path
}
