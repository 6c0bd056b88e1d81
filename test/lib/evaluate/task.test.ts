import { writeFileSync } from "node:fs"
import { join } from "node:path"
import t from "tap"
import { loadModel } from "../../../lib/engine/load-model.ts"
import { evaluateTask } from "../../../lib/evaluate/evaluate-task.ts"
import { parseTask, type Task } from "../../../lib/evaluate/task.ts"
import { native } from "../../../lib/native.ts"
import { fable } from "../models/support/reference-models.ts"

const model = await loadModel(fable.directory)
t.teardown(() => model.dispose())
const text = fable.text("text/fable-eval.txt")!
const question = { context: "Once upon a time there was a brave", choices: ["girl", "xqzt zzk", "é é é é"], label: 0 }

t.test("the forms of a file", async t => {
  const other = { ...question, label: 2, source: "ignored" }
  const { label, context, choices } = other
  const expected = { kind: "multiple_choice", documents: [question, { label, context, choices }] }
  const documents = [question, other]
  t.match(parseTask(documents.map(item => JSON.stringify(item)).join("\n"), "t"), { ...expected, delimiter: " " })
  t.match(parseTask(JSON.stringify(documents, null, 2), "t"), { ...expected, name: "t" })
  const named = parseTask(JSON.stringify({ name: "mine", targetDelimiter: "\n", documents }, null, 1), "t")
  t.match(named, { ...expected, name: "mine", delimiter: "\n" })
  t.match(parseTask(JSON.stringify(question), "t"), { documents: [question] })
  t.match(parseTask('{"context":"","continuation":"a"}\n', "t"), { kind: "loglikelihood" })
  t.match(parseTask('{"text":"a"}\n\n{"text":"b"}\n', "t"), {
    ...{ kind: "loglikelihood_rolling", documents: [{ text: "a" }, { text: "b" }] },
  })
})

t.test("files that are none", async t => {
  const refuses = (source: unknown, message: RegExp) =>
    t.throws(() => parseTask(typeof source === "string" ? source : JSON.stringify(source), "t"), {
      ...{ code: "ERR_FORMAT", message },
    })
  refuses("nothing", /t is no JSON/)
  refuses('{"text":"a"}\n{"text":\n', /t: document 2 is no JSON/)
  refuses([], /t has no documents/)
  refuses({ documents: [] }, /t has no documents/)
  refuses({ name: 5, documents: [{ text: "a" }] }, /name is 5, expected a string/)
  refuses([5], /document 1 is 5, expected \{ context, choices, label \}/)
  refuses([{ question: "a" }], /document 1 is an object of question, expected/)
  refuses([{ text: "a" }, question], /document 2 is of the kind multiple_choice, the first one loglikelihood_rolling/)
  refuses([{ ...question, choices: ["a"] }], /document 1: choices is an array of 1, expected at least two/)
  refuses([{ ...question, choices: ["a", ""] }], /choices/)
  refuses([{ ...question, label: 3 }], /label is 3, expected the index of the right choice, 0 to 2/)
  refuses([{ ...question, label: "a" }], /label is "a"/)
  refuses([{ choices: ["a", "b"], label: 0 }], /context is missing, expected a string/)
  refuses([{ text: "" }], /text is "", expected a string that is not empty/)
  refuses([{ context: "", continuation: "" }], /continuation is ""/)
  await t.rejects(evaluateTask(model, "/no/such/file.json"), { code: "ERR_IO", message: /\/no\/such\/file\.json/ })
  await t.rejects(evaluateTask(5 as never, "x"), { code: "ERR_IO" })
  await t.rejects(evaluateTask(5 as never, parseTask('{"text":"a"}', "t")), { code: "ERR_OPTION" })
  await t.rejects(evaluateTask(model, parseTask('{"text":"a"}', "t"), { limit: 0 }), { message: /"limit" is 0/ })
})

