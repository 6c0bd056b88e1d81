// --cache and --cache-dir of the commands that run a model.
import { existsSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { folder, smallCheckpoint } from "../quantize/support.ts"
import { onlyJson, tsq } from "./support.ts"

delete process.env.TSQ_CACHE_DIR

t.test("generate", async t => {
  const directory = smallCheckpoint(t)
  const generate = async (...flags: string[]) => {
    const result = await tsq("generate", directory, "--prompt", "abc", "--max-tokens", "5", "--json", ...flags)
    t.equal(result.code, 0, result.stderr)
    return onlyJson(result).tokens
  }
  const tokens = await generate()
  t.notOk(existsSync(join(directory, ".tsq-cache")))
  t.same(await generate("--cache"), tokens)
  t.ok(existsSync(join(directory, ".tsq-cache")))
  t.same(await generate("--cache"), tokens)
  const elsewhere = join(folder(t), "cache")
  t.same(await generate("--cache-dir", elsewhere), tokens)
  t.equal(readdirSync(elsewhere).length, 1)
})

t.test("evaluate", async t => {
  const directory = smallCheckpoint(t)
  const text = join(folder(t), "text.txt")
  writeFileSync(text, "abcdefgh".repeat(40))
  const evaluate = async (...flags: string[]) => {
    const result = await tsq("evaluate", directory, "--text", text, "--window", "32", "--json", ...flags)
    t.equal(result.code, 0, result.stderr)
    return onlyJson(result).nll
  }
  const nll = await evaluate("--cache")
  t.ok(existsSync(join(directory, ".tsq-cache")))
  t.equal(await evaluate("--cache"), nll)
})
