// Runs when npm installs the package. A prebuilt (or already built) addon that
// loads is enough; otherwise one is compiled, which needs CMake and C++20.
import { spawnSync } from "node:child_process"
import { existsSync } from "node:fs"
import { createRequire } from "node:module"
import { fileURLToPath } from "node:url"

const require = createRequire(import.meta.url)
const root = fileURLToPath(new URL("..", import.meta.url))

function loads() {
  if (process.env.npm_config_build_from_source === "true") return false
  try {
    require("node-gyp-build")(root)
    return true
  } catch (error) {
    // In a checkout nothing is built yet; anything else (wrong libc, damaged file) is worth a line.
    if (existsSync(`${root}/prebuilds`)) console.error(`tsq-native: the prebuilt addon does not load: ${error.message}`)
    return false
  }
}

if (!loads()) {
  const cmakeJs = require.resolve("cmake-js/bin/cmake-js")
  const run = (...args) => spawnSync(process.execPath, [cmakeJs, ...args], { cwd: root, stdio: "inherit" }).status
  let status = run("compile")
  if (status !== 0) {
    // An nvcc or host compiler that the CUDA module was not tried with must not cost the CPU its addon.
    console.error("tsq-native: compiling failed; trying again without the CUDA module.")
    status = run("rebuild", "--CDTSQ_CUDA=OFF")
  }
  if (status !== 0) {
    console.error("tsq-native has no prebuilt addon for this machine, and compiling one failed.")
    console.error("It needs CMake 3.22 or later and a compiler for C++20 (g++ 11, clang 14 or newer).")
    process.exitCode = status ?? 1
  }
}
