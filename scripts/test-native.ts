// Builds the native tests apart from Node and runs them.
//   (no flag)             release build; also checks that instruction-set files export no shared code
//   --sanitize LIST       with sanitizers, e.g. address,undefined or thread
//   --arm64               cross-compiled for arm64, run under qemu-aarch64
import { execFileSync, spawn } from "node:child_process"
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

const configure = ["-S", root, "-B", build, "-DTSQ_NATIVE_TESTS=ON"]
// The plain variant compiles with the addon's flags, so that a compiler cache serves both; warnings are errors in the others.
if (variant === "native") configure.push("-DCMAKE_CXX_FLAGS=-DBUILDING_NODE_EXTENSION")
else configure.push("-DTSQ_WERROR=ON")
if (!existsSync(`${build}/CMakeCache.txt`) && hasNinja()) configure.push("-G", "Ninja")
if (values.sanitize) configure.push(`-DTSQ_SANITIZE=${values.sanitize}`)
if (values.arm64) configure.push(`-DCMAKE_TOOLCHAIN_FILE=${root}cmake/aarch64-linux-gnu.cmake`)
run("cmake", configure)
run("cmake", ["--build", build, "--parallel", String(availableParallelism())])

if (variant === "native" && process.platform === "linux") run("bash", ["scripts/check-symbols.sh", build])

const tests = readdirSync(build).filter(name => /^test_[a-z]+(\.exe)?$/.test(name))
if (tests.length === 0) throw new Error(`no native tests were built in ${build}`)
// Emulated and instrumented tests are slow and mostly single-threaded: as many at a time as there are processors.
const queue = [...tests]
Promise.all(Array.from({ length: availableParallelism() }, worker)).catch(error => {
  console.error(String(error))
  process.exitCode = 1
})

async function worker(): Promise<void> {
  for (let test = queue.shift(); test !== undefined; test = queue.shift()) await runTest(test)
}

function runTest(test: string): Promise<void> {
  const path = `${build}/${test}`
  // What the plain variant runs in seconds takes minutes here.
  const flags = variant === "native" ? [] : ["--quick"]
  const [command, args] = values.arm64
    ? ["qemu-aarch64", ["-L", "/usr/aarch64-linux-gnu", path, ...flags]]
    : [path, flags]
  return new Promise((resolve, reject) => {
    const child = spawn(command as string, args as string[], {
      cwd: root,
      env: { ...process.env, UBSAN_OPTIONS: "print_stacktrace=1" },
    })
    let output = ""
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (chunk: Buffer) => {
        output += chunk
      })
    child.on("error", reject)
    child.on("close", (code, signal) => {
      console.log(`# ${test} (${variant})\n${output.trimEnd()}`)
      if (code === 0) resolve()
      else reject(new Error(`${test} (${variant}) ended with ${signal ?? `exit code ${code}`}`))
    })
  })
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