t.test("multiple choice against the likelihoods themselves", async t => {
  const contexts = Array.from({ length: 12 }, (_, i) => text.slice(i * 900, i * 900 + 300))
  const documents = contexts.map((context, i) => ({
    ...{ context, choices: ["girl", "the old house by the lake", "é é", "and"], label: i % 4 },
  }))
  const result = await evaluateTask(model, parseTask(JSON.stringify(documents), "t"))
  const hits = { acc: 0, accNorm: 0, accBytes: 0 }
  const answers: number[] = []
  for (const { context, choices, label } of documents) {
    const scores: number[] = []
    for (const choice of choices) scores.push((await model.loglikelihood(context, ` ${choice}`)).logprob)
    const best = (values: number[]) => values.indexOf(Math.max(...values))
    answers.push(best(scores))
    if (best(scores) === label) hits.acc++
    if (best(scores.map((value, i) => value / [...choices[i]!].length)) === label) hits.accNorm++
    if (best(scores.map((value, i) => value / Buffer.byteLength(choices[i]!))) === label) hits.accBytes++
  }
  t.match(result, { model: fable.directory, task: "t", kind: "multiple_choice", documents: 12, answers })
  for (const name of ["acc", "accNorm", "accBytes"] as const) {
    const share = hits[name] / 12
    t.equal(result.metrics[name]!.value, share, name)
    t.ok(Math.abs(result.metrics[name]!.stdError! - Math.sqrt((share * (1 - share)) / 11)) < 1e-12)
  }
  const some = await evaluateTask(model, parseTask(JSON.stringify(documents), "t"), { limit: 3 })
  t.equal(some.documents, 3)
  t.same(some.answers, answers.slice(0, 3))
})

t.test("cloze and rolling, from files, with the model by its directory", async t => {
  const before = native.handleCount()
  const directory = t.testdir()
  const file = join(directory, "cloze.jsonl")
  const documents = [
    { context: "Once upon a time there was a", continuation: " brave girl" },
    { context: "Once upon a time there was a", continuation: " xqz" },
  ]
  writeFileSync(file, documents.map(item => JSON.stringify(item)).join("\n"))
  const cloze = await evaluateTask(fable.directory, file)
  const scores = await model.loglikelihood(documents)
  const mean = (scores[0]!.logprob + scores[1]!.logprob) / 2
  t.match(cloze, { task: "cloze", kind: "loglikelihood", documents: 2 })
  t.equal(cloze.metrics.acc!.value, (Number(scores[0]!.isGreedy) + Number(scores[1]!.isGreedy)) / 2)
  t.ok(Math.abs(cloze.metrics.perplexity!.value / Math.exp(-mean) - 1) < 1e-4)

  const texts = [text.slice(0, 700), text.slice(900, 1300)]
  const rolling = await evaluateTask(model, parseTask(JSON.stringify(texts.map(text => ({ text }))), "r"))
  const total = (await model.loglikelihoodRolling(texts)).reduce((sum, { logprob }) => sum + logprob, 0)
  const words = texts.reduce((sum, text) => sum + text.split(/\s+/).length, 0)
  const bytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0)
  t.ok(Math.abs(rolling.metrics.wordPerplexity!.value / Math.exp(-total / words) - 1) < 1e-9)
  t.ok(Math.abs(rolling.metrics.bytePerplexity!.value / Math.exp(-total / bytes) - 1) < 1e-9)
  t.ok(Math.abs(rolling.metrics.bitsPerByte!.value / (-total / bytes / Math.LN2) - 1) < 1e-9)
  t.equal(rolling.metrics.bitsPerByte!.stdError, null)
  t.equal(native.handleCount(), before)
})

t.test("what is no task", async t => {
  const { documents } = parseTask('[{"text":"a"}]', "t")
  const refused = (task: unknown, code: string, message: RegExp) =>
    t.rejects(evaluateTask(model, task as Task), { code, message }, JSON.stringify(task))
  for (const task of [null, 5, {}, { kind: "loglikelihood" }])
    await refused(task, "ERR_OPTION", /the task is .*, expected/)
  await refused(
    { kind: "multiple_choice", documents },
    "ERR_OPTION",
    /"multiple_choice", expected "loglikelihood_rolling"/,
  )
  await refused({ kind: "multiple_choice", documents: [{}] }, "ERR_FORMAT", /document 1 is/)
  await refused({ kind: "loglikelihood_rolling", documents: [] }, "ERR_FORMAT", /no documents/)
  await refused({ kind: "loglikelihood_rolling", documents, delimiter: 1 }, "ERR_FORMAT", /targetDelimiter is 1/)
})
