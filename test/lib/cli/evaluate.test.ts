// Kinds of `tsq evaluate` beside --text (commands.test.ts).
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { writeInductionModel } from "../../../lib/evaluate/induction-model.ts"
import { randomWeights, tinyConfig, writeCheckpoint } from "../models/support/tiny-checkpoint.ts"
import { fable, fableEvaluation, folder } from "../quantize/support.ts"
import { inProcess } from "./support.ts"

const directory = folder(t)
const text = join(directory, "text.txt")
writeFileSync(text, readFileSync(fableEvaluation, "utf8").slice(0, 9000))

t.test("--task", async t => {
  const [choices, rolling] = [join(directory, "choices.jsonl"), join(directory, "rolling.json")]
  const question = { context: "Once upon a time there was a brave", choices: ["girl", "xqzt"], label: 0 }
  writeFileSync(choices, `${JSON.stringify(question)}\n${JSON.stringify({ ...question, label: 1 })}\n`)
  writeFileSync(rolling, JSON.stringify({ name: "stories", documents: [{ text: readFileSync(text, "utf8") }] }))
  const page = join(directory, "tasks.html")
  const words = await inProcess("evaluate", fable, "--task", choices, "--task", rolling, "--html", page)
  t.equal(words.code, 0, words.stderr)
  t.match(words.stdout, /^choices +2 +acc +0\.5000 +0\.5000$/m)
  t.match(words.stdout, /^ +acc_norm +\d\.\d{4}/m)
  t.match(words.stdout, /^stories +1 +word_perplexity +\d\.\d{4}$/m)
  t.match(readFileSync(page, "utf8"), /<td>stories<\/td>/)
  const json = await inProcess("evaluate", fable, "--task", choices, "--limit", "1", "--json")
  const found = JSON.parse(json.stdout)
  t.match(found, {
    model: fable,
    tasks: [{ task: "choices", documents: 1, answers: [0], metrics: { acc: { value: 1 } } }],
  })
})

t.test("--needle", async t => {
  const model = join(directory, "induction")
  await writeInductionModel(model, { context: 600 })
  const page = join(directory, "needle.html")
  const args = ["evaluate", model, "--needle", "pairs", "--lengths", "200,600"]
  const words = await inProcess(...args, "--html", page)
  t.equal(words.code, 0, words.stderr)
  t.match(words.stdout, /^depth +200 +600\n +0 % +100 % +100 %$/m)
  t.match(words.stdout, /100\.0 % of the needles retrieved \(pairs\)/)
  t.match(readFileSync(page, "utf8"), /<svg .*depth of the needle/s)
  t.match(JSON.parse((await inProcess(...args, "--json")).stdout), { kind: "pairs", retrieval: 1, lengths: [200, 600] })
  t.match(await inProcess("evaluate", model, "--needle", "hay"), { code: 2 })
  t.match(await inProcess("evaluate", model, "--needle", "--lengths", "2,x"), { code: 2 })
})

t.test("--suite", async t => {
  const config = { ...tinyConfig, vocab_size: 40 }
  for (const [i, name] of ["a", "b"].entries())
    writeCheckpoint(join(directory, name), config, randomWeights(config, i + 1))
  const letters = join(directory, "letters.txt")
  writeFileSync(letters, "abcdefghijklmnopqrstuvwxyz".repeat(12))
  const list = join(directory, "models.json")
  writeFileSync(list, JSON.stringify(["a", { name: "other", path: "b" }]))
  const page = join(directory, "suite.html")
  const options = ["--text", letters, "--window", "32", "--rounds", "1"]
  const words = await inProcess("evaluate", "--suite", list, ...options, "--html", page)
  t.equal(words.code, 0, words.stderr)
  t.match(words.stdout, /^model +bits\/weight +file MB +memory MB +perplexity +KL/m)
  t.match(words.stdout, /^other +32\.000 .* ± .* %/m)
  t.match(words.stdout, /^Quality against .*a over \d+ tokens/m)
  const html = readFileSync(page, "utf8")
  t.match(html, /<svg .*Quality against size/s)
  t.match(html, /<svg .*Quality against speed/s)
  const paths = ["a", "b"].map(name => join(directory, name))
  const json = await inProcess("evaluate", "--suite", ...paths, ...options, "--json")
  t.match(JSON.parse(json.stdout), { models: [{ name: "a", against: null }, { name: "b" }], speed: { rounds: 1 } })
  t.match(await inProcess("evaluate", ...paths, "--text", letters), { code: 2 })
  t.match(await inProcess("evaluate", "--suite", ...paths), { code: 2 })
  t.match(await inProcess("evaluate", "--suite", ...paths, ...options, "--adapter", directory), {
    code: 2,
    stderr: /--adapter is for one model/,
  })
  writeFileSync(list, "{}")
  t.match(await inProcess("evaluate", "--suite", list, ...options), { code: 1, stderr: /ERR_FORMAT: .*holds no array/ })
})

t.test("usage", async t => {
  const nothing = await inProcess("evaluate", fable)
  t.match(nothing, { code: 2, stdout: "" })
  const both = await inProcess("evaluate", fable, "--text", text, "--task", text)
  t.match(both, { code: 2, stdout: "" })
  const bad = await inProcess("evaluate", fable, "--task", text)
  t.match(bad, { code: 1, stderr: /ERR_FORMAT: text\.txt is no JSON/ })
})
