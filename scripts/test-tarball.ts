// Packs the package with a prebuilt addon inside, installs the tarball into an empty folder on a PATH without a compiler
// or CMake, and uses it there: the command, an import and a require.
import { execFileSync } from "node:child_process"
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const work = mkdtempSync(join(tmpdir(), "tsq-tarball-"))
const exec = (command: string, args: string[], cwd: string, env: NodeJS.ProcessEnv = process.env) =>
  execFileSync(command, args, { cwd, env, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] })

try {
  // prebuildify moves the addon out of build/, so it works on a copy of the checkout.
  const copy = join(work, "checkout")
  mkdirSync(copy)
  const skip = new Set(["node_modules", ".git", "dist", "prebuilds", "build", ".tap"])
  for (const name of readdirSync(root))
    if (!skip.has(name) && !name.startsWith("build-")) cpSync(join(root, name), join(copy, name), { recursive: true })
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"))
  exec("npm", ["run", "prebuilds"], copy)
  const packed = JSON.parse(exec("npm", ["pack", "--json", "--pack-destination", work], copy)) as {
    filename: string
    size: number
    files: { path: string }[]
  }[]
  const tarball = join(work, packed[0]!.filename)
  console.log(`${packed[0]!.filename}: ${(packed[0]!.size / 1024).toFixed(0)} kB`)

  // The addon looks for the CUDA module in its own folder.
  const packedModule = packed[0]!.files.some(({ path }) => /^prebuilds\/[^/]+\/libtsq_cuda\.so$/.test(path))
  if (packedModule !== existsSync(join(copy, "build/Release/libtsq_cuda.so")))
    throw new Error(
      `the CUDA module was built or not, and the tarball ${packedModule ? "has" : "lacks"} it all the same`,
    )
  console.log(packedModule ? "with the CUDA module" : "without a CUDA module: no nvcc here")

  // A PATH with node, npm and a shell only.
  const bin = join(work, "bin")
  mkdirSync(bin)
  for (const name of ["node", "npm", "npx"]) symlinkSync(join(dirname(process.execPath), name), join(bin, name))
  for (const name of ["sh", "env"]) symlinkSync(`/usr/bin/${name}`, join(bin, name))
  const env = { ...process.env, PATH: bin }
  for (const tool of ["cmake", "g++", "cc"])
    if (found(tool, env)) throw new Error(`${tool} is still on the PATH of the tarball test`)

  const user = join(work, "user")
  mkdirSync(user)
  writeFileSync(join(user, "package.json"), '{ "name": "user", "private": true }\n')
  exec("npm", ["install", "--no-audit", "--no-fund", tarball], user, env)

  const product = `
const x = Tensor.from(new Float32Array([1, 2, 3, 4, 5, 6, 7, 8]), [1, 8])
const w = Tensor.from(Float32Array.from({ length: 16 * 8 }, (_, i) => Math.sin(i)), [16, 8])
quantize(w, { scheme: "w4a16", groupSize: 8 }).then(q => {
  const y = matmulW4A16(x, q)
  if (y.shape.join() !== "1,16" || !y.data.every(Number.isFinite)) throw new Error("unexpected product")
  console.log("ok", y.shape.join("x"))
})
`
  writeFileSync(join(user, "import.mjs"), `import { quantize, matmulW4A16, Tensor } from "tsq-native"\n${product}`)
  writeFileSync(
    join(user, "require.cjs"),
    `const { quantize, matmulW4A16, Tensor } = require("tsq-native")\n${product}`,
  )
  for (const [command, args] of [
    ["npx", ["tsq", "devices"]],
    ["node", ["import.mjs"]],
    ["node", ["require.cjs"]],
  ] as const) {
    const output = exec(command, [...args], user, env)
    if (output.trim() === "") throw new Error(`${command} ${args.join(" ")} printed nothing`)
    console.log(`$ ${command} ${args.join(" ")}\n${output.trim()}`)
  }
} finally {
  rmSync(work, { recursive: true, force: true })
}

function found(tool: string, env: NodeJS.ProcessEnv): boolean {
  try {
    execFileSync("sh", ["-c", `command -v ${tool}`], { env, stdio: "ignore" })
    return true
  } catch (error) {
    if ((error as { status?: number }).status === 127 || (error as { status?: number }).status === 1) return false
    throw error
  }
}
