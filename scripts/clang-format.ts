// Formats every C++ and CUDA source, or with --check fails where one is not formatted.
import { execFileSync, spawnSync } from "node:child_process"
import { createRequire } from "node:module"

const list = (args: string[]) => execFileSync("git", ["ls-files", ...args], { encoding: "utf8" }).split("\n")
const patterns = [
  "bench/cuda/*.h",
  "bench/cuda/*.cc",
  "bench/cuda/*.cu",
  "native/**/*.h",
  "native/**/*.cc",
  "cuda/**/*.cu",
  "cuda/**/*.cuh",
  "cuda/**/*.h",
  "cuda/**/*.cc",
  "test/native/**/*.h",
  "test/native/**/*.cc",
]
const files = list(["--cached", "--others", "--exclude-standard", "--", ...patterns]).filter(Boolean)

const clangFormat = createRequire(import.meta.url).resolve("clang-format")
const check = process.argv.includes("--check")
const args = [clangFormat, ...(check ? ["--dry-run", "--Werror"] : ["-i"]), ...files]
process.exitCode = files.length === 0 ? 0 : (spawnSync(process.execPath, args, { stdio: "inherit" }).status ?? 1)
