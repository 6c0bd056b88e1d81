// Modules that `npm run test:native` builds: the CUDA module on an emulated runtime with two devices, and those to refuse.
import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"

const build = fileURLToPath(new URL("../../../build-native/", import.meta.url))

/** A cuBLAS for the emulated runtime, with its statuses set by TSQ_EMULATED_CUBLAS_CREATE and _GEMM. */
export const builtCublas = (): string => built("libtsq_cublas_emulated.so")

/** The emulation needs Linux on x86-64 or arm64. */
export const skip = process.platform === "linux" ? false : "the CUDA module is for Linux"

export function builtModule(name: "emulated" | "other_version" | "no_table"): string {
  return built(`libtsq_cuda_${name}.so`)
}

function built(file: string): string {
  const path = `${build}${file}`
  if (!existsSync(path)) throw new Error(`${path} is missing: run \`npm run test:native\` first`)
  return path
}
