// prebuildify runs `<node-gyp> rebuild --target=… --arch=… --release`. This answers to that
// call with cmake-js. The addon uses Node-API only, so the target version plays no part.
import { spawnSync } from "node:child_process"
import { createRequire } from "node:module"

const value = name => process.argv.find(argument => argument.startsWith(`--${name}=`))?.split("=")[1]

const cmakeJs = createRequire(import.meta.url).resolve("cmake-js/bin/cmake-js")
const args = [cmakeJs, "rebuild", "--config", process.argv.includes("--debug") ? "Debug" : "Release"]
const arch = value("arch")
if (arch) args.push("--arch", arch)

process.exitCode = spawnSync(process.execPath, args, { stdio: "inherit" }).status ?? 1
