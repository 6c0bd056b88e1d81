// Measures quality on real models and writes docs/quality.md: `npm run quality -- [names of parts] [--models FOLDER --texts FOLDER]`. All
// parts take hours; with names only those sections of the page are made anew, with `--subjects name,name` for these models alone. fable-5m is in the repository; every model in the folder of
// models is measured as well, with its text in the folder of texts.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { showProgress } from "../../lib/cli/progress.ts"
import { type Context, createContext, findSubjects, root } from "./context.ts"

/** A module a part, in the order of the page. */
const parts: Record<string, () => Promise<(context: Context) => Promise<string[]>>> = {
  methods: async () => (await import("./methods.ts")).methodLines,
  recovered: async () => (await import("./methods.ts")).recoveredLines,
  schemes: async () => (await import("./schemes.ts")).schemeLines,
  activations: async () => (await import("./activations.ts")).activationLines,
  transforms: async () => (await import("./transforms.ts")).transforms,
  mixed: async () => (await import("./mixed.ts")).mixedQuality,
  "kv-cache": async () => (await import("./kv-cache.ts")).kvCacheQuality,
  retrieval: async () => (await import("./retrieval.ts")).retrievalLines,
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { models: { type: "string" }, texts: { type: "string" }, subjects: { type: "string" } },
})
const unknown = positionals.filter(name => !(name in parts))
if (unknown.length > 0)
  throw new Error(`no part is called ${unknown.join(", ")}: there are ${Object.keys(parts).join(", ")}`)
if ((values.models === undefined) !== (values.texts === undefined))
  throw new Error("give --models and --texts together")
const names = positionals.length > 0 ? positionals : Object.keys(parts)

const introduction = [
  "# Quality",
  "",
  "Made by `npm run quality`; not edited by hand. Linears of the blocks are quantized, symmetrically unless a row says otherwise; embedding and head are kept.",
  "Calibration: 128 windows of 256 tokens (BOS + 255). Perplexity, KL (of the unquantized model's distribution to the quantized one's, mean in",
  "nats per token, with its standard error) and top-token agreement over the whole evaluation text, windows of 512 each begun with BOS.",
  "*Reference* columns are float64 figures of plain nearest and plain GPTQ (damp 1 %, no act order, float64 scales) recorded with the models.",
  "Scales here are stored as compressed-tensors stores them, in the model's own type.",
]

const page = join(root, "docs/quality.md")
const mark = (name: string) => `<!-- ${name} -->`

/** Sections of the page as it is, by the part that made them. */
function readSections(): Map<string, string> {
  const found = existsSync(page) ? readFileSync(page, "utf8").split(/^<!-- ([\w-]+) -->$/m) : []
  const sections = new Map<string, string>()
  for (let i = 1; i < found.length; i += 2) sections.set(found[i]!, found[i + 1]!.trim())
  return sections
}

const work = mkdtempSync(join(tmpdir(), "tsq-quality-"))
const progress = showProgress()
try {
  const wanted = values.subjects?.split(",")
  const subjects = findSubjects(values.models, values.texts).filter(({ name }) => wanted?.includes(name) ?? true)
  if (subjects.length === 0) throw new Error(`there is no model called ${values.subjects}`)
  const context = createContext(subjects, work, progress)
  for (const name of names) {
    const start = performance.now()
    const lines = await (await parts[name]!())(context)
    const sections = readSections().set(name, lines.join("\n").trim())
    const present = Object.keys(parts).filter(part => sections.has(part))
    const blocks = [introduction.join("\n"), ...present.map(part => `${mark(part)}\n\n${sections.get(part)}`)]
    writeFileSync(page, `${blocks.join("\n\n")}\n`)
    progress.note(`${name}: ${((performance.now() - start) / 1000).toFixed(0)} s`)
  }
} finally {
  progress.stop()
  rmSync(work, { recursive: true, force: true })
}
