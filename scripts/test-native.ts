// Builds the native tests apart from Node and runs them.
//   (no flag)             release build; also checks that instruction-set files export no shared code
//   --sanitize LIST       with sanitizers, e.g. address,undefined or thread
//   --arm64               cross-compiled for arm64, run under qemu-aarch64
import { execFileSync } from "node:child_process"
import { existsSync, readdirSync } from "node:fs"
import { availableParallelism } from "node:os"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"

const root = fileURLToPath(new URL("..", import.meta.url))
const { values } = parseArgs({ options: { sanitize: { type: "string" }, arm64: { type: "boolean", default: false } } })

const variant = values.arm64 ? "arm64" : values.sanitize ? values.sanitize.replaceAll(",", "-") : "native"
const build = `${root}build-${variant}`
const run = (command: string, args: string[], env: NodeJS.ProcessEnv = {}) =>
  execFileSync(command, args, { stdio: "inherit", cwd: root, env: { ...process.env, ...env } })

const configure = ["-S", root, "-B", build, "-DTSQ_NATIVE_TESTS=ON", "-DTSQ_WERROR=ON"]
if (!existsSync(`${build}/CMakeCache.txt`) && hasNinja()) configure.push("-G", "Ninja")
if (values.sanitize) configure.push(`-DTSQ_SANITIZE=${values.sanitize}`)
if (values.arm64) configure.push(`-DCMAKE_TOOLCHAIN_FILE=${root}cmake/aarch64-linux-gnu.cmake`)
run("cmake", configure)
run("cmake", ["--build", build, "--parallel", String(availableParallelism())])

if (variant === "native" && process.platform === "linux") run("bash", ["scripts/check-symbols.sh", build])

const tests = readdirSync(build).filter(name => /^test_[a-z]+(\.exe)?$/.test(name))
if (tests.length === 0) throw new Error(`no native tests were built in ${build}`)
for (const test of tests) {
  console.log(`# ${test} (${variant})`)
  if (values.arm64) run("qemu-aarch64", ["-L", "/usr/aarch64-linux-gnu", `${build}/${test}`])
  else run(`${build}/${test}`, [], { UBSAN_OPTIONS: "print_stacktrace=1" })
}

function hasNinja(): boolean {
  try {
    execFileSync("ninja", ["--version"], { stdio: "ignore" })
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false
    throw error
  }
}
